"""Make the three standard descriptors of a run, and our ends of them."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Mapping
from typing import Final, Literal

from streamer.spi import Identity

__all__ = ["Stdio", "StreamName"]

StreamName = Literal["stdout", "stderr"]

PIPE_BYTES: Final = 256 * 1024
"""Larger than the default 64 KiB, so that a gathering reader does not stall the writer."""


class Stdio:
    """The program's ends go to a run; ours are taken by who writes its input and reads its output.

    Whoever makes one closes it: that closes what nobody has taken.
    """

    def __init__(
        self, theirs: tuple[int, int, int], ours: Mapping[str, int], *, shared: bool = False
    ) -> None:
        """`theirs` are standard input, output and error, `ours` by the names of the streams.

        `shared` says that others have the program's ends too, so that they are no user's own.
        """
        self._theirs = theirs
        self._ours = dict(ours)
        self._shared = shared

    @classmethod
    def pipes(cls, *, with_input: bool = False) -> Stdio:
        """Make three pipes. Without input the program finds the end of its own at once."""
        with contextlib.ExitStack() as unless_made:

            def pipe() -> tuple[int, int]:
                ends = os.pipe2(os.O_CLOEXEC)
                for end in ends:
                    unless_made.callback(os.close, end)
                return ends

            stdin, writing = pipe()
            os.set_blocking(writing, False)
            theirs, ours = [stdin], {"stdin": writing}
            for name in ("stdout", "stderr"):
                ours[name], end = pipe()
                theirs.append(end)
                os.set_blocking(ours[name], False)
                # Refused when the user's share of pipe memory is used up: less will do (pipe(7)).
                with contextlib.suppress(OSError):
                    fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            unless_made.pop_all()
        made = cls((theirs[0], theirs[1], theirs[2]), ours)
        if not with_input:
            os.close(made.take("stdin"))
        return made

    @classmethod
    def null(cls) -> Stdio:
        """Make what reads as empty and takes whatever is written."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        return cls((null, null, null), {}, shared=True)

    @property
    def theirs(self) -> tuple[int, int, int]:
        """The program's standard input, output and error."""
        return self._theirs

    def take(self, name: Literal["stdin"] | StreamName) -> int:
        """Return our end of a stream, which is the caller's to close from now on."""
        return self._ours.pop(name)

    def give_to(self, user: Identity) -> None:
        """Let the user of a sandbox open them by their names, too (/dev/stdout)."""
        if not self._shared:
            for fd in self._theirs:
                os.fchown(fd, user.uid, user.gid)

    def close_theirs(self) -> None:
        """Close our copies of the program's ends, which has its own by now. Idempotent."""
        for fd in {*self._theirs} - {-1}:
            os.close(fd)
        self._theirs = (-1, -1, -1)

    def close(self) -> None:
        """Close what nobody has taken. Idempotent."""
        self.close_theirs()
        while self._ours:
            os.close(self._ours.popitem()[1])
