"""Follow jobs: their events, over lost connections, and their output as bytes.

A stream is resumed after the last event that arrived, so a caller sees every event once, in order,
and the terminal event last.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from streamer.client.connection import MAX_RETRY_AFTER_S, TRANSIENT, Connection, pause_s
from streamer.client.documents import JobDocument
from streamer.client.jobs import JobVerbs, job_path
from streamer.client.problem import ServiceProblem, check, not_a_service
from streamer.eventlog.frames import EventParser
from streamer.model.events import KINDS, TERMINAL_KINDS, AnyEvent, numbered

__all__ = ["StreamVerbs"]

MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
MAX_MERGED: Final = 100
"""How many jobs a service follows in one stream."""


class StreamVerbs(JobVerbs):
    """How jobs are followed."""

    async def events(
        self, job_id: str, after: int = 0, *, stats: bool = False
    ) -> AsyncGenerator[AnyEvent, None]:
        """Yield a job's events after number `after`, then live ones, up to the terminal event.

        With `stats` also what it uses (`streamer.events.Stats`), once a second while its programs
        run; such an event has the number of the one before. Yields nothing if `after` is the
        terminal event. Raises `UnknownJob` if the job is unknown or has expired.
        """
        url = self._connection.url(f"api/stream/{quote(job_id, safe='')}")
        if stats:
            url = url.update_query({"stats": "1"})
        frames = _frames(self._connection, url, str(after) if after else "")
        async with aclosing(frames):
            async for frame in frames:
                # Only an event `stats` has no number of its own.
                number = after if frame.kind == "stats" and not frame.id else frame.number(frame.id)
                event = frame.event(number)
                after = event.id
                yield event
                if event.kind in TERMINAL_KINDS:
                    return

    async def follow(self, job_ids: Sequence[str]) -> AsyncGenerator[tuple[str, AnyEvent], None]:
        """Yield the events of up to 100 jobs over one connection, each with the id of its job.

        In the order in which they happen, up to the last terminal event. Raises `UnknownJob` if one
        of the jobs is unknown or has expired.
        """
        if not 1 <= len(job_ids) <= MAX_MERGED:
            raise ValueError(f"give 1 to {MAX_MERGED} jobs, not {len(job_ids)}")
        url = self._connection.url("api/stream").extend_query([("job", one) for one in job_ids])
        place = {job_id: at for at, job_id in enumerate(job_ids)}
        left = set(job_ids)
        frames = _frames(self._connection, url, "")
        async with aclosing(frames):
            async for frame in frames:
                job_id = frame.job_id
                numbers = frame.id.split(".")
                if job_id not in place or len(numbers) != len(job_ids):
                    raise not_a_service(200)
                event = frame.event(frame.number(numbers[place[job_id]]))
                yield job_id, event
                if event.kind in TERMINAL_KINDS:
                    left.discard(job_id)
                    if not left:
                        return

    async def wait(self, job_id: str) -> JobDocument:
        """Wait for the end of a job, over lost connections; return its document, with the result.

        Raises `UnknownJob` if the job is unknown or has expired.
        """
        events = self.events(job_id)
        async with aclosing(events):
            async for _ in events:
                pass
        return await self.job(job_id)

    def output(
        self, job_id: str, stream: Literal["stdout", "stderr"] = "stdout", *, follow: bool = True
    ) -> AsyncGenerator[bytes, None]:
        """Yield what a program writes, as bytes, up to the end of the job, over lost connections.

        Without `follow` only what it has written so far. It is byte for byte the output of a job
        with ``output_encoding="base64"``; otherwise invalid UTF-8 is replaced by U+FFFD.
        """
        if stream not in ("stdout", "stderr"):
            raise ValueError(f'the stream is "stdout" or "stderr", not {stream!r}')
        url = self._connection.url(job_path(job_id, f"/output/{stream}"))
        return _replayed(self._connection, url if follow else url.update_query({"follow": "0"}))

    def recording(self, job_id: str) -> AsyncGenerator[bytes, None]:
        """Yield a recording of a job's output for asciinema (asciicast v2), to the job's end."""
        return _replayed(self._connection, self._connection.url(job_path(job_id, "/cast")))


@dataclass(frozen=True, slots=True)
class _Frame:
    """An event as it came; `id` is empty for one that has no number of its own."""

    kind: str
    data: bytes
    id: str

    def number(self, text: str) -> int:
        try:
            return int(text)
        except ValueError:
            raise not_a_service(200) from None

    @property
    def job_id(self) -> str:
        try:
            return msgspec.json.decode(self.data, type=_OfJob).job_id
        except msgspec.MsgspecError:
            raise not_a_service(200) from None

    def event(self, number: int) -> AnyEvent:
        try:
            return numbered(number, self.kind, self.data)
        except (ValueError, msgspec.MsgspecError):
            raise not_a_service(200) from None


class _OfJob(msgspec.Struct, rename="camel"):
    job_id: str


async def _frames(connection: Connection, url: URL, last: str) -> AsyncGenerator[_Frame, None]:
    """Yield the events after the one with the id `last`, and go on where a connection broke.

    Ends only when the service has no more; the caller stops at what it knows to be the last event.
    """
    failures = 0
    while True:
        asked_s = 0.0
        try:
            attempt = _connected(connection, url, last)
            async with aclosing(attempt):
                async for frame in attempt:
                    last, failures = frame.id or last, 0
                    yield frame
        except _Over:
            return
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError):
            pass  # resumed below, after the last event that arrived
        except ServiceProblem as problem:
            if problem.status not in TRANSIENT:
                raise
            asked_s = min(problem.retry_after or 0.0, MAX_RETRY_AFTER_S)
        await asyncio.sleep(max(asked_s, pause_s(failures)))
        failures += 1


async def _connected(connection: Connection, url: URL, last: str) -> AsyncGenerator[_Frame, None]:
    headers = {"Accept": "text/event-stream"}
    if last:
        headers["Last-Event-ID"] = last
    async with connection.http.get(url, headers=headers) as response:
        await check(response)
        if response.status == 204 and last:
            raise _Over
        if response.status != 200:
            raise not_a_service(response.status)
        parser = EventParser(most_bytes=MAX_EVENT_BYTES)
        async for chunk in response.content.iter_any():
            try:
                found = parser.feed(chunk)
            except ValueError:
                raise not_a_service(response.status) from None
            for number, kind, data in found:
                if kind in KINDS:  # a newer service may have further kinds
                    yield _Frame(kind, data.encode(), number)


class _Over(Exception):
    """The service has no events after the one seen last: that was the terminal event."""


async def _replayed(connection: Connection, url: URL) -> AsyncGenerator[bytes, None]:
    """Yield a body that begins in the same way each time it is asked for.

    After a lost connection it is asked for again, and what has come already is left out.
    """
    come, failures = 0, 0
    while True:
        skip, before = come, come
        try:
            async with connection.http.get(url) as response:
                await check(response)
                if response.status != 200:
                    raise not_a_service(response.status)
                async for chunk in response.content.iter_any():
                    rest = chunk[skip:]
                    skip = max(0, skip - len(chunk))
                    if rest:
                        come += len(rest)
                        yield rest
                return
        except ServiceProblem as problem:
            if problem.status not in TRANSIENT or failures >= connection.retries:
                raise
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError):
            if come == before and failures >= connection.retries:
                raise
        failures = 0 if come > before else failures + 1
        await asyncio.sleep(pause_s(failures))
