"""Turn an error response into the exception that callers of the client catch."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar, cast

import aiohttp
import msgspec

from streamer.errors import CallerError, UnknownJob

__all__ = [
    "ServiceProblem",
    "check",
    "document_of",
    "documents_of",
    "not_a_service",
    "retry_after_s",
]

T = TypeVar("T")

MAX_ANSWER_BYTES: Final = 128 * 1024 * 1024
"""For the body of a success, decompressed: a record may hold megabytes of escaped output."""
MAX_PROBLEM_BYTES: Final = 1024 * 1024


class ServiceProblem(CallerError):
    """A request was refused: the service's problem document (RFC 9457).

    `status` is the HTTP status; `retry_after` the seconds of the Retry-After header, or None.
    """

    def __init__(
        self, status: int, document: Mapping[str, Any], retry_after: float | None = None
    ) -> None:
        unexplained = f"HTTP status {status} without a reason; is this the URL of the service?"
        detail = document.get("detail") or document.get("title") or unexplained
        super().__init__(
            str(detail), path=document.get("path"), code=str(document.get("code", "internal"))
        )
        self.status = status
        self.retry_after = retry_after


class UnknownRemoteJob(ServiceProblem, UnknownJob):
    """Both a `ServiceProblem` and the `UnknownJob` of a local service, so callers catch either."""


async def check(response: aiohttp.ClientResponse) -> None:
    """Raise `ServiceProblem` unless the response is a success."""
    if response.status < 400:
        return
    body = await _read(response, MAX_PROBLEM_BYTES)
    try:
        said = msgspec.json.decode(body or b"", type=dict[str, Any])
    except msgspec.DecodeError:
        said = {}  # the page of a proxy
    unknown = response.status == 404 and said.get("code") == "not_found"
    problem = UnknownRemoteJob if unknown else ServiceProblem
    raise problem(response.status, said, retry_after_s(response.headers.get("Retry-After")))


async def document_of(response: aiohttp.ClientResponse, shape: type[T]) -> T:
    """Return the JSON object in a response, which has at least what `shape` requires.

    Raises `ServiceProblem` if there is none. What a newer service has added stays in it.
    """
    document = await _decoded(response, dict[str, Any], b"{}")
    try:
        msgspec.convert(document, shape)
    except msgspec.ValidationError:
        raise not_a_service(response.status) from None
    return cast("T", document)


async def documents_of(
    response: aiohttp.ClientResponse,
) -> tuple[list[dict[str, Any]], float | None]:
    """Return the list of JSON objects in a response, and when to ask again, as `document_of`."""
    found = await _decoded(response, list[dict[str, Any]], b"")
    return found, retry_after_s(response.headers.get("Retry-After"))


async def _decoded(response: aiohttp.ClientResponse, kind: type[T], nothing: bytes) -> T:
    body = await _read(response, MAX_ANSWER_BYTES)
    if body is None:
        raise not_a_service(response.status)
    try:
        return msgspec.json.decode(body or nothing, type=kind)
    except msgspec.DecodeError:
        raise not_a_service(response.status) from None


def not_a_service(status: int) -> ServiceProblem:
    """Return the error for a response that did not come from a streamer service."""
    about = "the response is not from the service; is this the URL where it is mounted?"
    return ServiceProblem(status, {"detail": about})


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes | None:
    """Return a body, or None if it has more than `most` bytes; the server is not trusted."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > most:
            response.close()
            return None
    return bytes(body)


def retry_after_s(text: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which may also be a date (RFC 9110, 10.2.3)."""
    if text is None:
        return None
    try:
        if text.isascii() and text.isdigit():
            return float(text)
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
