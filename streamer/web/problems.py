"""Answer errors with problem documents (RFC 9457)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

from aiohttp import hdrs, web
from msgspec import UNSET
from multidict import CIMultiDict

from streamer.errors import (
    CallerError,
    CapacityError,
    RateLimited,
    StreamerError,
    Unauthorized,
    cut,
)
from streamer.model.logfields import about
from streamer.model.ranges import Unsatisfiable
from streamer.sse.sessionmap import Full
from streamer.web.answers import Problem
from streamer.web.callers.access import TENANT
from streamer.web.documents import dump
from streamer.web.loggedpath import job_of, logged_path
from streamer.web.refusals import worded

__all__ = [
    "TITLES",
    "answer",
    "leave_packed",
    "limited",
    "problem",
    "problems",
    "retry_after",
    "tell",
]

log: Final = logging.getLogger(__name__)

TITLES: Final = {status.value: status.phrase.capitalize() for status in HTTPStatus} | {
    413: "Payload too large",  # Python's name for it changes with its versions
    500: "Internal error",
}
MAX_DETAIL_CHARS: Final = 1000
MAX_PATH_CHARS: Final = 300
CODES: Final = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    409: "conflict",
    410: "gone",
    413: "payload_too_large",
    429: "rate_limited",
}
"""The codes for exceptions of aiohttp's router or of the host's middlewares."""


@web.middleware
async def problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn exceptions into responses that reveal nothing internal."""
    response = await _answered(request, handler)
    leave_packed(request, response)
    return response


def leave_packed(request: web.Request, response: web.StreamResponse) -> None:
    """Close the connection after the response if a compressed body was not read to its end.

    aiohttp would decompress the rest to discard it: up to a thousand times its size, in one step.
    """
    if hdrs.CONTENT_ENCODING in request.headers and not request.content.is_eof():
        request.content.feed_eof()
        response.force_close()


async def _answered(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except StreamerError as error:
        tell(request, error)
        response = worded(request, answer(error), problem(error))
        if request.content.exception() is not None:
            response.force_close()  # the end of a broken body is unknown
        return response
    except web.HTTPException as error:
        if error.status < 400 or error.content_type == "application/problem+json":
            raise
        return _converted(request, error)
    except Exception:
        log.exception("%s failed", _asked(request), extra=_about(request))
        internal = StreamerError("internal")
        return worded(request, answer(internal), problem(internal))


def tell(request: web.Request, error: StreamerError) -> None:
    """Log an error that is not the caller's, and says nothing to callers."""
    if not isinstance(error, CallerError | CapacityError):
        log.error("%s: %s", _asked(request), error, extra=_about(request))


def retry_after(error: CapacityError) -> str:
    """Return the value of Retry-After: seconds."""
    return str(max(1, round(error.retry_after_s)))


def _asked(request: web.Request) -> str:
    return f"{request.method} {logged_path(request)}"


def _about(request: web.Request) -> dict[str, Any] | None:
    job_id = job_of(request)
    return None if job_id is None else about(job_id, request.get(TENANT))


def _converted(request: web.Request, error: web.HTTPException) -> web.Response:
    said = f"there is no {request.path}" if error.status == 404 else error.reason
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        said = f"{request.path} has no {error.method}: use {allowed}"
    code = CODES.get(error.status, "invalid_request" if error.status < 500 else "internal")
    converted = CallerError(said, code=code)
    converted.status = error.status
    response = worded(request, answer(converted), problem(converted))
    # Keep the host's headers: Allow, WWW-Authenticate, Retry-After, cookies.
    for name, value in error.headers.items():
        if name not in (hdrs.CONTENT_TYPE, hdrs.CONTENT_LENGTH):
            response.headers.add(name, value)
    return response


def answer(error: StreamerError) -> web.Response:
    headers: CIMultiDict[str] = CIMultiDict()
    if isinstance(error, CapacityError):
        headers[hdrs.RETRY_AFTER] = retry_after(error)
    if isinstance(error, Unauthorized) and error.challenge is not None:
        headers[hdrs.WWW_AUTHENTICATE] = error.challenge
    if isinstance(error, Unsatisfiable):
        headers[hdrs.CONTENT_RANGE] = f"bytes */{error.size}"
    return web.Response(
        body=dump(problem(error)),
        status=error.status,
        headers=headers,
        content_type="application/problem+json",
    )


def limited(full: Full) -> RateLimited:
    """Return the error for a stream or download that finds no place."""
    key = " (streams.max_readers_per_client, or max_readers in auth.tenants)"
    return RateLimited(f"{full}{key if full.of_client else ''}", retry_after_s=5.0)


def problem(error: StreamerError) -> Problem:
    """Return the problem document of an error; a service error shows no details."""
    ours = not isinstance(error, CallerError | CapacityError) and error.status == 500
    place = error.path if isinstance(error, CallerError) else None
    return Problem(
        type="about:blank",
        title=TITLES.get(error.status, "Error"),
        status=error.status,
        detail="an internal error occurred" if ours else cut(error.message, MAX_DETAIL_CHARS),
        code=error.code,
        path=UNSET if place is None else cut(place, MAX_PATH_CHARS),
    )
