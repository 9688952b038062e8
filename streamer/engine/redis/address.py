"""Read ``engine.url``: where the server is, how to log in, and how the keys begin."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from streamer.errors import ConfigError

__all__ = ["SCHEMES", "Address", "parse_address"]

SCHEMES: Final = ("redis", "rediss", "redis+unix")

PORT: Final = 6379

PREFIX: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")

OPTIONS: Final[Mapping[str, str]] = {
    "ca_certs": "ssl_ca_certs",
    "certfile": "ssl_certfile",
    "keyfile": "ssl_keyfile",
}
"""The files of TLS, and their names in redis-py."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is. `login` and `tls` are arguments of redis-py's connections."""

    host: str = "localhost"
    port: int = PORT
    path: str = ""
    """The path of its Unix socket, if that is used."""
    encrypted: bool = False
    database: int = 0
    prefix: str = "streamer"
    login: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    @property
    def root(self) -> str:
        """What all keys and channels begin with: a hash tag, so that they are in one slot."""
        return f"{{{self.prefix}}}:1:"


def parse_address(url: str) -> Address:
    """Return the address that a URL means. Raises `ConfigError`, which does not show the URL."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError("engine.url: not a URL; write redis://HOST:PORT/DATABASE") from None
    if parts.fragment or "@" in parts.query:
        raise ConfigError("engine.url: write # and ? in a password as %23 and %3F")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    prefix = query.pop("prefix", "streamer")
    if not PREFIX.fullmatch(prefix):
        raise ConfigError("engine.url: prefix may have 1 to 64 of: letters, digits, _ . : -")
    encrypted = parts.scheme == "rediss"
    of_socket = parts.scheme == "redis+unix"
    tls = {OPTIONS[name]: query.pop(name) for name in OPTIONS if name in query}
    if tls and not encrypted:
        raise ConfigError("engine.url: only rediss:// has the options of TLS")
    database = query.pop("db", "0") if of_socket else parts.path.strip("/") or "0"
    if not database.isascii() or not database.isdigit():
        raise ConfigError("engine.url: the database is a number: redis://HOST:PORT/0")
    if query:
        known = ["prefix", *(OPTIONS if encrypted else ()), *(["db"] if of_socket else ())]
        raise ConfigError(f"engine.url: unknown option {min(query)!r}; known: {', '.join(known)}")
    if of_socket and (parts.hostname or not parts.path.strip("/")):
        raise ConfigError("engine.url: write redis+unix:///PATH/OF/THE/SOCKET")
    if not of_socket and not parts.hostname:
        raise ConfigError(f"engine.url: no host; write {parts.scheme}://HOST:PORT/DATABASE")
    return Address(
        host=parts.hostname or "",
        port=PORT if port is None else port,
        path=unquote(parts.path) if of_socket else "",
        encrypted=encrypted,
        database=int(database),
        prefix=prefix,
        login=_login(parts),
        tls=tls,
    )


def _login(parts: SplitResult) -> Mapping[str, str]:
    given = {"username": parts.username, "password": parts.password}
    return {name: unquote(value) for name, value in given.items() if value}
