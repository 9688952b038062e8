"""Find the address of a client behind proxies that the configuration trusts."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

from aiohttp import web

__all__ = ["AddressOf", "client_address"]

AddressOf = Callable[[web.BaseRequest], str]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def client_address(trusted_proxies: Sequence[str]) -> AddressOf:
    """Return what tells the address of a request's client; it is for people to read.

    Each proxy adds to the end of X-Forwarded-For whom it was asked by, so the list is read from
    there, for as long as who is named is trusted. What stands before that anybody can write.
    """
    networks = [ipaddress.ip_network(entry, strict=False) for entry in trusted_proxies]

    def is_trusted(address: Address) -> bool:
        return any(address in network for network in networks)

    def address_of(request: web.BaseRequest) -> str:
        found = peer = request.remote or ""
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


def _parsed(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.strip().removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
