"""Find the address of a client behind proxies that the configuration trusts."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

from aiohttp import web

__all__ = ["AddressOf", "client_address"]

AddressOf = Callable[[web.BaseRequest], str]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def client_address(trusted_proxies: Sequence[str]) -> AddressOf:
    """Return a function that finds the address of a request's client, for display only.

    Each proxy appends its own client to X-Forwarded-For, so the list is read from the end, as long
    as the named proxies are trusted. Anybody can forge what stands before that.
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
