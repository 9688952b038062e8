"""Drive a sandbox with our init inside, over its socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

from streamer.errors import SandboxFailure
from streamer.model.job import Limits, SourceFile
from streamer.sandbox.drivers.channel import InitChannel
from streamer.sandbox.drivers.netns import check_own_network
from streamer.sandbox.drivers.spawn import Spawned, spawn
from streamer.sandbox.drivers.stopped import until_stopped
from streamer.sandbox.shape import Run, RunEnd, Use
from streamer.spi import LaunchPlan

__all__ = ["Gated"]

log: Final = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 20.0
"""A sandbox that is not up by then never will be; a loaded machine needs some seconds."""

ANSWER_TIMEOUT_S: Final = 5.0
"""For the init to answer what it is asked."""

TIDY_TIMEOUT_S: Final = 0.25
"""For a wrapper to end by itself once there is nothing in its sandbox."""

END_TIMEOUT_S: Final = 5.0
"""For the kernel to take down what was killed."""

STDERR_BYTES: Final = 4096


class Gated:
    """A sandbox with our init inside."""

    has_init: ClassVar[bool] = True

    def __init__(self, plan: LaunchPlan, command: Sequence[str], *, walk_disk: bool) -> None:
        """Start it: `command` is the plan's, in its group and as its user.

        Raises `SandboxFailure` where it cannot be started.
        """
        self._plan = plan
        self._walk_disk = walk_disk
        self._init_pid = 0
        self._init_pidfd = -1
        self._init_ended = asyncio.Event()
        self._started = 0.0
        self._taken_down = False
        self._resists = False
        self._words = ""
        with contextlib.ExitStack() as unless_started:
            self._complaints, stderr = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            unless_started.callback(os.close, self._complaints)
            with contextlib.ExitStack() as theirs:
                theirs.callback(os.close, stderr)
                ours, control = socket.socketpair()
                theirs.callback(control.close)
                self.channel = InitChannel(ours)
                unless_started.callback(self.channel.close)
                try:
                    self._wrapper: Spawned = spawn(
                        command,
                        env=plan.env,
                        cwd=plan.cwd,
                        stdin=control.fileno(),
                        stdout=subprocess.DEVNULL,
                        stderr=stderr,
                    )
                except OSError as error:
                    raise SandboxFailure(f"{plan.argv[0]} cannot be started: {error}") from error
            unless_started.pop_all()

    @property
    def home(self) -> str:
        """The workspace as programs see it."""
        return self._plan.workspace

    @property
    def of_root(self) -> bool:
        """Whether the init, and so the programs, have the host's root as their user."""
        status = Path(f"/proc/{self._init_pid}/status").read_text()
        uids = next(line for line in status.splitlines() if line.startswith("Uid:"))
        return "0" in uids.split()[1:]

    @property
    def wrapper_exit(self) -> int | None:
        """The wrapper's exit code, or None while it runs."""
        return self._wrapper.exit_code

    async def come_up(self) -> None:
        """Wait for the init. Raises `SandboxFailure` if the sandbox ends without it."""
        exited = asyncio.ensure_future(self._wrapper.wait())
        hello = asyncio.ensure_future(self.channel.hello())
        try:
            await asyncio.wait(
                {exited, hello}, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
            if not hello.done() and not exited.done():
                raise SandboxFailure(
                    f"the init gave no answer within {START_TIMEOUT_S:g} s: does the wrapper start "
                    "it, and pass standard input on?"
                )
            if not hello.done():
                raise SandboxFailure("the sandbox did not come up")
            # The init waits for us, so this number is not yet anybody else's.
            self._init_pid = hello.result()
            self._init_pidfd = os.pidfd_open(self._init_pid)
            asyncio.get_running_loop().add_reader(self._init_pidfd, self._init_has_ended)
        finally:
            exited.cancel()
            hello.cancel()

    async def put_files(self, files: Sequence[SourceFile], limits: Limits) -> None:
        """Have the init write the files, as the sandbox's user, below its working directory."""
        await self.channel.put_files(files, limits, walk_disk=self._walk_disk)

    async def listen(self, port: int) -> socket.socket:
        """Have the init listen, in a network that is not ours."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                listener = await self.channel.listen(port)
        except TimeoutError:
            raise SandboxFailure("the init does not listen for the proxy") from None
        with contextlib.ExitStack() as unless_it_serves:
            unless_it_serves.callback(listener.close)
            check_own_network(listener)
            unless_it_serves.pop_all()
        return listener

    async def open_path(self, path: str, flags: int, mode: int) -> int:
        """Have the init open it, with the rights of the sandbox's user."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self.channel.open_path(path, flags, mode)
        except TimeoutError:
            raise SandboxFailure("the init does not open a file") from None

    async def use(self) -> Use:
        """Ask the init."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self.channel.use(walk_disk=self._walk_disk)
        except TimeoutError:
            raise SandboxFailure("the init does not tell what is used") from None

    async def start(self, run: Run) -> None:
        """Have the init start a program."""
        self._started = time.monotonic()
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self.channel.start(
                    run.argv,
                    env=run.env,
                    cwd=run.cwd or self.home,
                    limits=run.limits,
                    stdio=run.stdio.theirs,
                    walk_disk=self._walk_disk,
                )
        except TimeoutError:
            raise SandboxFailure("the init does not take the program") from None

    async def exited(self) -> None:
        """Wait for the init to say so."""
        try:
            await self.channel.exited()
        except SandboxFailure as failure:
            if not self._taken_down:
                raise await self._with_last_words(failure) from None

    def end_rest(self) -> None:
        """Have the init do it; where it cannot be asked, `kill` is what is left."""
        self.channel.kill()

    async def end(self) -> RunEnd:
        """Wait for the init's report, or say what we did if it was killed without one.

        Raises `SandboxFailure` also where the job has stopped the init, and takes both down then.
        """
        ended = asyncio.ensure_future(self.channel.end())
        stopped = asyncio.ensure_future(until_stopped(self._init_pid))
        try:
            await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await self._take_down()
                self.channel.close()  # whoever waits for the program hears it too
                raise SandboxFailure("the job has stopped the init, which then watches no limit")
        finally:
            stopped.cancel()
            ended.cancel()
            await asyncio.gather(ended, stopped, return_exceptions=True)
        try:
            return ended.result()
        except SandboxFailure as failure:
            if not self._taken_down:
                raise await self._with_last_words(failure) from None
            wall_us = int((time.monotonic() - self._started) * 1e6)
            return RunEnd(signal.SIGKILL, "killed", None, None, wall_us)

    async def _with_last_words(self, failure: SandboxFailure) -> SandboxFailure:
        """Return a failure with what the init and the wrapper said when they ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TIDY_TIMEOUT_S):
                await self._wrapper.wait()
        words = self.said().strip()
        return SandboxFailure(f"{failure}: {words}") if words else failure

    def said(self) -> str:
        """Return what the wrapper and the init have written to standard error so far."""
        with contextlib.suppress(BlockingIOError):
            if self._complaints >= 0:
                self._words += os.read(self._complaints, STDERR_BYTES).decode(errors="replace")
        return self._words

    def signal(self, number: int) -> None:
        """Signal the program's process group."""
        self.channel.signal(number)

    async def kill(self) -> None:
        """Ask the init, which keeps the usage; if it does not answer, take the sandbox down."""
        if self.channel.kill():
            ended = asyncio.ensure_future(self.channel.end())
            await asyncio.wait({ended}, timeout=1.0)
            if ended.done():
                ended.exception()
                return
            ended.cancel()
        self._taken_down = True
        if not await self._take_down():
            raise SandboxFailure(f"sandbox process {self._wrapper.pid} does not end after SIGKILL")
        # Nobody is left to hold the other end, so the waits for the init's report end now.
        self.channel.close()

    async def close(self) -> None:
        """End the sandbox and wait until nothing of it is left, however long that takes."""
        # The init sees the end of its socket, kills what is left, and ends; then so does
        # the wrapper. Only if that takes too long is it done from outside.
        self.channel.close()
        try:
            if not await self._gone(1.0) and not self._resists and not await self._take_down():
                log.error("sandbox process %d does not end after SIGKILL", self._wrapper.pid)
            # What is held in the kernel (by a disk that hangs) may still end one day.
            await self._wrapper.wait()
            await self._init_gone()
        finally:
            self._close_descriptors()

    def _close_descriptors(self) -> None:
        if self._init_pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._init_pidfd)
            # Where its wrapper was killed with it and this process takes in orphans (as
            # the first of a container does), it is ours to reap.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self._init_pidfd, os.WEXITED | os.WNOHANG)
            os.close(self._init_pidfd)
            self._init_pidfd = -1
        if self._complaints >= 0:
            self.said()  # what was said last is asked for later
            os.close(self._complaints)
            self._complaints = -1

    async def _gone(self, timeout_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wrapper.wait()
                await self._init_gone()
                return True
        return False

    async def _take_down(self) -> bool:
        """Kill from outside, the init first, so that its namespace dies with it."""
        if self._init_pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init_pidfd, signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_TIMEOUT_S):
                    await self._init_gone()
            # A wrapper that is killed cannot tidy up: firejail leaves its notes in /run.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TIDY_TIMEOUT_S):
                    await self._wrapper.wait()
        self._wrapper.kill()
        self._resists = not await self._gone(END_TIMEOUT_S)
        return not self._resists

    async def _init_gone(self) -> None:
        """Wait for the init's pidfd: pid 1 is gone only after its whole namespace."""
        if self._init_pidfd >= 0:
            await self._init_ended.wait()

    def _init_has_ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._init_pidfd)
        self._init_ended.set()
