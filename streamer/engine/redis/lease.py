"""The lease of one job to a worker of this node."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Literal

from streamer.engine.blobs import JobFile
from streamer.engine.interface import (
    Cancel,
    Control,
    Eof,
    Input,
    LeaseLost,
    Lost,
    Measure,
    Resize,
    Signal,
)
from streamer.engine.redis.link import Word
from streamer.engine.redis.scripts import Scripts
from streamer.engine.redis.wire import JOB, encoded
from streamer.engine.weight import weigh
from streamer.errors import EngineUnavailable
from streamer.model.events import TERMINAL_KINDS, Status, encode
from streamer.model.job import ResolvedJob

__all__ = ["RedisLease"]

Events = Sequence[tuple[str, bytes]]


class RedisLease:
    """See `streamer.engine.interface.Lease`.

    Each write has a number; a repetition, because its answer was lost, has the same number.
    """

    full = False

    def __init__(
        self,
        scripts: Scripts,
        fields: Sequence[Any],
        clock: Callable[[], float] | None,
        on_end: Callable[[RedisLease], None],
    ) -> None:
        job_id, token, age_s, spec, has_requests, has_input, attempt = fields
        self.job_id: str = job_id.decode()
        self.token: str = token.decode()
        self.job: ResolvedJob = JOB.decode(spec)
        self.attempt: int = attempt
        self._clock = time.monotonic if clock is None else clock
        self.accepted_at = self._clock() - float(age_s)
        self._scripts = scripts
        self._on_end = on_end
        self._number = 0
        self._unanswered: tuple[object, ...] | None = None
        self._status: tuple[tuple[str, str | None], Events] | None = None
        """The status event that was written last, which a repetition must not make anew."""
        self._ended_with: tuple[tuple[str, bytes], ...] | None = None
        self._over = False
        self._started = asyncio.Event()
        self._rung = bool(has_requests or has_input)
        """Whether there may be something for the program that has not started."""
        self._requested = asyncio.Event()
        """Set when there may be something for `control`."""
        self._given = asyncio.Event()
        """Set when there may be something for `inputs`."""
        self._cancel_told = False
        self._signals = self._resizes = self._measures = self._inputs = 0
        if has_requests:
            self._requested.set()

    # -- its log --------------------------------------------------------------------------

    async def append(self, events: Events) -> None:
        self._check(events)
        await self._write(events)

    async def room(self) -> None:
        """Return at once: a program cannot be held for readers in other processes."""

    async def state(
        self, state: Literal["preparing", "compiling", "running"], policy: str | None = None
    ) -> None:
        self._check(())
        if self._status is None or self._status[0] != (state, policy):
            elapsed_ms = int((self._clock() - self.accepted_at) * 1000)
            self._status = ((state, policy), [encode(Status(state, t=elapsed_ms))])
        await self._write(self._status[1], state, policy or "")
        self._status = None
        if state != "preparing" and not self._started.is_set():
            self._started.set()
            if self._rung:
                self.look()

    async def _write(self, events: Events, state: str = "", policy: str = "") -> None:
        said = (state, policy, *events)
        number = self._number_of(said)
        words = (self.job_id, self.token, number, state, policy, *_flat(events))
        answer = await self._scripts.ask("append", *words)
        self._answered(said)
        if answer == b"lost":
            self.end()
            raise LeaseLost(f"the lease of job {self.job_id} is over")

    async def finish(self, events: Events, files: Sequence[JobFile] = ()) -> bool:
        terminal = [kind in TERMINAL_KINDS for kind, _ in events]
        if sum(terminal) != 1 or not terminal[-1]:
            raise ValueError("Lease.finish needs exactly one terminal event, as the last one")
        if self._over:
            return self._ended_with == tuple(events)
        said = ("finish", *events, *files)
        number = self._number_of(said)
        of_files: tuple[Word, ...] = ("", "", 0)
        if files:
            ids = " ".join(file.blob.id for file in files)
            of_files = (encoded(tuple(files)), ids, weigh(tuple(files)))
        words = (self.job_id, self.token, number, *of_files, *_flat(events))
        ended = bool(await self._scripts.ask("finish", *words))
        self._answered(said)
        if ended:
            self._ended_with = tuple(events)
        self.end()
        return ended

    async def release(self, *, ran: bool = False) -> bool:
        if self._over:
            return False
        released = bool(await self._scripts.call("release", self.job_id, self.token, int(ran)))
        if released:
            self.end()
        return released

    def _number_of(self, said: tuple[object, ...]) -> int:
        if said != self._unanswered:
            self._number += 1
            self._unanswered = said
        return self._number

    def _answered(self, said: tuple[object, ...]) -> None:
        if self._unanswered == said:
            self._unanswered = None

    def _check(self, events: Events) -> None:
        if self._over:
            raise LeaseLost(f"the lease of job {self.job_id} is over")
        if any(kind in TERMINAL_KINDS for kind, _ in events):
            raise ValueError("a terminal event ends the job: write it with Lease.finish")

    async def tell_usage(self, stats: bytes) -> bool:
        self._check(())
        heard = await self._scripts.ask("usage", self.job_id, self.token, stats)
        if heard == b"lost":
            self.end()
            raise LeaseLost(f"the lease of job {self.job_id} is over")
        return bool(heard)

    # -- what the API half sends ----------------------------------------------------------

    def look(self) -> None:
        """Let it ask whether something was sent."""
        self._rung = True
        self._requested.set()
        self._given.set()

    def end(self) -> None:
        """Take note that the job is over, or another's."""
        if not self._over:
            self._over = True
            for event in (self._requested, self._given, self._started):
                event.set()
            self._on_end(self)

    async def control(self) -> AsyncIterator[Control]:
        while True:
            await self._requested.wait()
            if self._over:
                break
            self._requested.clear()
            try:
                item = await self._request()
            except EngineUnavailable:
                self._requested.set()
                raise
            if item is not None:
                self._requested.set()  # there may be more
                yield item
        if self._ended_with is None:
            yield Lost()

    async def _request(self) -> Control | None:
        words = (self.job_id, self.token, self._signals, self._resizes, self._measures)
        held, *answer = await self._scripts.ask("control", *words)
        if held == b"over":
            self.end()
            return None
        cancelled, resizes, measures, resize, signal = answer
        if cancelled and not self._cancel_told:
            self._cancel_told = True
            return Cancel()
        if resize is not None:
            self._resizes = resizes
            cols, rows = resize.split(b",")
            return Resize(int(cols), int(rows))
        if measures > self._measures:
            self._measures = measures
            return Measure()
        if signal is not None:
            self._signals += 1
            return Signal(int(signal))
        return None

    async def inputs(self) -> AsyncIterator[Input | Eof]:
        await self._started.wait()
        while True:
            await self._given.wait()
            if self._over:
                return
            self._given.clear()
            try:
                state, *found = await self._scripts.ask(
                    "input", self.job_id, self.token, self._inputs
                )
            except EngineUnavailable:
                self._given.set()
                raise
            if state == b"over":
                self.end()
            elif state == b"item":
                self._inputs += 1
                self._given.set()  # there may be more
                if found[0][:1] == b"E":
                    yield Eof()
                    return
                yield Input(found[0][1:])


def _flat(events: Events) -> Iterable[Word]:
    return itertools.chain.from_iterable(events)
