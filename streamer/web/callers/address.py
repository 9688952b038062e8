"""Find the address of a client behind proxies that the configuration trusts."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Final

from aiohttp import web

__all__ = ["AddressOf", "client_address", "network_of"]

AddressOf = Callable[[web.BaseRequest], str]
LOCAL: Final = "127.0.0.1"
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def client_address(trusted_proxies: Sequence[str]) -> AddressOf:
    """Return a function that finds the address of a request's client; it never grants access.

    Each proxy appends its own client to X-Forwarded-For, so the list is read from the end, as long
    as the named proxies are trusted. Anybody can forge what stands before that. Who connects to a
    Unix socket, which has no address, is at 127.0.0.1.
    """
    networks = [ipaddress.ip_network(entry, strict=False) for entry in trusted_proxies]

    def is_trusted(address: Address) -> bool:
        return any(address in network for network in networks)

    def address_of(request: web.BaseRequest) -> str:
        found = peer = LOCAL if request.remote == "" else request.remote or ""
        hops = request.headers.getall("X-Forwarded-For", []) if networks else []
        named = [peer, *(hop for line in reversed(hops) for hop in reversed(line.split(",")))]
        for text in named:
            address = _parsed(text)
            if address is None:
                break
            found = str(address)
            if not is_trusted(address):
                break
        return found

    return address_of


def network_of(address: str) -> str:
    """Return what stands for a client in rates: its address, of IPv6 its network of 64 bits.

    Whoever has one address of such a network has all of them.
    """
    found = _parsed(address)
    if not isinstance(found, ipaddress.IPv6Address):
        return address
    return str(ipaddress.ip_network((int(found), 64), strict=False))


def _parsed(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.strip().removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
