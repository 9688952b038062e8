"""Drive a sandbox without our init: each program is a separate command.

For backends that cannot run the init. A program is killed by its process group; processes that have
left that are killed by the control group, if there is one (`streamer.sandbox.sandbox`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import ClassVar, Final

from streamer.bounded import ends_in
from streamer.errors import SandboxFailure
from streamer.model.job import Limits, SourceFile, TerminalSize
from streamer.sandbox.drivers.deadlines import fails_after, time_to_write
from streamer.sandbox.drivers.files import not_written, write_files
from streamer.sandbox.drivers.spawn import Spawned, spawn, start_command
from streamer.sandbox.shape import LargeFile, Run, RunEnd, StoredProject, Use
from streamer.spi import Host, LaunchPlan

__all__ = ["Direct", "SessionFactory"]

START_TIMEOUT_S: Final = 20.0
"""For opening the backend's session."""

END_TIMEOUT_S: Final = 5.0
"""For killed processes to die."""

THREADS: Final = ThreadPoolExecutor(4, "streamer-files")
"""Only for writing the files of jobs, so that other slow work does not delay it."""

Entry = Callable[[], Sequence[str]]

SessionFactory = Callable[
    [tuple[str, ...], Mapping[str, str]], AbstractAsyncContextManager[LaunchPlan]
]
"""Opens the backend's session for a command and its variables; yields the plan that starts it."""


class Direct:
    """A sandbox without our init: each program is a separate command."""

    has_init: ClassVar[bool] = False

    def __init__(self, session: SessionFactory, workspace: Path, host: Host, entry: Entry) -> None:
        """`entry` returns the options with which to enter its control group (`start_command`)."""
        self._session = session
        self._entry = entry
        self._workspace = workspace
        self._host = host
        self._open = contextlib.AsyncExitStack()
        self._process: Spawned | None = None
        self._started = 0.0
        self._killed = False
        self._rest_ended = asyncio.Event()
        self._writing: asyncio.Future[None] | None = None
        self._given_up = threading.Event()

    @property
    def home(self) -> str:
        """The folder on the host; a backend that mounts it elsewhere sets the directory itself."""
        return str(self._workspace)

    @property
    def of_root(self) -> bool:
        """Unknown, so False: there is no process before the program."""
        return False

    @property
    def unbounded(self) -> bool:
        return False

    async def put_files(
        self, files: Sequence[SourceFile], limits: Limits, project: StoredProject | None = None
    ) -> None:
        self._check_nothing_is_written()
        self._given_up = threading.Event()
        # The thread may go on when this is cancelled, and then closes its own descriptor.
        own = None if project is None else os.dup(project.fd)
        # In a thread: there may be thousands of files, and the disk may be slow.
        self._writing = asyncio.get_running_loop().run_in_executor(
            THREADS, write_files, self._workspace, files, limits.disk_bytes, self._given_up, own
        )
        timeout_s = time_to_write(files, project)
        try:
            async with fails_after(timeout_s, "the files were not written in time"):
                await asyncio.shield(self._writing)
        except OSError as error:
            raise not_written(error.errno or 0) from error
        finally:
            self._given_up.set()  # without effect, unless the thread still writes

    def _check_nothing_is_written(self) -> None:
        """Raise `SandboxFailure` while a thread writes files that were given up."""
        if self._writing is not None and not self._writing.done():
            raise SandboxFailure("the disk hangs: earlier files are still being written")

    async def put_file(self, file: LargeFile, limits: Limits) -> None:
        """Refuse: no session keeps such a sandbox."""
        raise SandboxFailure("a backend without our init cannot be given a file alone")

    def keep_rest(self) -> None:
        """Refuse: when a program has ended nothing is left of its sandbox."""
        raise SandboxFailure("a backend without our init cannot keep processes")

    def leave_rest(self) -> None:
        self.end_rest()

    async def check_rest(self, limits: Limits) -> None:
        """Return: nothing is kept."""

    @property
    def is_gone(self) -> bool:
        return False

    async def listen(self, port: int) -> socket.socket:
        """Refuse: there is no init inside that could listen."""
        raise SandboxFailure("a backend without our init cannot have an allow-list of hosts")

    async def open_path(self, path: str, flags: int, mode: int) -> int:
        """Refuse, for the same reason."""
        raise SandboxFailure("a backend without our init cannot open files of its sandbox")

    async def open_terminal(self, size: TerminalSize) -> int:
        """Refuse, for the same reason."""
        raise SandboxFailure("a backend without our init cannot give a program a terminal")

    async def use(self, *, of_run: bool = False) -> Use:
        """Return no figures: only the control group, if there is one, knows them."""
        return Use(None, None, None, None)

    async def start(self, run: Run) -> None:
        """Start the command that the backend plans. Raises `SandboxFailure`."""
        self._check_nothing_is_written()
        async with fails_after(START_TIMEOUT_S, "the backend's session did not open in time"):
            plan = await self._open.enter_async_context(self._session(run.argv, run.env))
        self._started = time.monotonic()
        self._killed = False
        self._rest_ended.clear()
        stdin, stdout, stderr = run.stdio.theirs
        try:
            self._process = spawn(
                start_command(plan, self._host, self._entry()),
                # Not `run.env`, which the caller chose: its LD_PRELOAD would affect a wrapper.
                env=plan.env,
                cwd=run.cwd or (plan.cwd if plan.cwd != "/" else str(self._workspace)),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                keep_group=True,
            )
        except OSError as error:
            raise SandboxFailure(f"{plan.argv[0]} cannot be started: {error}") from error

    async def hold(self, run: Run, same: Sequence[str] | None) -> None:
        """Refuse: there is no init that could hold it."""
        raise SandboxFailure("a backend without our init cannot hold a program")

    @property
    def held(self) -> asyncio.Future[None]:
        raise SandboxFailure("no program is held")

    async def release(self) -> bool:
        raise SandboxFailure("no program is held")

    @property
    def exited(self) -> asyncio.Future[int]:
        assert self._process is not None
        return self._process.ended

    def end_rest(self) -> None:
        """Kill the rest of its process group."""
        assert self._process is not None
        self._process.signal_group(signal.SIGKILL)
        self._rest_ended.set()

    async def end(self) -> RunEnd:
        """Wait for the command and `end_rest`, then until everything that it killed is dead."""
        assert self._process is not None
        code = await self._process.wait()
        await self._rest_ended.wait()
        if not await ends_in(END_TIMEOUT_S, self._process.end_group()):
            raise SandboxFailure("a process of the program's process group does not die")
        status = code << 8 if code >= 0 else -code
        wall_us = int((self._process.ended_at - self._started) * 1e6)
        return RunEnd(status, "killed" if self._killed else None, None, None, wall_us)

    def signal(self, number: int) -> None:
        if self._process is not None:
            self._process.signal_group(number)

    async def kill(self) -> None:
        if self._process is None:
            return
        if self._process.exit_code is None:
            self._killed = True
            self._process.signal_group(signal.SIGKILL)
            if not await ends_in(END_TIMEOUT_S, self._process.wait()):
                raise SandboxFailure(f"process {self._process.pid} does not end after SIGKILL")
        self.end_rest()

    async def close(self) -> None:
        """Kill the rest, wait until it is dead however long that takes, and close the sessions."""
        if self._process is not None:
            with contextlib.suppress(SandboxFailure):
                await self.kill()
            # Unbounded: see `streamer.sandbox.drivers.driver`.
            await self._process.wait()
            await self._process.end_group()
        if self._writing is not None:
            # The folder is removed next, so the thread must have finished.
            self._given_up.set()
            await asyncio.wait({self._writing})
        await self._open.aclose()
