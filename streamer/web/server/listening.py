"""The sockets on which a service listens."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

from streamer.config.schema import ServerConfig
from streamer.errors import ConfigError

__all__ = ["BACKLOG", "bound", "local_url", "url_of"]

BACKLOG: Final = 4096
"""Connections that wait until they are accepted; the kernel drops more, and takes no more than
net.core.somaxconn. A client that is dropped tries again after a second."""

NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def bound(server: ServerConfig) -> list[socket.socket]:
    """Return a listening socket for each address of `server.host`. Raises `ConfigError`."""
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        found = socket.getaddrinfo(
            server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                sockets.append(_listening(family, address))
            except OSError as error:
                # A name may have an address of a family that this machine does not use.
                if error.errno not in NOT_HERE:
                    raise
                missing = error
        if missing is not None and not sockets:
            raise missing
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise ConfigError(f"cannot listen on {server.host}:{server.port}: {_why(error)}") from error
    return sockets


def _listening(family: int, address: object) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)  # type: ignore[arg-type]
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def url_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def local_url(url: str) -> str:
    """Return a URL for users of this machine: every wildcard includes a loopback address."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _why(error: OSError) -> str:
    """Return why the address cannot be listened on, and the setting to change."""
    if isinstance(error, socket.gaierror):
        return f"{error.strerror}; set server.host or use --host"
    reason = os.strerror(error.errno) if error.errno else str(error)
    key = "port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "host"
    return f"{reason}; set server.{key} or use --{key}"
