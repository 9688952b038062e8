"""Tell one network namespace from another (network_namespaces(7))."""

from __future__ import annotations

import socket
from typing import Final

from streamer.errors import SandboxFailure

__all__ = ["check_own_network"]

_SO_NETNS_COOKIE: Final = 71
"""Reads the number of a network namespace (asm-generic/socket.h); Python has no name for it."""


def check_own_network(listener: socket.socket) -> None:
    """Raise `SandboxFailure` unless a socket is in another network namespace than this process.

    Otherwise the sandbox could bypass the proxy and reach everything that we can.
    """
    with socket.socket() as ours:
        try:
            same = _network_of(ours) == _network_of(listener)
        except OSError as error:
            raise SandboxFailure(
                "the allow-list of hosts needs Linux 5.14, to distinguish network namespaces "
                f"(SO_NETNS_COOKIE: {error.strerror})"
            ) from None
    if same:
        raise SandboxFailure(
            "the sandbox shares the host's network, so an allow-list has no effect"
        )


def _network_of(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
