"""Follow a job for a while, and take what an answer tells of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from streamer.client import Client
from streamer.events import Complete, Error, Gap, Output, Status, Truncated
from streamer.mcp.answers import Job, Verdict
from streamer.mcp.excerpt import Excerpt

__all__ = ["Following", "Progress"]

PROGRESS_S: Final = 2.0
LEAST_S: Final = 0.25
"""Even a call that does not wait gets what there is already."""
QUIET_S: Final = 0.5
"""So long without output after some means that a program waits, for input as a rule."""
LINE_CHARS: Final = 120

State = Literal["queued", "preparing", "compiling", "running"]
Progress = Callable[[float, str], Awaitable[None]]
"""Tells how many seconds a call has taken so far, and what happens."""


@dataclass(eq=False)
class Following:
    """One job, from the event after `last_event` on."""

    client: Client
    job_id: str
    last_event: int
    excerpt: Excerpt
    state: State | None = None
    verdict: Verdict | None = None
    notes: list[str] = field(default_factory=list)
    _position: int | None = None
    _line: str = ""
    _wrote: asyncio.Event = field(default_factory=asyncio.Event)
    _wrote_at: float = 0.0

    async def follow(
        self, wait_s: float, until: Literal["end", "output"], progress: Progress
    ) -> None:
        """Follow the job until it is over, `until` is reached, or `wait_s` has passed.

        Raises what `Client.events` raises.
        """
        loop = asyncio.get_running_loop()
        begun = told = loop.time()
        taking = asyncio.ensure_future(self._take())
        writing = asyncio.ensure_future(self._wrote.wait())
        try:
            while not taking.done():
                now = loop.time()
                if now >= told:
                    await progress(now - begun, self._doing(now - begun))
                    told = now + PROGRESS_S
                end = begun + max(wait_s, LEAST_S)
                if until == "output" and self._wrote.is_set():
                    end = min(end, self._wrote_at + QUIET_S)
                if now >= end:
                    return
                # Output may be what is waited for, so its first is told at once.
                on = {taking} if writing.done() else {taking, writing}
                await asyncio.wait(
                    on, timeout=min(end, told) - now, return_when=asyncio.FIRST_COMPLETED
                )
            await taking
        finally:
            for task in (taking, writing):
                task.cancel()
            await asyncio.gather(taking, writing, return_exceptions=True)

    async def _take(self) -> None:
        async with contextlib.aclosing(self.client.events(self.job_id, self.last_event)) as events:
            async for event in events:
                self._take_one(event.id, event.data)
                self.last_event = event.id
        if self.verdict is None and self.last_event:
            # The service has nothing after the last event: it was the end, which came earlier.
            self.verdict = verdict_of(await self.client.job(self.job_id))

    def _take_one(self, number: int, data: object) -> None:
        if isinstance(data, Output):
            self.excerpt.add(number, data.stream, data.data)
            self._line = data.data.rstrip().rpartition("\n")[2][-LINE_CHARS:]
            self._wrote_at = asyncio.get_running_loop().time()
            self._wrote.set()
        elif isinstance(data, Status):
            self.state, self._position = data.state, data.position
        elif isinstance(data, Truncated):
            self.notes.append(
                f"the service's output limit was reached: {data.dropped_bytes} bytes of "
                f"{data.stream} are lost; let the program write less, or into a file"
            )
        elif isinstance(data, Gap):
            until = "the end" if data.to is None else f"event {data.to}"
            self.notes.append(
                f"output from event {data.from_} to {until} is no longer kept; run it again if "
                "you need it"
            )
        elif isinstance(data, Complete):
            self.verdict = Verdict(
                reason=data.reason,
                exit_code=data.exit_code,
                signal=data.signal,
                duration_ms=data.duration_ms,
                cpu_time_ms=data.cpu_time_ms,
                peak_memory_bytes=data.peak_memory_bytes,
                output_truncated=data.output_truncated,
            )
        elif isinstance(data, Error):
            self.verdict = _failure(data.code, data.message)

    def _doing(self, seconds: float) -> str:
        doing = f"job {self.job_id}" + (f" is {self.state}" if self.state else "")
        if self.state == "queued" and self._position:
            doing += f", number {self._position} of those that wait"
        return f"{doing}, {seconds:.0f} s{f': {self._line}' if self._line else ''}"

    def answer(self, workspace: str | None = None) -> Job:
        """Return what there is to tell now."""
        texts = self.excerpt.texts()
        notes = list(self.notes)
        if self.state == "queued" and self.verdict is None:
            notes.append(
                "it has not begun: it waits for the program that runs in its workspace, or for its "
                "place; stop that program, or use another workspace"
            )
        if self.verdict is None:
            notes.append(
                f"it is not over: call wait with job_id={self.job_id} and after={self.last_event} "
                "for what comes next, or stop"
            )
        return Job(
            job_id=self.job_id,
            status="ended" if self.verdict else self.state or "running",
            workspace=workspace,
            stdout=texts["stdout"],
            stderr=texts["stderr"],
            last_event=self.last_event,
            omitted=self.excerpt.omitted,
            verdict=self.verdict,
            notes=notes,
        )


def verdict_of(document: Mapping[str, Any]) -> Verdict | None:
    """Return the verdict in the document of a job, or None if it is not over."""
    result = document.get("result")
    if not isinstance(result, dict):
        return None
    if "code" in result:
        return _failure(str(result["code"]), str(result.get("message", "")))
    return Verdict(
        reason=str(result.get("reason")),
        exit_code=result.get("exitCode"),
        signal=result.get("signal"),
        duration_ms=result.get("durationMs"),
        cpu_time_ms=result.get("cpuTimeMs"),
        peak_memory_bytes=result.get("peakMemoryBytes"),
        output_truncated=bool(result.get("outputTruncated")),
    )


def _failure(code: str, message: str) -> Verdict:
    return Verdict(
        reason="error",
        exit_code=None,
        signal=None,
        duration_ms=None,
        message=f"{message} ({code})",
    )
