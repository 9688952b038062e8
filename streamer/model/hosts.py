"""Decide which hosts and addresses a job's proxy may reach.

Hosts are compared in one canonical form, so that no two parsers can read one differently: a
name of lower-case ASCII letters, digits, ``-`` and ``_`` without a trailing dot, or an address
as the ``ipaddress`` module writes it. A host without a canonical form is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import Final, Self

from streamer.errors import ConfigError

__all__ = ["DEFAULT_PORTS", "Address", "HostRule", "Place", "address_refusal", "canonical_host"]

Address = IPv4Address | IPv6Address

DEFAULT_PORTS: Final = (80, 443)
"""The ports that an entry without a port allows."""

MAX_NAME: Final = 253
MAX_PORT: Final = 65535
LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
# Resolvers accept this as some form of an IPv4 address (WHATWG URL, "ends in a number").
NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")

# IANA's special-purpose registries (RFC 6890), spelled out: `is_global` changed between
# releases of Python (CVE-2024-4032).
REFUSED_IPV4: Final = tuple(
    (IPv4Network(network), what)
    for network, what in (
        ("0.0.0.0/8", "this host"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared between a provider and its customers"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "a cloud's metadata service"),  # Azure, and no special range
        ("169.254.0.0/16", "link-local, where clouds have their metadata service"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved for protocols"),
        ("192.0.2.0/24", "for documentation"),
        ("192.88.99.0/24", "a relay into IPv6"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "for benchmarks"),
        ("198.51.100.0/24", "for documentation"),
        ("203.0.113.0/24", "for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
UNICAST_IPV6: Final = IPv6Network("2000::/3")
"""All unicast addresses that are assigned; loopback, private, link-local, multicast are outside."""
REFUSED_IPV6: Final = tuple(
    (IPv6Network(network), what)
    for network, what in (
        ("2001::/23", "reserved for protocols, Teredo among them"),
        ("2001:db8::/32", "for documentation"),
        ("2002::/16", "an IPv4 address inside 6to4"),
        ("3fff::/20", "for documentation"),
    )
)
NAT64: Final = IPv6Network("64:ff9b::/96")
"""NAT64: the IPv4 address is in the last 32 bits (RFC 6052)."""


def address_refusal(address: Address) -> str:
    """Return the kind of an address that must not be connected to, else ``""``."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address_refusal(address.ipv4_mapped)
        if address in NAT64:
            return address_refusal(IPv4Address(int(address) & 0xFFFF_FFFF))
        for reserved, what in REFUSED_IPV6:
            if address in reserved:
                return what
        return "" if address in UNICAST_IPV6 and address.is_global else "private or reserved"
    for network, what in REFUSED_IPV4:
        if address in network:
            return what
    return "" if address.is_global else "private or reserved"


def canonical_host(text: str) -> str:
    """Return the canonical form of a name or address; an IPv6 address has no brackets.

    Raises ValueError with the reason.
    """
    if not text.isascii():
        raise ValueError("a host name has ASCII letters only; write it in its xn-- form")
    if ":" in text:
        address = IPv6Address(text)
        if address.scope_id is not None:
            raise ValueError("an address must not have a zone")
        return str(address)
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > MAX_NAME or not all(LABEL.fullmatch(label) for label in labels):
        raise ValueError("not a host name")
    if NUMBER.fullmatch(labels[-1]):
        return str(IPv4Address(text))  # four decimal numbers only
    return name


@dataclass(frozen=True, slots=True)
class Place:
    """A canonical host and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int | None = None) -> Self:
        """Read ``host``, ``host:port`` or ``[address]:port``. Raises ValueError with the reason."""
        if text.startswith("["):
            inside, bracket, rest = text[1:].partition("]")
            if not bracket or ":" not in inside or (rest and not rest.startswith(":")):
                raise ValueError("not an IPv6 address in brackets")
            host, colon, port = inside, rest[:1], rest[1:]
        else:
            host, colon, port = text.partition(":")
        if not colon and default_port is not None:
            return cls(canonical_host(host), default_port)
        if not PORT.fullmatch(port) or int(port) > MAX_PORT:
            raise ValueError(f"a port is a number from 1 to {MAX_PORT}")
        return cls(canonical_host(host), int(port))

    @property
    def address(self) -> Address | None:
        """The host as an address; None if it is a name."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class HostRule:
    """One entry of the allow-list: a host, or all names below a suffix, on some ports."""

    host: str
    below: bool
    ports: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``host`` or ``*.suffix``, each with an optional ``:port``. Raises `ConfigError`."""
        below = text.startswith("*.")
        try:
            # 0 is not a valid port, so it stands for "no port given".
            place = Place.parse(text.removeprefix("*."), 0)
        except ValueError as error:
            raise ConfigError(
                f"{text!r}: {error}; write a host such as example.org, or *.example.org for all "
                "names below it, each with an optional :PORT"
            ) from None
        address = place.address
        if below and (address is not None or "." not in place.host):
            raise ConfigError(
                f"{text!r} is a whole top-level domain or an address; write at least two "
                "labels after *., such as *.example.org"
            )
        kind = "" if address is None else address_refusal(address)
        if kind:
            raise ConfigError(
                f"{text!r}: this address is {kind}, and such are always refused; remove it"
            )
        return cls(place.host, below, (place.port,) if place.port else DEFAULT_PORTS)

    def allows(self, place: Place) -> bool:
        """``*.suffix`` does not allow the suffix itself."""
        if place.port not in self.ports:
            return False
        if self.below:
            return place.host.endswith(f".{self.host}")
        return place.host == self.host
