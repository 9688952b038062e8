"""Let a template become an interpreter, whose copies are programs of jobs (``init/become.c``)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Final

from streamer.errors import SandboxFailure
from streamer.sandbox.shape import Program

__all__ = ["LIBRARY", "become"]

LIBRARY: Final = "streamer-fork.so"

BECOME: Final = 2
"""Flag of a message to a template."""

MOST_BYTES: Final = 16384
"""Of a message."""


def become(sock: socket.socket, program: Program, home: str) -> None:
    """Send a template the program that it becomes; it answers with another hello.

    Raises OSError, and `SandboxFailure` if the program cannot be one.
    """
    variables = [f"{name}={value}" for name, value in program.variables(home).items()]
    head = (BECOME, len(program.argv), len(variables), program.limits.stack_bytes)
    words = (home, *program.argv, *variables)
    message = struct.pack("<IIIQ", *head) + b"".join(os.fsencode(word) + b"\0" for word in words)
    if len(message) > MOST_BYTES:
        raise SandboxFailure("its arguments and variables are too long for a message")
    with _library() as library:
        socket.send_fds(sock, [message], [library])


@contextmanager
def _library() -> Iterator[int]:
    """Open a copy of our library that has no name anywhere, since no job is to find it.

    Nobody can write to it later: before anything of a job runs, the interpreter has mapped it for
    itself alone and closed its descriptor, and only a process with a capability on the host could
    open it again by that mapping (``/proc/PID/map_files``, proc(5)).
    """
    try:
        content = (files("streamer.sandbox") / "init" / LIBRARY).read_bytes()
    except FileNotFoundError:
        raise SandboxFailure(f"streamer/sandbox/init/{LIBRARY} is not built") from None
    fd = os.memfd_create("init")
    try:
        os.write(fd, content)
        yield fd
    finally:
        os.close(fd)
