"""Ask the kernel which account has one end of a TCP connection (sock_diag(7)).

The kernel looks up only this connection. The tables in /proc/net list all connections of the host,
and anybody can open ten thousands: reading those blocked the service for a tenth of a second with
each request.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import os
import socket
import struct
from typing import Final

__all__ = ["holder", "works"]

NETLINK_SOCK_DIAG: Final = 4
SOCK_DIAG_BY_FAMILY: Final = 20
NLM_F_REQUEST: Final = 1
NLMSG_ERROR: Final = 2
TCP_LISTEN: Final = 10
NO_COOKIE: Final = 0xFFFF_FFFF
ANSWER_BYTES: Final = 8192

HEADER: Final = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, number, sender."""
QUESTION: Final = struct.Struct("=BBBxI")
"""struct inet_diag_req_v2 up to its identity: family, protocol, extensions, states."""
IDENTITY: Final = struct.Struct("!HH16s16s")
"""struct inet_diag_sockid up to its interface: ports and addresses in network byte order."""
REST: Final = struct.Struct("=III")
"""The rest of it: interface and cookie."""
STATE: Final = struct.Struct("=xBxx")
COUNTS: Final = struct.Struct("=IIIII")
"""The part of struct inet_diag_msg after the identity: expiry, two queues, user id, inode."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
End = tuple[Address, int]


def holder(end: End, other: End) -> tuple[int, int] | None:
    """Return user id and inode of the socket at `end` of a connection, or None if there is none.

    Raises OSError if the kernel does not answer.
    """
    version, identity = end[0].version, _identity(end, other)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    question = QUESTION.pack(family, socket.IPPROTO_TCP, 0, NO_COOKIE) + identity
    question += REST.pack(0, NO_COOKIE, NO_COOKIE)
    size = HEADER.size + len(question)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as asking:
        asking.setblocking(False)  # the answer is there as soon as the question is sent
        asking.send(HEADER.pack(size, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 1, 0) + question)
        answer = asking.recv(ANSWER_BYTES)
    _, kind, *_ = HEADER.unpack_from(answer)
    if kind == NLMSG_ERROR:
        (code,) = struct.unpack_from("=i", answer, HEADER.size)
        if -code == errno.ENOENT:
            return None
        raise OSError(-code, os.strerror(-code))
    (state,) = STATE.unpack_from(answer, HEADER.size)
    at = HEADER.size + STATE.size
    ports = struct.unpack_from("!HH", answer, at)
    # Without such a connection the kernel may return a listening socket.
    if state == TCP_LISTEN or ports != (end[1], other[1]):
        return None
    *_, uid, inode = COUNTS.unpack_from(answer, at + IDENTITY.size + REST.size)
    return uid, inode


@functools.cache
def works() -> bool:
    """Tell whether the kernel supports this; some are built without it."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname()) as client,
        ):
            ours, theirs = client.getsockname(), client.getpeername()
            found = holder(
                (ipaddress.ip_address(ours[0]), ours[1]),
                (ipaddress.ip_address(theirs[0]), theirs[1]),
            )
            return found == (os.geteuid(), os.fstat(client.fileno()).st_ino)
    except OSError:
        return False


def _identity(end: End, other: End) -> bytes:
    return IDENTITY.pack(end[1], other[1], end[0].packed, other[0].packed)
