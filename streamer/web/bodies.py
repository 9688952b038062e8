"""Read request bodies, all of them together within one limit."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from streamer.config.schema import ServerConfig
from streamer.errors import InvalidRequest, RateLimited, TooLarge

__all__ = ["Bodies"]


class Bodies:
    """The bodies that are being received or parsed.

    A body counts from its first byte until its request is done with it, by its bytes in memory: a
    compressed one counts as it is after decompression. A tenant with a name may use at most half.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._largest = config.max_body_bytes
        self._room = config.bodies_bytes
        self._timeout_s = config.body_timeout_s
        self._held: Counter[str] = Counter()

    @property
    def held(self) -> int:
        return self._held.total()

    @asynccontextmanager
    async def read(self, request: web.Request, tenant: str) -> AsyncIterator[bytearray]:
        """Read a body, and count it until the caller is done with it.

        It has our own limits, whatever those of a host application. Raises `TooLarge`,
        `RateLimited`, or `InvalidRequest` if it does not arrive in time.
        """
        if (request.content_length or 0) > self._largest:
            raise self._too_large()
        body = bytearray()
        counted = 0
        try:
            try:
                async with asyncio.timeout(self._timeout_s):
                    async for chunk in request.content.iter_any():
                        self._held[tenant] += len(chunk)
                        counted += len(chunk)
                        self._check_room(tenant, counted)
                        body += chunk
            except web.RequestPayloadError:
                # aiohttp would read to its end after the response, and fail with a traceback.
                request.content.feed_eof()
                raise InvalidRequest(
                    "the body does not match its Content-Encoding or Transfer-Encoding"
                ) from None
            except TimeoutError:
                late = f"the body did not arrive within {self._timeout_s:g} s"
                raise InvalidRequest(late) from None
            yield body
        finally:
            self._held[tenant] -= counted
            if not self._held[tenant]:
                del self._held[tenant]

    def _check_room(self, tenant: str, size: int) -> None:
        if size > self._largest:
            raise self._too_large()
        share = max(self._room // 2, self._largest) if tenant else self._room
        if self.held > self._room or self._held[tenant] > share:
            raise RateLimited(
                "the bodies of requests in progress use all the memory for bodies "
                "(server.bodies_bytes): try again later"
            )

    def _too_large(self) -> TooLarge:
        return TooLarge(f"a body may have at most {self._largest} bytes (server.max_body_bytes)")
