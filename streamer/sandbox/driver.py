"""Drive one sandbox: start it, run programs in it one after another, end it.

`Sandbox` is what the runner of a job sees. There are two: `GatedSandbox` has our init
inside, so it knows the kernel's verdict and ends exactly what the program started;
`DirectSandbox` (`streamer.sandbox.direct`) serves backends that cannot take the init.

Every wait here has a bound, except that of `close` for what resists SIGKILL: whoever closes
decides how long that may hold up something else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

from streamer.errors import SandboxFailure
from streamer.model.job import Limits, SourceFile, Step
from streamer.sandbox.cgroups import JobCgroup
from streamer.sandbox.channel import InitChannel, ProgramEnd
from streamer.sandbox.direct import DirectSandbox
from streamer.sandbox.seccomp import job_filter
from streamer.sandbox.spawn import Spawned, spawn, start_command
from streamer.sandbox.stopped import until_stopped
from streamer.spi import Backend, Host, LaunchPlan, SandboxJob

__all__ = ["GatedSandbox", "Sandbox", "open_sandbox"]

log: Final = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 20.0
"""A sandbox that is not up by then never will be; a loaded machine needs some seconds."""

TIDY_TIMEOUT_S: Final = 0.25
"""For a wrapper to end by itself once there is nothing in its sandbox."""

END_TIMEOUT_S: Final = 5.0
"""For the kernel to take down what was killed."""

STDERR_BYTES: Final = 4096


class Sandbox(Protocol):
    """One job's sandbox, open."""

    @property
    def home(self) -> str:
        """The job's folder as the job sees it."""

    @property
    def of_root(self) -> bool:
        """Whether its programs are seen to have the host's root as their user."""

    async def put_files(self, files: Sequence[SourceFile], limits: Limits) -> None:
        """Write the job's files; once, before the first program.

        Raises `FilesDoNotFit` where the disk limit has no room for them.
        """

    async def listen(self, port: int) -> socket.socket:
        """Return a socket that listens on the sandbox's own loopback; before the first program.

        Raises `SandboxFailure` where the sandbox has none of its own.
        """

    async def start(self, step: Step, env: Mapping[str, str], stdio: tuple[int, int, int]) -> None:
        """Start a program with these descriptors, which stay the caller's to close."""

    async def exited(self) -> None:
        """Wait until the program itself has ended; what it started may go on."""

    def end_rest(self) -> None:
        """Kill what the program has left; `end` tells when that is done."""

    async def end(self) -> ProgramEnd:
        """Wait until the program and all that it started are dead, and tell how it ended."""

    def signal(self, number: int) -> None:
        """Send a signal to the program."""

    async def kill(self) -> None:
        """Kill the program and all that it started, by ever harder means.

        Then `end` has its answer. Raises `SandboxFailure` when it did not work in time.
        """


class GatedSandbox:
    """A sandbox with our init inside."""

    def __init__(
        self,
        wrapper: Spawned,
        channel: InitChannel,
        plan: LaunchPlan,
        complaints: int,
        *,
        walk_disk: bool,
    ) -> None:
        self._wrapper = wrapper
        self._channel = channel
        self._plan = plan
        self._complaints = complaints
        self._walk_disk = walk_disk
        self._init_pid = 0
        self._init_pidfd = -1
        self._init_ended = asyncio.Event()
        self._started = 0.0
        self._taken_down = False
        self._resists = False
        self._words = ""

    @property
    def home(self) -> str:
        """The job's folder as the job sees it."""
        return self._plan.workspace

    @property
    def of_root(self) -> bool:
        """Whether the init, and so the programs, have the host's root as their user."""
        status = Path(f"/proc/{self._init_pid}/status").read_text()
        uids = next(line for line in status.splitlines() if line.startswith("Uid:"))
        return "0" in uids.split()[1:]

    async def come_up(self) -> None:
        """Wait for the init. Raises `SandboxFailure` if the sandbox ends without it."""
        exited = asyncio.ensure_future(self._wrapper.wait())
        hello = asyncio.ensure_future(self._channel.hello())
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
        """Have the init write the files, as the job's user, below its working directory."""
        await self._channel.put_files(files, limits, walk_disk=self._walk_disk)

    async def listen(self, port: int) -> socket.socket:
        """Have the init listen."""
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                return await self._channel.listen(port)
        except TimeoutError:
            raise SandboxFailure("the init does not listen for the proxy") from None

    async def start(self, step: Step, env: Mapping[str, str], stdio: tuple[int, int, int]) -> None:
        """Have the init start a program."""
        self._started = time.monotonic()
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._channel.start(
                    step.argv,
                    env=env,
                    cwd=self.home,
                    limits=step.limits,
                    stdio=stdio,
                    walk_disk=self._walk_disk,
                )
        except TimeoutError:
            raise SandboxFailure("the init does not take the program") from None

    async def exited(self) -> None:
        """Wait for the init to say so."""
        try:
            await self._channel.exited()
        except SandboxFailure as failure:
            if not self._taken_down:
                raise await self._with_last_words(failure) from None

    def end_rest(self) -> None:
        """Have the init do it; where it cannot be asked, `kill` is what is left."""
        self._channel.kill()

    async def end(self) -> ProgramEnd:
        """Wait for the init's report, or say what we did if it was killed without one.

        Raises `SandboxFailure` also where the job has stopped the init, and takes both down then.
        """
        ended = asyncio.ensure_future(self._channel.end())
        stopped = asyncio.ensure_future(until_stopped(self._init_pid))
        try:
            await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await self._take_down()
                self._channel.close()  # whoever waits for the program hears it too
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
            return ProgramEnd(signal.SIGKILL, "killed", None, None, wall_us)

    async def _with_last_words(self, failure: SandboxFailure) -> SandboxFailure:
        """Return a failure with what the init and the wrapper said when they ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TIDY_TIMEOUT_S):
                await self._wrapper.wait()
        self._words += _read_some(self._complaints)
        words = self._words.strip()
        return SandboxFailure(f"{failure}: {words}") if words else failure

    def signal(self, number: int) -> None:
        """Signal the program's process group."""
        self._channel.signal(number)

    async def kill(self) -> None:
        """Ask the init, which keeps the usage; if it does not answer, take the sandbox down."""
        if self._channel.kill():
            ended = asyncio.ensure_future(self._channel.end())
            await asyncio.wait({ended}, timeout=1.0)
            if ended.done():
                ended.exception()
                return
            ended.cancel()
        self._taken_down = True
        if not await self._take_down():
            raise SandboxFailure(f"sandbox process {self._wrapper.pid} does not end after SIGKILL")
        # Nobody is left to hold the other end, so the waits for the init's report end now.
        self._channel.close()

    async def close(self) -> None:
        """End the sandbox and wait until nothing of it is left, however long that takes."""
        # The init sees the end of its socket, kills what is left, and ends; then so does
        # the wrapper. Only if that takes too long is it done from outside.
        self._channel.close()
        try:
            if not await self._gone(1.0) and not self._resists and not await self._take_down():
                log.error("sandbox process %d does not end after SIGKILL", self._wrapper.pid)
            # What is held in the kernel (by a disk that hangs) may still end one day.
            await self._wrapper.wait()
            await self._init_gone()
        finally:
            if self._init_pidfd >= 0:
                asyncio.get_running_loop().remove_reader(self._init_pidfd)
                # Where its wrapper was killed with it and this process takes in orphans (as
                # the first of a container does), it is ours to reap.
                with contextlib.suppress(ChildProcessError):
                    os.waitid(  # noqa: ASYNC222 - WNOHANG
                        os.P_PIDFD, self._init_pidfd, os.WEXITED | os.WNOHANG
                    )
                os.close(self._init_pidfd)
                self._init_pidfd = -1

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


@asynccontextmanager
async def open_sandbox(
    backend: Backend,
    host: Host,
    workspace: Path,
    describe: Callable[[tuple[str, ...]], SandboxJob],
    cgroup: JobCgroup | None = None,
    *,
    strict_filter: bool = False,
) -> AsyncIterator[Sandbox]:
    """Start a sandbox of `backend` for one job, and leave nothing of it behind.

    `describe` makes what the backend is told of a given command; everything that is started
    is in `cgroup` from its first moment. Raises `SandboxFailure` with what the wrapper said,
    for the operator.
    """

    @asynccontextmanager
    async def session(argv: tuple[str, ...]) -> AsyncIterator[LaunchPlan]:
        async with backend.session(describe(argv), workspace) as plan:
            if not isinstance(plan, LaunchPlan):
                raise SandboxFailure(
                    f"plan() returned a value of type {type(plan).__name__}: "
                    "return a streamer.spi.LaunchPlan"
                )
            yield plan

    if not backend.gated:
        direct = DirectSandbox(session, workspace, host, cgroup)
        try:
            yield direct
        finally:
            await direct.close()
        return
    async with session((str(host.init), "serve")) as plan:
        complaints, stderr = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            ours, theirs = socket.socketpair()
            channel = InitChannel(ours)
            try:
                with theirs:
                    wrapper = spawn(
                        start_command(plan, host, cgroup),
                        env=plan.env,
                        cwd=plan.cwd,
                        stdin=theirs.fileno(),
                        stdout=subprocess.DEVNULL,
                        stderr=stderr,
                    )
            except OSError as error:
                channel.close()
                raise SandboxFailure(f"{plan.argv[0]} cannot be started: {error}") from error
            sandbox = GatedSandbox(
                wrapper, channel, plan, complaints, walk_disk=backend.host_workspace
            )
            try:
                try:
                    await sandbox.come_up()
                except SandboxFailure as failure:
                    await sandbox.close()
                    text = _read_some(complaints)
                    code = wrapper.exit_code
                    why = backend.explain(-1 if code is None else code, text) or text.strip()
                    # Most often it is this one descriptor that a wrapper closes or replaces.
                    why = why or "the wrapper said nothing; does it pass standard input on?"
                    raise SandboxFailure(f"{failure} (exit {code}): {why}") from None
                for name in plan.litter:
                    (workspace / name).unlink(missing_ok=True)
                program = job_filter(
                    whole=backend.seccomp, memfd=cgroup is not None, strict=strict_filter
                )
                if program is not None:
                    await channel.put_filter(program)
                await channel.watch_mounts(plan.private_mounts)
                yield sandbox
            finally:
                await sandbox.close()
        finally:
            os.close(stderr)
            os.close(complaints)


def _read_some(fd: int) -> str:
    try:
        return os.read(fd, STDERR_BYTES).decode(errors="replace")
    except BlockingIOError:
        return ""
