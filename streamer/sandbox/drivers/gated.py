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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from streamer.errors import SandboxFailure
from streamer.model.job import Limits, SourceFile, TerminalSize
from streamer.sandbox.drivers import protocol
from streamer.sandbox.drivers.channel import InitChannel
from streamer.sandbox.drivers.deadlines import fails_after, time_to_write
from streamer.sandbox.drivers.netns import check_own_network
from streamer.sandbox.drivers.pidns import first_above
from streamer.sandbox.drivers.spawn import spawn
from streamer.sandbox.drivers.stopped import StopWatch
from streamer.sandbox.lifeline import Lifeline
from streamer.sandbox.shape import LargeFile, Program, Run, RunEnd, StoredProject, Use
from streamer.spi import LaunchPlan

__all__ = ["Ends", "Gated", "opened_ends", "start"]

log: Final = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 20.0
"""A sandbox that has not started by then never will; a loaded machine needs some seconds."""

ANSWER_TIMEOUT_S: Final = 5.0
"""For an answer of the init."""

TIDY_TIMEOUT_S: Final = 0.25
"""For a wrapper to exit by itself once its sandbox is empty."""

END_TIMEOUT_S: Final = 5.0
"""For killed processes to die."""

STDERR_BYTES: Final = 4096


class Wrapper(Protocol):
    """The process that has started the init, or is the init; the sandbox ends with it."""

    @property
    def is_init(self) -> bool:
        """Whether it is the init itself."""

    @property
    def pid(self) -> int: ...

    @property
    def exit_code(self) -> int | None: ...

    @property
    def ended(self) -> asyncio.Future[int]:
        """Done once it has ended. Do not cancel it: use `asyncio.wait`."""

    def kill(self) -> None: ...

    async def open_init(self, pid: int) -> int:
        """Return a pidfd of the init, which has said hello and waits for us."""


@dataclass(frozen=True, slots=True)
class Ends:
    """The socket and the standard error of a sandbox: our ends, and those that it gets."""

    channel: InitChannel
    complaints: int
    control: int
    stderr: int


@contextmanager
def opened_ends() -> Iterator[Ends]:
    """Open them for a sandbox that is started in the block; it must close ours.

    After the block theirs are closed, and ours too if the sandbox was not started.
    """
    with contextlib.ExitStack() as unless_started:
        complaints, stderr = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        unless_started.callback(os.close, complaints)
        with contextlib.ExitStack() as theirs:
            theirs.callback(os.close, stderr)
            ours, control = socket.socketpair()
            theirs.callback(control.close)
            channel = InitChannel(ours)
            unless_started.callback(channel.close)
            yield Ends(channel, complaints, control.fileno(), stderr)
        unless_started.pop_all()


def start(plan: LaunchPlan, command: Sequence[str], *, walk_disk: bool, by_group: int) -> Gated:
    """Start the sandbox of a plan: `command` is that of the plan, begun in its group as its user.

    Raises `SandboxFailure` if it cannot be started.
    """
    with opened_ends() as ends:
        try:
            wrapper = spawn(
                command,
                env=plan.env,
                cwd=plan.cwd,
                stdin=ends.control,
                stdout=subprocess.DEVNULL,
                stderr=ends.stderr,
            )
        except OSError as error:
            raise SandboxFailure(f"{plan.argv[0]} cannot be started: {error}") from error
        return Gated(plan, ends, wrapper, walk_disk=walk_disk, by_group=by_group)


class Gated:
    """A sandbox with our init inside."""

    def __init__(
        self,
        plan: LaunchPlan,
        ends: Ends,
        wrapper: Wrapper,
        *,
        walk_disk: bool,
        by_group: int,
        forked_from: Program | None = None,
    ) -> None:
        """`by_group` are the flags of what its group does for the init (`protocol`).

        `forked_from` is the program that waits in the init: a run of just that goes on with it.
        """
        self.forked_from = forked_from
        self._plan = plan
        self._wrapper = wrapper
        self._walk_disk = walk_disk
        self._run_flags = by_group | (protocol.WALK_DISK if walk_disk else 0)
        self._init_pid = 0
        self._init_pidfd = -1
        self._init_ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        """Done when its pidfd says so: pid 1 is gone only after all of its namespace."""
        self._first_pidfd = -1
        """Of pid 1 of its namespace, if that is the wrapper's."""
        self._first_ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._started = 0.0
        self._taken_down = False
        self.has_init = True
        self.lifeline: Lifeline | None = None
        """What tells until when its programs may run, if there is such a time."""
        self._resists = False
        self._words = ""
        self._complaints = ends.complaints
        self.channel = ends.channel

    @property
    def home(self) -> str:
        return self._plan.workspace

    @property
    def of_root(self) -> bool:
        """Whether the init, and so each program, runs as the host's root."""
        status = Path(f"/proc/{self._init_pid}/status").read_text()
        uids = next(line for line in status.splitlines() if line.startswith("Uid:"))
        return "0" in uids.split()[1:]

    @property
    def unbounded(self) -> bool:
        return self.channel.unbounded

    @property
    def wrapper_exit(self) -> int | None:
        return self._wrapper.exit_code

    async def come_up(self) -> None:
        """Wait for the init. Raises `SandboxFailure` if the sandbox ends without its answer."""
        ended, hello = self._wrapper.ended, self.channel.greeted
        await asyncio.wait(
            {ended, hello}, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        if not hello.done() and not ended.done():
            raise SandboxFailure(
                f"the init gave no answer within {START_TIMEOUT_S:g} s: does the wrapper start "
                "it, and pass standard input on?"
            )
        if not hello.done():
            raise SandboxFailure("the sandbox did not start")
        self._init_pid = hello.result()
        self._init_pidfd = await self._wrapper.open_init(self._init_pid)
        if self._wrapper.is_init:
            self._init_ended = self._wrapper.ended
        else:
            asyncio.get_running_loop().add_reader(self._init_pidfd, self._init_has_ended)
        if not self.channel.is_first:
            self._open_first()

    def _open_first(self) -> None:
        """Watch the wrapper's own pid 1: it may outlive a wrapper that we have killed."""
        if pid := first_above(self._init_pid):
            with contextlib.suppress(ProcessLookupError):
                self._first_pidfd = os.pidfd_open(pid)
                asyncio.get_running_loop().add_reader(self._first_pidfd, self._first_has_ended)

    async def put_files(
        self, files: Sequence[SourceFile], limits: Limits, project: StoredProject | None = None
    ) -> None:
        timeout_s = time_to_write(files, project)
        async with fails_after(timeout_s, "the init did not write the files in time"):
            await self.channel.put_files(
                files,
                limits,
                walk_disk=self._walk_disk,
                project=None if project is None else project.fd,
            )

    async def put_file(self, file: LargeFile, limits: Limits) -> None:
        timeout_s = time_to_write((), StoredProject(-1, file.size, file.name.count("/") + 1))
        async with fails_after(timeout_s, "the init did not write the file in time"):
            await self.channel.put_file(file, limits, walk_disk=self._walk_disk)

    async def check_rest(self, limits: Limits) -> None:
        async with fails_after(time_to_write(()), "the init did not look at the files in time"):
            await self.channel.check_rest(limits, walk_disk=self._walk_disk)

    @property
    def is_gone(self) -> bool:
        return self.channel.gone.is_set()

    async def listen(self, port: int) -> socket.socket:
        """Let the init listen, and check that its network is not that of the host."""
        async with fails_after(ANSWER_TIMEOUT_S, "the init did not listen for the proxy in time"):
            listener = await self.channel.listen(port)
        with contextlib.ExitStack() as unless_it_serves:
            unless_it_serves.callback(listener.close)
            check_own_network(listener)
            unless_it_serves.pop_all()
        return listener

    async def open_path(self, path: str, flags: int, mode: int) -> int:
        """Let the init open it, with the permissions of the sandbox's user."""
        async with fails_after(ANSWER_TIMEOUT_S, "the init did not open a file in time"):
            return await self.channel.open_path(path, flags, mode)

    async def open_terminal(self, size: TerminalSize) -> int:
        async with fails_after(ANSWER_TIMEOUT_S, "the init did not prepare a terminal in time"):
            return await self.channel.open_terminal(size)

    async def use(self, *, of_run: bool = False) -> Use:
        async with fails_after(ANSWER_TIMEOUT_S, "the init did not report the usage in time"):
            return await self.channel.use(walk_disk=self._walk_disk, of_run=of_run)

    async def start(self, run: Run) -> None:
        await self._end_in_time()
        await self._start(run, self._run_flags | self._fork(run))

    async def _end_in_time(self) -> None:
        if self.lifeline is not None and self.lifeline.until_us:
            self.lifeline.add(self)
            await self.channel.end_at(self.lifeline.until_us)

    def may_run_until(self, until_us: int) -> None:
        self.channel.go_on(until_us)

    async def hold(self, run: Run, same: Sequence[str] | None) -> None:
        if same is None:
            await self._start(run, self._run_flags | protocol.GATE)
            return
        fork = self._fork(run)
        if not fork:
            await self.channel.know_same(same)
        await self._start(run, self._run_flags | protocol.HOLD | fork)

    def _fork(self, run: Run) -> int:
        """Return the flag for a run that goes on with the program that waits in the init."""
        # Only the first program finds the workspace as the interpreter has seen it.
        program, self.forked_from = self.forked_from, None
        forks = program is not None and program.is_run_by(run, self.home)
        return protocol.FORK if forks else 0

    async def release(self) -> bool:
        self._started = time.monotonic()
        await self._end_in_time()
        async with fails_after(START_TIMEOUT_S, "the init did not release the program in time"):
            return await self.channel.release()

    async def _start(self, run: Run, flags: int) -> None:
        self._started = time.monotonic()
        async with fails_after(START_TIMEOUT_S, "the init did not accept the program in time"):
            await self.channel.start(
                run.argv,
                env=run.env,
                cwd=run.cwd or self.home,
                limits=run.limits,
                stdio=None if run.stdio.is_terminal else run.stdio.theirs,
                flags=flags,
            )

    @property
    def held(self) -> asyncio.Future[None]:
        return self.channel.held

    @property
    def exited(self) -> asyncio.Future[None]:
        return self.channel.exited

    def end_rest(self) -> None:
        """Let the init kill it; if the init cannot be reached, only `kill` helps."""
        self.channel.kill()

    def keep_rest(self) -> None:
        """Refuse it unless all of it ends with a namespace, and a group counts its CPU time."""
        own = self.channel.is_first or self._first_pidfd >= 0
        if not (own and self._run_flags & protocol.GROUP_TIME):
            raise SandboxFailure("processes need a pid namespace and a control group to be kept")
        self._run_flags |= protocol.KEEP

    def leave_rest(self) -> None:
        self.channel.leave()

    async def end(self) -> RunEnd:
        """Wait for the init's report; if we killed the init without one, return that.

        Raises `SandboxFailure` also if the job has stopped the init, and then kills both.
        """
        ended = self.channel.ended
        if self.channel.is_first:  # what its job sends it is dropped: pid_namespaces(7)
            await asyncio.wait({ended})
        else:
            await self._ended_unless_stopped(ended)
        try:
            return ended.result()
        except SandboxFailure as failure:
            self.has_init = False
            if not self._taken_down:
                raise await self._with_last_words(failure) from None
            wall_us = int((time.monotonic() - self._started) * 1e6)
            return RunEnd(signal.SIGKILL, "killed", None, None, wall_us)

    async def _ended_unless_stopped(self, ended: asyncio.Future[RunEnd]) -> None:
        watch = StopWatch(self._init_pid)
        try:
            watched: set[asyncio.Future[Any]] = {ended, watch.stopped}
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await self._take_down()
                self.channel.close()  # fails the waits for the program too
                raise SandboxFailure("the job has stopped the init, so no limit was watched")
        finally:
            watch.close()

    async def _with_last_words(self, failure: SandboxFailure) -> SandboxFailure:
        """Add the last messages of the init and the wrapper to a failure."""
        await asyncio.wait({self._wrapper.ended}, timeout=TIDY_TIMEOUT_S)
        words = self.said().strip()
        return SandboxFailure(f"{failure}: {words}") if words else failure

    def said(self) -> str:
        """Return the standard error of the wrapper and the init so far."""
        with contextlib.suppress(BlockingIOError):
            if self._complaints >= 0:
                self._words += os.read(self._complaints, STDERR_BYTES).decode(errors="replace")
        return self._words

    def signal(self, number: int) -> None:
        self.channel.signal(number)

    async def kill(self) -> None:
        """Ask the init, which can report the usage; without an answer take the sandbox down."""
        if self.channel.kill():
            ended = self.channel.ended
            await asyncio.wait({ended}, timeout=1.0)
            if ended.done():
                return
        self._taken_down = True
        if not await self._take_down():
            raise SandboxFailure(f"sandbox process {self._wrapper.pid} does not die after SIGKILL")
        # The other end is closed now, so the waits for the init's report end.
        self.channel.close()

    async def close(self) -> None:
        """Close the sandbox and wait until nothing is left of it, however long that takes."""
        # The init sees the end of its socket, kills what is left, and exits; then so does the
        # wrapper. If that takes too long both are killed from outside.
        if self.lifeline is not None:
            self.lifeline.discard(self)
        self.channel.close()
        try:
            if not await self._gone(1.0) and not self._resists and not await self._take_down():
                log.error("sandbox process %d does not die after SIGKILL", self._wrapper.pid)
            # A process that waits in the kernel (for a disk that hangs) may still die later.
            await self._gone(None)
        except BaseException:
            self._kill_both()
            raise
        finally:
            self._close_descriptors()

    def _kill_both(self) -> None:
        if self._init_pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init_pidfd, signal.SIGKILL)
        self._wrapper.kill()

    def _close_descriptors(self) -> None:
        if self._init_pidfd >= 0:
            if not self._init_ended.done():
                asyncio.get_running_loop().remove_reader(self._init_pidfd)
            # If its wrapper was killed with it and orphans become children of this process (as in
            # a container), we must reap it.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self._init_pidfd, os.WEXITED | os.WNOHANG)
            os.close(self._init_pidfd)
            self._init_pidfd = -1
        if self._first_pidfd >= 0:
            if not self._first_ended.done():
                asyncio.get_running_loop().remove_reader(self._first_pidfd)
            os.close(self._first_pidfd)
            self._first_pidfd = -1
        if self._complaints >= 0:
            self.said()  # keep the last messages for later
            os.close(self._complaints)
            self._complaints = -1

    async def _gone(self, timeout_s: float | None) -> bool:
        """Wait until the wrapper and the init have ended; return whether they have."""
        ends: list[asyncio.Future[Any]] = [self._wrapper.ended]
        if self._init_pidfd >= 0:
            ends.append(self._init_ended)
        if self._first_pidfd >= 0:
            ends.append(self._first_ended)
        left = {end for end in ends if not end.done()}
        if left:
            _, left = await asyncio.wait(left, timeout=timeout_s)
        return not left

    async def _take_down(self) -> bool:
        """Kill from outside; the init first, so that its namespace dies with it."""
        if self._init_pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init_pidfd, signal.SIGKILL)
            await asyncio.wait({self._init_ended}, timeout=END_TIMEOUT_S)
            # A killed wrapper cannot clean up: firejail leaves files in /run.
            await asyncio.wait({self._wrapper.ended}, timeout=TIDY_TIMEOUT_S)
        self._wrapper.kill()
        self._resists = not await self._gone(END_TIMEOUT_S)
        return not self._resists

    def _first_has_ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._first_pidfd)
        self._first_ended.set_result(None)

    def _init_has_ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._init_pidfd)
        self._init_ended.set_result(None)
