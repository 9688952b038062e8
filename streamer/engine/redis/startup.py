"""Say what is wrong if a server cannot be used."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from streamer.engine.redis.address import Address
from streamer.engine.redis.connection import LOST
from streamer.engine.redis.link import Link
from streamer.errors import ServiceError

__all__ = ["check", "explained"]

log: Final = logging.getLogger(__name__)

OLDEST: Final = 7


@contextmanager
def explained(address: Address) -> Iterator[None]:
    """Raise `ServiceError`, with the remedy, if the server cannot be used."""
    try:
        yield
    except NoPermissionError as error:
        raise ServiceError(
            f"engine.url: its user may not use {address} as needed ({error}); "
            "docs/redis.md has the rights"
        ) from None
    except (ResponseError, *LOST) as error:
        # On a Unix socket redis-py has the second in the first.
        refused = isinstance(error, AuthenticationError | ResponseError)
        if refused or isinstance(error.__cause__, AuthenticationError):
            raise ServiceError(
                f"engine.url: {address} refuses the login ({error}): check the user and the "
                "password"
            ) from None
        raise ServiceError(
            f"engine.url: there is no answer from {address} ({error}): is the server running, and "
            "can this machine reach it?"
        ) from None


async def check(link: Link) -> None:
    """Raise `ServiceError` if the server is too old, and warn of what would lose jobs."""
    where = str(link.address)
    _check_version(where, _fields(await link.call("INFO", "server")))
    _warn_of_eviction(where, _fields(await link.call("INFO", "memory")))


def _check_version(where: str, server: dict[str, str]) -> None:
    version = server.get("redis_version", "0")
    if int(version.partition(".")[0]) < OLDEST:
        raise ServiceError(
            f"engine.url: {where} is Redis {version}; the engine needs Redis {OLDEST} or newer, "
            "or Valkey"
        )


def _warn_of_eviction(where: str, memory: dict[str, str]) -> None:
    policy = memory.get("maxmemory_policy", "noeviction")
    if memory.get("maxmemory", "0") != "0" and policy != "noeviction":
        log.warning(
            "%s deletes keys when its memory is full (maxmemory-policy %s), jobs and their output "
            "among them: set noeviction",
            where,
            policy,
        )


def _fields(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode().splitlines())
    return {name: value for name, colon, value in lines if colon}
