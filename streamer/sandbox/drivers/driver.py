"""The interface of a driver: start a sandbox, run programs in it one after another, close it.

There are two drivers. `Gated` (`gated`) has our init inside, so it knows the kernel's verdict and
kills exactly what a program started; `Direct` (`direct`) is for backends that cannot run the init.
`streamer.sandbox.sandbox` adds the control group to both.

Every wait is bounded, except that of `close` for processes that resist SIGKILL: the caller decides
how long it waits.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any, Protocol

from streamer.model.job import Limits, SourceFile, TerminalSize
from streamer.sandbox.shape import LargeFile, Run, RunEnd, StoredProject, Use

__all__ = ["Driver"]


class Driver(Protocol):
    @property
    def has_init(self) -> bool:
        """Whether our init kills and measures what a program starts, so that no group is needed.

        It does so until it is killed.
        """

    @property
    def home(self) -> str:
        """The workspace as programs see it."""

    @property
    def of_root(self) -> bool:
        """Whether its programs run as the host's root, as far as can be seen."""

    @property
    def unbounded(self) -> bool:
        """Whether its init could not limit inotify for it, which it should."""

    async def put_files(
        self, files: Sequence[SourceFile], limits: Limits, project: StoredProject | None = None
    ) -> None:
        """Write files, over those of a project if there is one, while no program runs.

        Raises `FilesDoNotFit`, `PathRefused` or `SandboxFailure` (`streamer.sandbox.sandbox`); then
        none of them is left, and the sandbox can be used as before.
        """

    async def put_file(self, file: LargeFile, limits: Limits) -> None:
        """Write one file as `put_files` does, while no program runs.

        Raises `SandboxFailure` without our init.
        """

    async def listen(self, port: int) -> socket.socket:
        """Return a socket that listens on the sandbox's own loopback.

        Raises `SandboxFailure` if the sandbox has no loopback of its own.
        """

    async def open_path(self, path: str, flags: int, mode: int) -> int:
        """Open a path beneath the workspace, and return the descriptor; the caller must close it.

        Raises OSError as open(2) does, `SandboxFailure` without our init.
        """

    async def open_terminal(self, size: TerminalSize) -> int:
        """Prepare the terminal on which the next program runs, and return our end of it.

        The caller must close it. Raises `SandboxFailure` if the sandbox was opened without one.
        """

    @property
    def is_gone(self) -> bool:
        """Whether no program can be run any more, as far as is known."""

    def keep_rest(self) -> None:
        """Let what later programs leave go on beside the next ones, until the sandbox is closed.

        Raises `SandboxFailure` if that is not possible.
        """

    def leave_rest(self) -> None:
        """End the run of a program that has exited, and kill what it has left if none is kept."""

    async def check_rest(self, limits: Limits) -> None:
        """Raise `FilesDoNotFit` if what goes on between programs has written too much."""

    async def use(self, *, of_run: bool = False) -> Use:
        """Return what is used; with `of_run` the CPU time of the present run, and not the disk."""

    async def start(self, run: Run) -> None: ...

    async def hold(self, run: Run, same: Sequence[str] | None) -> None:
        """Start a program before its job, to be held where it could notice that.

        `same` are paths of which it may read all that is there, since it is the same for every job.
        With None nothing of it is executed before.
        Raises `SandboxFailure` if there is no init to hold it.
        """

    @property
    def held(self) -> asyncio.Future[None]:
        """Done when the program that `hold` has started is held, so that nothing of it runs.

        Not to be cancelled. It fails with `SandboxFailure` if it cannot be held, or has ended.
        """

    async def release(self) -> bool:
        """Let the program go on, whether it is held already or not.

        Return False if it has ended before.
        """

    @property
    def exited(self) -> asyncio.Future[Any]:
        """Done when the program itself has ended; processes that it started may run on.

        Not to be cancelled. It fails if the driver no longer knows, as `end` does.
        """

    def end_rest(self) -> None:
        """Kill what the program has left running; `end` returns when that is dead."""

    async def end(self) -> RunEnd:
        """Wait until the program and everything it started are dead; return how it ended."""

    def signal(self, number: int) -> None: ...

    async def kill(self) -> None:
        """Kill the program and everything it started, in escalating steps.

        After that `end` returns. Raises `SandboxFailure` if it did not work in time.
        """

    async def close(self) -> None:
        """Close the sandbox, and wait until nothing is left of it, however long that takes."""
