"""Send requests to one service, and send them again where that helps."""

from __future__ import annotations

import asyncio
import io
import os
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from typing import IO, Any, Final, TypeVar

import aiohttp
from yarl import URL

from streamer.client.problem import ServiceProblem, check, document_of, documents_of
from streamer.errors import ConfigError, StreamerError

__all__ = [
    "FIRST_PAUSE_S",
    "MAX_PAUSE_S",
    "MAX_RETRY_AFTER_S",
    "REFUSED",
    "TRANSIENT",
    "Connection",
    "Verbs",
    "pause_s",
]

T = TypeVar("T")
_Response = AbstractAsyncContextManager[aiohttp.ClientResponse]

CONNECT_TIMEOUT_S: Final = 10.0
READ_TIMEOUT_S: Final = 100.0
"""Three heartbeats: a stream that is silent for longer counts as lost."""
FIRST_PAUSE_S: Final = 0.2
MAX_PAUSE_S: Final = 10.0
MAX_RETRY_AFTER_S: Final = 60.0
"""A longer Retry-After is raised to the caller instead of waited for."""
REFUSED: Final = frozenset({429, 503})
"""With these codes the service has done nothing, so repeating the request is safe."""
TRANSIENT: Final = REFUSED | {502, 504}


class Connection:
    """The HTTP connections to one service, between `open` and `close`; see `Client`."""

    def __init__(self, url: str, token: str | None, retries: int, grant: str | None = None) -> None:
        base = URL(url if url.endswith("/") else url + "/")
        if base.scheme not in ("http", "https") or not base.host:
            raise ConfigError(
                f"{url!r}: the URL of a service begins with http:// or https://, such as "
                "http://127.0.0.1:8080"
            )
        self.retries = retries
        self._base = base
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._query = {"grant": grant} if grant else {}
        self._http: aiohttp.ClientSession | None = None

    def open(self) -> None:
        """Let it be used, in the event loop that runs now."""
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S
        )
        self._http = aiohttp.ClientSession(headers=self._headers, timeout=timeout)

    async def close(self) -> None:
        """Close the connections; what still uses one fails."""
        if self._http is not None:
            await self._http.close()

    @property
    def http(self) -> aiohttp.ClientSession:
        """What sends requests. Raises `StreamerError` if it is not open."""
        if self._http is None:
            raise StreamerError("use the client as `async with streamer.Client(...) as client:`")
        return self._http

    def url(self, path: str) -> URL:
        """Return the URL of an encoded path below that of the service."""
        return self._base.join(URL(path, encoded=True)).update_query(self._query)

    async def call(
        self,
        method: str,
        path: str,
        shape: type[T],
        *,
        body: bytes | IO[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        twice: bool = True,
        retries: int | None = None,
    ) -> T:
        """Send a request, and repeat it if that helps; `twice` says that repeating it is safe.

        Returns the document that answers it; `shape` is a TypedDict that says what must be there.
        """
        retries = self.retries if retries is None else retries
        url = self.url(path).update_query(params or {})

        def ask() -> _Response:
            # As a file, which aiohttp sends in pieces: it warns about large bytes objects.
            data = None if body is None else _again(body)
            return self.http.request(method, url, data=data, headers=headers)

        def take(response: aiohttp.ClientResponse) -> Coroutine[Any, Any, T]:
            return document_of(response, shape)

        return await self._answered(ask, take, twice=twice, retries=retries)

    async def call_each(
        self, path: str, *, body: bytes, headers: Mapping[str, str]
    ) -> tuple[list[dict[str, Any]], float | None]:
        """Post a request that may be repeated; return the list of documents that answers it.

        With the seconds of Retry-After, or None.
        """
        url = self.url(path)
        return await self._answered(
            lambda: self.http.post(url, data=_again(body), headers=headers),
            documents_of,
            twice=True,
            retries=self.retries,
        )

    async def fetch(self, path: str) -> bytes:
        """Return a body, which is read again if the connection breaks."""
        url = self.url(path)
        return await self._answered(
            lambda: self.http.get(url),
            aiohttp.ClientResponse.read,
            twice=True,
            retries=self.retries,
        )

    async def _answered(
        self,
        ask: Callable[[], _Response],
        take: Callable[[aiohttp.ClientResponse], Awaitable[T]],
        *,
        twice: bool,
        retries: int,
    ) -> T:
        failures = 0
        while True:
            asked_s = 0.0
            try:
                async with ask() as response:
                    await check(response)
                    return await take(response)
            except ServiceProblem as problem:
                again = problem.status in (TRANSIENT if twice else REFUSED)
                again = again and problem.code != "sandbox_unavailable"  # a retry would not help
                asked_s = problem.retry_after or 0.0
                if not again or failures >= retries or asked_s > MAX_RETRY_AFTER_S:
                    raise
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError):
                if not twice or failures >= retries:
                    raise
            await asyncio.sleep(max(asked_s, pause_s(failures)))
            failures += 1


class Verbs:
    """What one part of the interface can be asked, through the connection of a client."""

    _connection: Connection


def _again(body: bytes | IO[bytes]) -> IO[bytes]:
    """Return a body to be sent from its beginning; aiohttp closes what it has sent."""
    if isinstance(body, bytes):
        return io.BytesIO(body)
    again = open(os.dup(body.fileno()), "rb")  # noqa: PTH123, SIM115 - a descriptor, for aiohttp
    again.seek(0)
    return again


def pause_s(failures: int) -> float:
    """Return how long to wait after this many failures in a row, with jitter."""
    doubled = FIRST_PAUSE_S * 2.0 ** min(failures, 10)  # a float cannot hold 2.0**1024
    return min(doubled, MAX_PAUSE_S) * random.uniform(0.5, 1.0)
