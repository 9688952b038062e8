"""Bound what connections hold of requests that no handler has: their heads, and what comes early.

aiohttp takes a head of a megabyte, and 32 such requests more while one is being answered: 60 MiB of
one connection. Bodies are not counted here, they have a bound of their own (`streamer.web.bodies`).
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from streamer.errors import CallerError, CapacityError, InvalidRequest, RateLimited, TooLarge

__all__ = ["READ_BYTES", "Heads", "Unhandled"]

READ_BYTES: Final = 16 * 1024
"""What is read from a connection at a time, and what aiohttp keeps of a body before it is read."""

HEAD_BYTES: Final = 128 * 1024
"""A head, and what may come of its body before the handler begins."""

EARLY_BYTES: Final = 2048
"""What may come of further requests before one is answered, and of a body where none belongs."""

AVERAGE_BYTES: Final = 2048
"""What each connection may hold of a head however much the others do."""

LEAST_ROOM_BYTES: Final = 4 * 1024 * 1024


class Heads:
    """What all connections, `most` of them, hold of heads."""

    def __init__(self, most: int) -> None:
        self._room = max(most * AVERAGE_BYTES, LEAST_ROOM_BYTES)
        self.bytes = 0
        """The sum."""

    @property
    def full(self) -> bool:
        """Whether a connection may have no more than its part."""
        return self.bytes > self._room


class Unhandled:
    """What one connection holds.

    Bytes belong to a head, to the body of the request that is being answered, or to requests that
    come early: those are taken for a moment, and make the connection end with the next answer.
    """

    def __init__(self, heads: Heads) -> None:
        self._heads = heads
        self._held = 0
        self._request: web.Request | None = None
        """What is being answered, or was and has a body that is still coming."""
        self._answered = False
        self._lost = False
        self._arrived = 0
        """What came and is not known to be of the request that is being answered."""
        self._head_bytes = 0
        self._body_bytes = 0
        """What was known of its head and of its body."""

    def arrived(self, size: int) -> CallerError | CapacityError | None:
        """Count bytes; return why they and the connection are refused, if they are."""
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
                    "the heads of requests take all the room there is for them: try again later"
                )
        elif request.content.is_eof():
            self._settle(request)
            if self._arrived > EARLY_BYTES:
                request.protocol.close()  # it takes no more, and ends with the answer
        return None

    def begin(self, request: web.Request) -> CallerError | None:
        """Have a handler answer a request; return why it is refused, if it is."""
        if self._request is not None:
            self._settle(self._request)
        self._request = request
        self._answered = False
        self._head_bytes = _size_of_head(request)
        self._body_bytes = 0
        self._arrived = max(self._arrived - self._head_bytes, 0)
        self._settle(request)
        length = request.content_length
        if request.method != "POST" and request.body_exists:
            if length is None or length > EARLY_BYTES:
                return TooLarge(f"{request.method} takes no body")
        # Twice as much: spaces around values are not known to be of a head.
        elif self._arrived > 2 * EARLY_BYTES and not _is_chunked(request):
            return InvalidRequest("send the next request once this one is answered")
        return None

    def end(self) -> bool:
        """Take note that the handler has returned; tell whether the connection ends with that.

        What is left of the body is still to come, and thrown away.
        """
        self._answered = True
        return self._let_go()

    def forget(self) -> None:
        """Hold nothing any more: the connection is lost."""
        self._hold(0)
        self._lost = True

    def _let_go(self) -> bool:
        """Be done with a request whose body has come; tell whether too much came behind it."""
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
        """Tell what came of the body from what came early."""
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
    """Tell whether a body has more bytes than are counted of it: the lengths of its chunks."""
    return request.body_exists and request.content_length is None
