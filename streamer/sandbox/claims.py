"""Test, with a program in its sandbox, whether a backend keeps the isolation that it claims.

Only the two claims are tested that a wrapper's options break most easily; `streamer doctor` and
the escape suite test the rest.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from streamer.spi import Backend, Isolation

__all__ = ["broken_claim", "trial_program"]

KEPT: Final = 23
"""An exit code that only the test program uses."""
NETWORK_SHARED: Final = 24
FILES_SHOWN: Final = 25

SCRIPT: Final = """
[ -n "$1" ] && [ -e "$1" ] && exit 25
if [ -n "$2" ] && [ -r /proc/net/tcp ]; then
  while read -r number address rest; do
    [ "$address" = "$2" ] && exit 24
  done </proc/net/tcp
fi
exit 23
"""
"""Uses only shell built-ins: other commands may not exist in the sandbox."""


@contextmanager
def trial_program(backend: Backend, folder: Path) -> Iterator[tuple[str, ...]]:
    """Create what a sandbox must not show, and yield the program that looks for it.

    It is a file in a folder of the host that every user may enter, and a server on the loopback.
    """
    lure = address = ""
    with contextlib.ExitStack() as stack:
        if backend.isolation >= Isolation.NAMESPACES:
            path = folder / f"lure-{secrets.token_hex(8)}"
            path.touch()
            stack.callback(path.unlink, missing_ok=True)
            lure = str(path)
        if backend.isolation >= Isolation.DENY_LIST:
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1))
            # /proc/net/tcp has addresses in this machine's byte order.
            packed = int.from_bytes(socket.inet_aton("127.0.0.1"), sys.byteorder)
            address = f"{packed:08X}:{server.getsockname()[1]:04X}"
        yield ("/bin/sh", "-c", SCRIPT, "sh", lure, address)


def broken_claim(backend: Backend, code: int, *, as_user: bool) -> str:
    """Return what the end of the test program shows to be wrong, or ``""``.

    `as_user` says that the sandbox should run as its own user.
    """
    claim = f"it claims Isolation.{backend.isolation.name}, but"
    if code == KEPT:
        return ""
    if code == FILES_SHOWN:
        return f"{claim} a program in it sees files of the host: hide them, or claim less"
    if code == NETWORK_SHARED:
        return (
            f"{claim} a program in it has the host's network: use a network namespace unless "
            "job.network, or claim less"
        )
    ended = f"exit code {code}" if code >= 0 else f"signal {-code}"
    if code in (126, 127):
        ended += " (cannot be executed)"
    hint = "; does the plan say start_as=job.identity?" if as_user else ""
    return f"a test program ended with {ended} instead of {KEPT}{hint}"
