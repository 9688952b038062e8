"""Create the three standard descriptors of a run, or its terminal, and our ends of them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import termios
from collections.abc import Mapping
from typing import Final, Literal

from streamer.spi import Identity

__all__ = ["Stdio", "StreamName"]

StreamName = Literal["stdout", "stderr"]

PIPE_BYTES: Final = 256 * 1024
"""Larger than the default of 64 KiB: a reader that merges writes must not stall the writer."""


class Stdio:
    """The standard descriptors of a run: the program's ends, and ours to be taken (`take`).

    The creator must close it; that closes every descriptor that was not taken.
    """

    def __init__(
        self,
        theirs: tuple[int, int, int],
        ours: Mapping[str, int],
        *,
        shared: bool = False,
        is_terminal: bool = False,
    ) -> None:
        """`theirs` are standard input, output and error; `ours` are by the names of the streams.

        `shared` says that other runs have the same program's ends, so they belong to no user.
        """
        self._theirs = theirs
        self._ours = dict(ours)
        self._shared = shared
        self.is_terminal = is_terminal

    @classmethod
    def pipes(cls, *, with_input: bool = False) -> Stdio:
        """Create three pipes. Without input, standard input is at its end."""
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
                # Refused if the user's pipe memory is used up (pipe(7)); the default works too.
                with contextlib.suppress(OSError):
                    fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            unless_made.pop_all()
        made = cls((theirs[0], theirs[1], theirs[2]), ours)
        if not with_input:
            made.end_input()
        return made

    @classmethod
    def lively(cls, *, with_input: bool = False) -> Stdio:
        """Create the same, but with a pseudo-terminal as standard output.

        It changes nothing that is written, is nobody's controlling terminal, and has no size.
        """
        with contextlib.ExitStack() as unless_made:
            made = cls.pipes(with_input=with_input)
            unless_made.callback(made.close)
            ours, theirs = os.openpty()
            unless_made.callback(os.close, ours)
            unless_made.callback(os.close, theirs)
            settings = termios.tcgetattr(theirs)
            settings[1] &= ~termios.OPOST
            settings[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
            termios.tcsetattr(theirs, termios.TCSANOW, settings)
            os.set_blocking(ours, False)
            stdin, stdout, stderr = made._theirs  # noqa: SLF001 - of this class
            for pipe in (stdout, made.take("stdout")):
                os.close(pipe)
            made._theirs = (stdin, theirs, stderr)  # noqa: SLF001 - as above
            made._ours["stdout"] = ours  # noqa: SLF001 - as above
            unless_made.pop_all()
        return made

    @classmethod
    def terminal(cls, fd: int) -> Stdio:
        """Take ownership of our end of a terminal; the init has the program's.

        What is typed and what the program writes, its standard error included, pass the same
        descriptor: it is taken twice.
        """
        with contextlib.ExitStack() as unless_made:
            unless_made.callback(os.close, fd)
            ours = {"stdout": fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0), "stdin": fd}
            unless_made.pop_all()
        return cls((-1, -1, -1), ours, is_terminal=True)

    @classmethod
    def null(cls) -> Stdio:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        return cls((null, null, null), {}, shared=True)

    @property
    def theirs(self) -> tuple[int, int, int]:
        """The program's standard input, output and error."""
        return self._theirs

    def take(self, name: Literal["stdin"] | StreamName) -> int:
        """Return our end of a stream; from now on the caller must close it."""
        return self._ours.pop(name)

    def end_input(self) -> None:
        """Let standard input be at its end."""
        os.close(self.take("stdin"))

    def give_to(self, user: Identity) -> None:
        """Let the user of a sandbox also open them by name (/dev/stdout)."""
        if not self._shared and not self.is_terminal:
            for fd in self._theirs:
                os.fchown(fd, user.uid, user.gid)

    def close_theirs(self) -> None:
        """Close our copies of the program's ends, once the program has them. Idempotent."""
        for fd in {*self._theirs} - {-1}:
            os.close(fd)
        self._theirs = (-1, -1, -1)

    def close(self) -> None:
        """Close what was not taken. Idempotent."""
        self.close_theirs()
        while self._ours:
            os.close(self._ours.popitem()[1])
