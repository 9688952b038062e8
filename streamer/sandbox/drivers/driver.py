"""What every driver of a sandbox does: start it, run programs in it one after another, end it.

There are two. `Gated` (`gated`) has our init inside, so it knows the kernel's verdict and ends
exactly what a program started; `Direct` (`direct`) serves backends that cannot take the init.
`streamer.sandbox.sandbox` adds the control group to either.

Every wait here has a bound, except that of `close` for what resists SIGKILL: whoever closes
decides how long that may hold up something else.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import ClassVar, Protocol

from streamer.model.job import Limits, SourceFile
from streamer.sandbox.shape import Run, RunEnd, Use

__all__ = ["Driver"]


class Driver(Protocol):
    """One sandbox, started."""

    has_init: ClassVar[bool]
    """Whether our init ends and measures what a program starts, so that no group has to."""

    @property
    def home(self) -> str:
        """The workspace as programs see it."""

    @property
    def of_root(self) -> bool:
        """Whether its programs are seen to have the host's root as their user."""

    async def put_files(self, files: Sequence[SourceFile], limits: Limits) -> None:
        """Write files, while no program runs.

        Raises `FilesDoNotFit` where the disk limit has no room for them.
        """

    async def listen(self, port: int) -> socket.socket:
        """Return a socket that listens on the sandbox's own loopback.

        Raises `SandboxFailure` where the sandbox has none of its own.
        """

    async def open_path(self, path: str, flags: int, mode: int) -> int:
        """Return a descriptor of a path beneath the workspace. Raises OSError, `SandboxFailure`."""

    async def use(self) -> Use:
        """Return what is used."""

    async def start(self, run: Run) -> None:
        """Start a program."""

    async def exited(self) -> None:
        """Wait until the program itself has ended; what it started may go on."""

    def end_rest(self) -> None:
        """Kill what the program has left; `end` tells when that is done."""

    async def end(self) -> RunEnd:
        """Wait until the program and all that it started are dead, and tell how it ended."""

    def signal(self, number: int) -> None:
        """Send a signal to the program."""

    async def kill(self) -> None:
        """Kill the program and all that it started, by ever harder means.

        Then `end` has its answer. Raises `SandboxFailure` when it did not work in time.
        """

    async def close(self) -> None:
        """End the sandbox, and wait until nothing of it is left, however long that takes."""
