"""A sandbox as an object: a driver, its control group if it has one, and its resources.

Limits are set for a run; the end of a run has its usage and its reason, whether the init, the
kernel's control group, or both have counted. Knows no jobs, events or engines.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal

from streamer.errors import SandboxFailure
from streamer.model.job import Limits, SourceFile, TerminalSize
from streamer.sandbox.cgroups.cgroup import Cgroup
from streamer.sandbox.drivers.deadlines import fails_after
from streamer.sandbox.drivers.driver import Driver
from streamer.sandbox.listing import Lister, Listing
from streamer.sandbox.meter import Alarm, Meter
from streamer.sandbox.running import Running
from streamer.sandbox.shape import KILLED_FOR_MEMORY, LargeFile, Run, StoredProject, Use
from streamer.sandbox.stdio import Stdio
from streamer.spi import Identity

__all__ = ["Sandbox", "Way"]

Way = Literal["own", "template", "forked"]

MOST_ENTRIES: Final = 10_000
LIST_TIMEOUT_S: Final = 20.0

THREADS: Final = ThreadPoolExecutor(2, "streamer-listing")
"""Only for listing workspaces, so that other slow work does not delay it.

Sandboxes take turns of `TURN_S`: very deep folders take seconds, in which others would wait."""

TURN_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A program that was started before its job."""

    run: Run
    meter: Meter | None


class Sandbox:
    """An open sandbox. Its owner must close it."""

    def __init__(
        self,
        driver: Driver,
        identity: Identity | None,
        cgroup: Cgroup | None,
        ran_out: Alarm,
        held: contextlib.AsyncExitStack,
        *,
        way: Way,
        same: tuple[str, ...] = (),
        fresh_until: float = math.inf,
    ) -> None:
        """`ran_out` is set at the group's memory limit; closing `held` releases its resources.

        `same` are the paths that are the same for every job (`Driver.hold`). From `fresh_until` on,
        by `time.monotonic`, it is not lent to a job any more.
        """
        self._driver = driver
        self._cgroup = cgroup
        self._ran_out = ran_out
        self._held = held
        self._same = same
        self._closing = asyncio.Lock()
        self._closed = False
        """Whether `close` was called: it closes the descriptors of a program that waits."""
        self._running: Running | None = None
        self._measured_by: Meter | None = None
        """That of the last run, if a group measures it."""
        self._waiting: _Waiting | None = None
        self._busy = False
        """Whether a program is being started, or files are being written."""
        self.identity = identity
        """Its own user, if it has one."""
        self.on_begun: Callable[[], None] = lambda: None
        """Called once, when its first program runs, or when it is closed without one."""
        self.on_closed: Callable[[], None] = lambda: None
        """Called once, when nothing is left of it, or what is left cannot be released."""
        self.way: Way = way
        """Who has made it: a command of its own, a template, or one that became its program."""
        self.fresh_until = fresh_until

    @property
    def from_template(self) -> bool:
        return self.way != "own"

    @property
    def home(self) -> str:
        return self._driver.home

    @property
    def of_root(self) -> bool:
        """Whether its programs are seen to have the host's root as their user."""
        return self._driver.of_root

    @property
    def unbounded(self) -> bool:
        """Whether its init could not limit inotify for it, which it should."""
        return self._driver.unbounded

    async def put_files(
        self, files: Sequence[SourceFile], limits: Limits, project: StoredProject | None = None
    ) -> None:
        """Write files into the workspace, while no program runs; when it returns, they exist.

        They lie over those of a project, if there is one, which must not be there already.

        A program may be held meanwhile, which does not see them yet.

        No symbolic link is followed. Raises `FilesDoNotFit` if they exceed the disk limit,
        `PathRefused` if something that a program has left is in their way, and `SandboxFailure` if
        they cannot be written for another reason. Then none of them is left, what they replaced is
        lost, and the sandbox can be used as before.
        """
        with self._alone():
            try:
                await self._driver.put_files(files, limits, project)
            except SandboxFailure:
                if not self._is_exhausted:  # the next run tells
                    raise

    async def put_file(self, file: LargeFile, limits: Limits) -> None:
        """Write one file as `put_files` does; its pieces have 256 KiB at most."""
        with self._alone():
            await self._driver.put_file(file, limits)

    async def give_room(self, limits: Limits) -> None:
        """Let files be written within these limits, after a run that had lower ones."""
        if self._cgroup is not None:
            await self._cgroup.limit(limits)

    @property
    def _is_exhausted(self) -> bool:
        """Whether the kernel has killed a program that waited, and the init with it, for memory.

        Files beside it may be too much, as they may be when a program starts after them.
        """
        meter = None if self._waiting is None else self._waiting.meter
        return meter is not None and not self.alive and meter.out_of_memory

    async def listen(self, port: int) -> socket.socket:
        """Return a socket that listens on the sandbox's own loopback; the caller must close it.

        Raises `SandboxFailure` if the sandbox has no loopback of its own.
        """
        return await self._driver.listen(port)

    async def hold(self, run: Run) -> None:
        """Start a program before its job: it is held where it could notice that (``hold.c``).

        `run` lets it go on if it is given the same program with the descriptors of `stdio`. The
        sandbox closes those of `run`. Raises `SandboxFailure` if it cannot be started.
        """
        await self._hold(run, self._same)

    async def make_ready(self, run: Run) -> None:
        """Do ahead what `run` does, but for the program itself: nothing of it is executed yet.

        Otherwise as `hold`; the files of its job must be there.
        """
        await self._hold(run, None)

    async def _hold(self, run: Run, same: Sequence[str] | None) -> None:
        with contextlib.ExitStack() as unless_held:
            unless_held.callback(run.stdio.close)
            with self._alone():
                if self._waiting is not None:
                    raise SandboxFailure("another program is held in the sandbox")
                if self.identity is not None:
                    run.stdio.give_to(self.identity)
                meter = self._meter(run)
                if not await self._begin(run, partial(self._driver.hold, same=same)):
                    raise SandboxFailure("the sandbox has used more memory than the program may")
                self._waiting = _Waiting(run, meter)
            unless_held.pop_all()

    @property
    def held(self) -> asyncio.Future[None]:
        """Done when the program of `hold` is held; not to be cancelled. It may fail."""
        return self._driver.held

    @property
    def holds(self) -> bool:
        """Whether there is a program of `hold`, which may have ended."""
        return self._waiting is not None

    @property
    def may_be_lent(self) -> bool:
        """Whether a job may still get it: it lives, as does a program of `hold`, and is fresh."""
        is_fresh = time.monotonic() < self.fresh_until
        return self.alive and self.waits == self.holds and is_fresh

    @property
    def waits(self) -> bool:
        """Whether there is a program of `hold`, and it lives, as far as is known."""
        return self._waiting is not None and not self._driver.exited.done()

    @property
    def alive(self) -> bool:
        """Whether a program could be run, as far as is known."""
        if self._driver.is_gone:
            return False
        exited = self._driver.exited
        return not exited.done() or exited.cancelled() or exited.exception() is None

    @property
    def is_free(self) -> bool:
        """Whether the next program could be started: it lives, and nothing is left of the last."""
        over = self._running is None or self._running.ended.done()
        return self.alive and over and not self._busy

    def on_exit(self, call: Callable[[], None]) -> None:
        """Call a function once the program of `hold` has ended, or all of the sandbox."""
        self._driver.exited.add_done_callback(lambda _: call())

    def stdio(self, *, with_input: bool) -> Stdio:
        """Return the descriptors for the next run; the caller must close them."""
        if self._waiting is None:
            return Stdio.pipes(with_input=with_input)
        stdio = self._waiting.run.stdio
        if not with_input:
            stdio.end_input()
        return stdio

    async def terminal(self, size: TerminalSize) -> Stdio:
        """Return a terminal for the next run; the caller must close it.

        Raises `SandboxFailure` if the sandbox was opened without one (`Shape.terminal`).
        """
        with self._alone():
            return Stdio.terminal(await self._driver.open_terminal(size))

    async def run(self, run: Run) -> Running:
        """Start a program; an earlier one must have ended.

        Its limits are enforced from now on, except the wall time. Our copies of the program's
        descriptors are closed, whether it could be started or not.
        """
        try:
            with self._alone():
                running = await self._start(run)
        finally:
            run.stdio.close_theirs()
        self._tell_begun()
        return running

    def _tell_begun(self) -> None:
        on_begun, self.on_begun = self.on_begun, lambda: None
        on_begun()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Start no program during a block.

        Raises `SandboxFailure` if the sandbox is in use, or closed.
        """
        if self._closed:
            raise SandboxFailure("the sandbox was closed")
        if self._busy or (self._running is not None and not self._running.ended.done()):
            raise SandboxFailure("another program runs in the sandbox, or files are being written")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    async def _start(self, run: Run) -> Running:
        if self._is_exhausted:
            return Running.never_began(KILLED_FOR_MEMORY)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            if waiting.run.stdio is not run.stdio:
                waiting.run.stdio.close()
            elif waiting.run.same_program(run) and not self._driver.exited.done():
                running = await self._follow(waiting.meter, self._driver.release())
                if running is not None:
                    return running
            await self._driver.kill()
        if self.identity is not None:
            run.stdio.give_to(self.identity)
        running = await self._follow(self._meter(run), self._begin(run, self._driver.start))
        return running or Running.never_began(KILLED_FOR_MEMORY)

    def _meter(self, run: Run) -> Meter | None:
        if self._cgroup is None:
            return None
        return Meter(self._cgroup, self._ran_out, run.limits)

    async def _begin(self, run: Run, start: Callable[[Run], Awaitable[None]]) -> bool:
        """Start a program; return False if the sandbox has used more memory than it may have."""
        if self._cgroup is not None and not await self._cgroup.limit(run.limits):
            return False
        await start(run)
        return True

    async def _follow(self, meter: Meter | None, begun: Awaitable[bool]) -> Running | None:
        try:
            if not await begun:
                return None
        except SandboxFailure:
            if meter is None or not meter.out_of_memory:
                raise
            return Running.never_began(KILLED_FOR_MEMORY)
        self._measured_by = meter
        self._running = Running.follow(self._driver, meter, self.kill, self._clear)
        return self._running

    def signal(self, number: int) -> None:
        self._driver.signal(number)

    def end_rest(self) -> None:
        """Kill what the program has left running, once it has exited."""
        if self._running is not None and not self._running.ended.done():
            self._kill_group()
            self._driver.end_rest()

    def keep_rest(self) -> None:
        """Let what later programs leave go on beside the next ones, until the sandbox is closed.

        A program that is killed takes all of it with it, and each run's usage is that of all.
        Raises `SandboxFailure` if that is not possible here.
        """
        self._driver.keep_rest()

    def leave_rest(self) -> None:
        """End the run of a program that has exited, and kill what it has left if none is kept."""
        if self._running is not None and not self._running.ended.done():
            self._kill_group()
            self._driver.leave_rest()

    async def check_rest(self, limits: Limits) -> None:
        """Check what goes on between programs, by `keep_rest`.

        Raises `FilesDoNotFit` if it has written more than these limits allow.
        """
        with self._alone():
            await self._driver.check_rest(limits)

    def cpu_time_us(self) -> int:
        """Return the CPU time of everything that ran in it; 0 if only its init knows."""
        return 0 if self._cgroup is None else self._cgroup.cpu_time_us()

    def memory_kills(self) -> int:
        """Return how many processes in it the kernel has killed at its limit of memory."""
        return 0 if self._cgroup is None else self._cgroup.oom_kills()

    async def kill(self) -> None:
        """Kill the program and everything it started, in escalating steps.

        After that its `Running` ends. Raises `SandboxFailure` if it did not work in time.
        """
        if self._running is None:
            return  # no init would answer
        self._kill_group()
        await self._driver.kill()

    async def open_path(self, path: str, flags: int, mode: int = 0o644) -> int:
        """Open a file beneath the workspace, also while a program runs; a folder with O_DIRECTORY.

        No symbolic link in the path is followed. The caller must close the descriptor. Raises
        OSError as open(2) does, with EXDEV for a path outside; `SandboxFailure` without our init.
        """
        return await self._driver.open_path(path, flags, mode)

    async def list_files(self, most: int = MOST_ENTRIES) -> Listing:
        """Return at most `most` entries of the workspace, with those of its folders.

        `open_path` takes paths of at most 4095 bytes; longer ones are listed all the same. Raises
        OSError if the workspace cannot be opened; `SandboxFailure` without our init, and if it
        takes too long.
        """
        root = await self.open_path(".", os.O_RDONLY | os.O_DIRECTORY)
        lister = Lister(root, most)  # in threads: there may be thousands of entries
        turn: Future[Listing | None] | None = None
        try:
            async with fails_after(LIST_TIMEOUT_S, "the workspace was not listed in time"):
                while True:
                    turn = THREADS.submit(lister.go_on, TURN_S)
                    if (listing := await asyncio.wrap_future(turn)) is not None:
                        return listing
        finally:
            if turn is None or turn.cancel() or turn.done():
                lister.close()
            else:  # the disk hangs, perhaps for ever
                turn.add_done_callback(lambda _: lister.close())

    async def use(self) -> Use:
        """Return the CPU time of all runs so far, and the memory and disk in use now."""
        use = await self._driver.use()
        if self._cgroup is None:
            return use
        return replace(
            use,
            cpu_time_us=self._cgroup.cpu_time_us(),
            memory_bytes=self._cgroup.memory_bytes(),
        )

    async def use_of_run(self) -> Use | None:
        """Return the CPU time of the present run, and the memory and processes in use now.

        None if its program has ended. Not the disk. Memory is what the kernel could not drop:
        without the content of files that it has in its cache. Raises `SandboxFailure` and OSError,
        as for a sandbox that is closed.
        """
        use = await self._driver.use(of_run=True)
        if self._running is None or self._driver.exited.done():
            return None
        if self._cgroup is None or self._measured_by is None:
            return replace(use, disk_bytes=None)
        processes = self._cgroup.processes() if use.processes is None else use.processes
        return Use(self._measured_by.used_us(), self._cgroup.needed_bytes(), None, processes)

    async def close(self) -> None:
        """Kill everything in it and release its resources, however long that takes. Idempotent.

        While a process resists SIGKILL, its user, folder and group are not used again. The caller
        must bound the wait.
        """
        self._closed = True
        async with self._closing:
            try:
                if self._running is not None:
                    await self._running.close()
                self._kill_group()
            finally:
                if self._waiting is not None:
                    self._waiting.run.stdio.close()
                try:
                    await self._held.aclose()
                finally:
                    self._tell_begun()
                    on_closed, self.on_closed = self.on_closed, lambda: None
                    on_closed()

    def _kill_group(self) -> None:
        """Kill everything in the group if there is no init to do it and to report the usage."""
        if self._cgroup is not None and not self._driver.has_init:
            self._cgroup.kill()

    async def _clear(self) -> None:
        if self._cgroup is None or self._driver.has_init:
            return
        if not await self._cgroup.clear():
            raise SandboxFailure("a process in the sandbox's control group does not die")
