"""Limit the bytes that connections hold for requests without a handler: heads, pipelined requests.

aiohttp accepts a head of a megabyte, and 32 more such requests while one is being answered: 60 MiB
for one connection. Bodies are not counted here; they have their own limit (`streamer.web.bodies`).
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from streamer.errors import CallerError, CapacityError, InvalidRequest, RateLimited, TooLarge

__all__ = ["READ_BYTES", "Heads", "Unhandled"]

READ_BYTES: Final = 16 * 1024
"""How much is read from a connection at a time, and how much of an unread body aiohttp keeps."""

HEAD_BYTES: Final = 128 * 1024
"""The limit for a head, with what arrives of its body before the handler begins."""

EARLY_BYTES: Final = 2048
"""The limit for pipelined requests, and for a body where none is expected."""

AVERAGE_BYTES: Final = 2048
"""The size of a head that each connection may always have."""

LEAST_ROOM_BYTES: Final = 4 * 1024 * 1024


class Heads:
    """The bytes of heads of all connections, at most `most` of them."""

    def __init__(self, most: int) -> None:
        self._room = max(most * AVERAGE_BYTES, LEAST_ROOM_BYTES)
        self.bytes = 0
        """The sum."""

    @property
    def full(self) -> bool:
        """Whether connections may have only `AVERAGE_BYTES` each."""
        return self.bytes > self._room


class Unhandled:
    """The unhandled bytes of one connection.

    Bytes belong to a head, to the body of the request that is being answered, or to pipelined
    requests: a few of those are accepted, but the connection is closed after the next response.
    """

    def __init__(self, heads: Heads) -> None:
        self._heads = heads
        self._held = 0
        self._request: web.Request | None = None
        """The request that is being answered, or was and whose body is still arriving."""
        self._answered = False
        self._lost = False
        self._arrived = 0
        """The bytes that are not known to belong to the request that is being answered."""
        self._head_bytes = 0
        self._body_bytes = 0
        """The bytes known to belong to its head and its body."""

    def arrived(self, size: int) -> CallerError | CapacityError | None:
        """Count bytes; return an error if the connection must be refused."""
        if self._answered:
            self._let_go()
        self._arrived += size
        request = self._request
        if request is None:
            self._hold(self._arrived)
            if self._held > HEAD_BYTES:
                return TooLarge("the head of a request is too large")
            if self._heads.full and self._held > AVERAGE_BYTES:
                return RateLimited(
                    "the heads of requests use all the memory for heads: try again later"
                )
        elif request.content.is_eof():
            self._settle(request)
            if self._arrived > EARLY_BYTES:
                request.protocol.close()  # it reads no more, and is closed after the response
        return None

    def begin(self, request: web.Request) -> CallerError | None:
        """Record that a handler answers a request; return an error if it must be refused."""
        if self._request is not None:
            self._settle(self._request)
        self._request = request
        self._answered = False
        self._head_bytes = _size_of_head(request)
        self._body_bytes = 0
        self._arrived = max(self._arrived - self._head_bytes, 0)
        self._settle(request)
        length = request.content_length
        if request.method not in ("POST", "PUT") and request.body_exists:
            if length is None or length > EARLY_BYTES:
                return TooLarge(f"{request.method} must not have a body")
        # Twice as much: spaces around values cannot be attributed to a head.
        elif self._arrived > 2 * EARLY_BYTES and not _is_chunked(request):
            return InvalidRequest("send the next request only after the response to this one")
        return None

    def end(self) -> bool:
        """Record that the handler has returned; return whether the connection must be closed.

        The rest of the body may still arrive and is discarded.
        """
        self._answered = True
        return self._let_go()

    def forget(self) -> None:
        """Release everything: the connection is lost."""
        self._hold(0)
        self._lost = True

    def _let_go(self) -> bool:
        """Finish a request whose body has arrived; return whether too much came after it."""
        request = self._request
        if request is None or not request.content.is_eof():
            return False
        self._settle(request)
        self._request = None
        self._hold(self._arrived)
        if self._arrived <= EARLY_BYTES:
            return False
        request.protocol.close()
        return True

    def _settle(self, request: web.Request) -> None:
        """Separate the bytes of the body from those of pipelined requests."""
        # The reader of a request without a body does not count.
        body = request.content.total_raw_bytes if request.body_exists else 0
        self._arrived = max(self._arrived - (body - self._body_bytes), 0)
        self._body_bytes = body
        self._hold(self._head_bytes + self._arrived)

    def _hold(self, size: int) -> None:
        if not self._lost:
            self._heads.bytes += size - self._held
            self._held = size


def _size_of_head(request: web.Request) -> int:
    lines = sum(len(name) + len(value) + 4 for name, value in request.raw_headers)
    return len(f"{request.method} {request.raw_path} HTTP/1.1\r\n\r\n") + lines


def _is_chunked(request: web.Request) -> bool:
    """Tell whether a body is chunked, so that more bytes arrive than are counted."""
    return request.body_exists and request.content_length is None
