"""Run one program of a job in its sandbox: variables, start, end, the rest of its output."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from streamer.errors import SandboxFailure
from streamer.model.job import ResolvedJob
from streamer.sandbox.network.proxy import proxy_environment
from streamer.sandbox.running import Running
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import Run, RunEnd
from streamer.worker.output import OutputPump
from streamer.worker.stop import Stop
from streamer.worker.verdict import StopReason
from streamer.worker.writer import ENGINE_TIMEOUT_S

__all__ = ["Patience", "ProgramRun", "base_environment", "environment"]

END_TIMEOUT_S: Final = 5.0
"""How long to wait, after everything was killed, until the sandbox reports the end."""

GENTLE: Final = frozenset({"cancelled", "wall_time", "shutting_down"})
"""Reasons with which the program first gets SIGTERM and a grace period."""

USER: Final = "nobody"
"""The user name in the variables; in bwrap /etc/passwd has it."""


TERM: Final = "xterm-256color"
"""What every terminal emulator in use understands, and every system describes."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds.

    `kill_grace_s` is the time between SIGTERM and SIGKILL; `linger_s` is how long processes that
    hold the program's output open may continue after the program's own end.
    """

    kill_grace_s: float
    linger_s: float


def base_environment(path: str, home: str) -> dict[str, str]:
    """Return what every program finds; `path` is the jobs' PATH, `home` the workspace."""
    return {
        "PATH": path,
        "HOME": home,
        "LANG": "C.UTF-8",
        "LOGNAME": USER,
        "USER": USER,
        "TERM": "dumb",
        "TMPDIR": "/tmp",  # noqa: S108 - the sandbox's
    }


def environment(job: ResolvedJob, path: str, home: str) -> dict[str, str]:
    """Return the whole environment of a job's program."""
    base = base_environment(path, home)
    if job.terminal is not None:
        base["TERM"] = TERM
    proxy = proxy_environment() if job.allow_hosts else {}
    return {**base, **proxy, **job.env}


class ProgramRun:
    def __init__(
        self,
        sandbox: Sandbox,
        pump: OutputPump,
        flush: Callable[[], Awaitable[None]],
        stop: Stop,
        patience: Patience,
        on_start: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        """`flush` waits until what the pump has passed on is written.

        `on_end` is called at the program's own end; processes that it left may still run.
        """
        self._sandbox = sandbox
        self._pump = pump
        self._flush = flush
        self._stop = stop
        self._patience = patience
        self._on_start = on_start
        self._on_end = on_end
        self.stopped: StopReason | None = None
        """Why the job was stopped, if that was before the program's own end."""

    async def run(self, run: Run) -> RunEnd:
        """Return its end, when everything it started is dead and all its output is written."""
        running = await self._sandbox.run(run)
        self._on_start()
        pumping = asyncio.create_task(self._pump.run())
        pumping.add_done_callback(self._pump_ended)
        try:
            try:
                end = await self._supervise(running, pumping, run)
            except Exception:
                with contextlib.suppress(Exception):
                    await self._write_rest(pumping)  # what it has written it has written
                raise
            await self._write_rest(pumping)
            return end
        finally:
            if not pumping.done():
                pumping.cancel()
                await asyncio.gather(pumping, return_exceptions=True)

    async def _write_rest(self, pumping: asyncio.Task[None]) -> None:
        self._on_end()
        self._pump.read_rest()
        async with asyncio.timeout(ENGINE_TIMEOUT_S):
            await pumping
            await self._flush()

    async def _supervise(self, running: Running, pumping: asyncio.Task[None], run: Run) -> RunEnd:
        """Wait for the program's end; kill it when the job is stopped or at its wall time limit."""
        loop = asyncio.get_running_loop()
        due = loop.time() + run.limits.wall_time_s
        try:
            await self._until_exit(running, run)
            if not running.exited.done():
                await self._sandbox.kill()
            elif running.exited.exception() is None:
                self._on_end()
                self._pump.hurry()
                await self._linger(running, pumping, due - loop.time())
            if not running.ended.done():
                await asyncio.wait({running.ended}, timeout=END_TIMEOUT_S)
            if not running.ended.done():
                await self._sandbox.kill()
                await asyncio.wait({running.ended}, timeout=END_TIMEOUT_S)
            if not running.ended.done():
                raise SandboxFailure("the sandbox did not report the end of its program")
            return running.ended.result()
        except asyncio.CancelledError:
            with contextlib.suppress(SandboxFailure):
                await self._sandbox.kill()
            raise

    async def _until_exit(self, running: Running, run: Run) -> None:
        """Wait for the program's own end; after a stop only for the grace period."""
        # A stop that comes while this task is being woken is after the end.
        running.exited.add_done_callback(self._look_for_stop)
        watched: set[asyncio.Future[Any]] = {running.exited, self._stop.requested}
        await asyncio.wait(
            watched, timeout=run.limits.wall_time_s, return_when=asyncio.FIRST_COMPLETED
        )
        if not running.exited.done():
            self._stop.request("wall_time")  # without effect if there is another reason already
            self.stopped = self._stop.reason
            if self.stopped in GENTLE:
                self._sandbox.signal(signal.SIGTERM)
                if run.stdio.is_terminal:
                    self._sandbox.signal(signal.SIGHUP)  # shells on a terminal ignore SIGTERM
                self._sandbox.signal(signal.SIGCONT)  # a stopped program would not handle SIGTERM
                await asyncio.wait({running.exited}, timeout=self._patience.kill_grace_s)

    def _look_for_stop(self, _: asyncio.Future[None]) -> None:
        self.stopped = self._stop.reason

    async def _linger(self, running: Running, pumping: asyncio.Task[None], left_s: float) -> None:
        """Let processes that hold the output open continue, for `linger_s` at most."""
        if self.stopped is None and not running.ended.done():
            holding: set[asyncio.Future[Any]] = {pumping, running.ended, self._stop.requested}
            await asyncio.wait(
                holding,
                timeout=min(self._patience.linger_s, max(0.0, left_s)),
                return_when=asyncio.FIRST_COMPLETED,
            )
        if self.stopped is None:
            self._sandbox.leave_rest()
        else:
            self._sandbox.end_rest()

    def _pump_ended(self, pumping: asyncio.Task[None]) -> None:
        # Nobody reads the program's output any more; `run` raises the reason.
        if not pumping.cancelled() and pumping.exception() is not None:
            self._stop.request("lost")
