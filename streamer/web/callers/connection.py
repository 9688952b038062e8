"""Find out whether a connection stays on this machine, and whose account is at its other end.

Nothing here uses what the request says, which the caller chooses.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
import struct
import sys
from pathlib import Path
from typing import Final, Protocol

from streamer.web.callers import sockdiag

__all__ = ["Socket", "account", "is_local"]

TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
READINGS: Final = 4
CREDENTIALS: Final = struct.Struct("iII")
"""struct ucred: process, user and group (unix(7))."""
MAPPED: Final = ipaddress.IPv6Address("::ffff:0:0")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Socket(Protocol):
    """The methods of a connected socket that are needed; each event loop has its own class."""

    @property
    def family(self) -> int: ...

    def getsockname(self) -> object: ...

    def getpeername(self) -> object: ...

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


def is_local(sock: Socket) -> bool:
    """Tell whether a connection came from this machine, to an address of this machine only.

    A Unix socket, or loopback at *both* ends: a host may route packets from elsewhere to
    127.0.0.1 (net.ipv4.conf.*.route_localnet, as Kubernetes once did).
    """
    if sock.family == socket.AF_UNIX:
        return True
    ends = _ends(sock)
    return ends is not None and all(address.is_loopback for address, _ in ends)


def account(sock: Socket) -> int | None:
    """Return the user id at the other end of a local connection, or None if unknown."""
    try:
        uid = _unix_account(sock) if sock.family == socket.AF_UNIX else _tcp_account(sock)
        # An account that our user namespace does not map has this id.
        overflow = int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return None
    return None if uid == overflow else uid


def _unix_account(sock: Socket) -> int:
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return int(CREDENTIALS.unpack(credentials)[1])


def _tcp_account(sock: Socket) -> int | None:
    """Ask the kernel for the other end, or look it up in the tables in /proc if that is impossible.

    A closed end belongs to no process and is shown as root's with inode 0: so the inode is checked
    too. Neither the answer nor a long table is atomic, so two readings must agree.
    """
    ends = _ends(sock)
    if ends is None:
        return None
    own, peer = ends
    asked = sockdiag.works()
    before = None
    for _ in range(READINGS):
        owner = sockdiag.holder(peer, own) if asked else _owner(own, peer)
        if owner is not None and owner == before:
            uid, inode = owner
            return uid if inode else None
        before = owner
    return None


def _owner(own: tuple[Address, int], peer: tuple[Address, int]) -> tuple[int, int] | None:
    """Return user id and inode of the connection whose own end is `peer`."""
    # With IPv4 the other end may be a socket of either family.
    pairs = [
        f" {_as_in_table(*peer, version)} {_as_in_table(*own, version)} "
        for version in ((4, 6) if own[0].version == 4 else (6,))
    ]
    for table in TABLES:
        if not table.exists():  # a kernel without IPv6
            continue
        text = table.read_text()
        for pair in pairs:
            at = text.find(pair)
            if at >= 0:
                # local, remote, state, queues, timer, retransmits, uid, timeout, inode
                columns = text[at : text.find("\n", at)].split()
                return int(columns[6]), int(columns[8])
    return None


def _as_in_table(address: Address, port: int, version: int) -> str:
    """Format an address as in /proc/net/tcp and tcp6: 32-bit words in this machine's byte order."""
    if version == 6 and address.version == 4:
        address = ipaddress.IPv6Address(int(MAPPED) + int(address))
    raw = address.packed
    words = [raw[at : at + 4] for at in range(0, len(raw), 4)]
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words) + f":{port:04X}"


def _ends(sock: Socket) -> tuple[tuple[Address, int], tuple[Address, int]] | None:
    try:
        own, peer = _address(sock.getsockname()), _address(sock.getpeername())
    except (OSError, ValueError):  # no longer connected, or not a network socket
        return None
    return own, peer


def _address(name: object) -> tuple[Address, int]:
    if not isinstance(name, tuple) or len(name) < 2:
        raise ValueError("not an IPv4 or IPv6 address")
    return _parsed(name[0]), int(name[1])


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> Address:
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address
