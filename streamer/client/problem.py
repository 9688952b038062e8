"""Turn an answer that is no success into the error that a caller of the client catches."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
import msgspec

from streamer.errors import CallerError, UnknownJob

__all__ = ["ServiceProblem", "check", "document_of", "not_a_service", "retry_after_s"]

MAX_ANSWER_BYTES: Final = 128 * 1024 * 1024
"""Of an answer that says yes, unpacked: a record has megabytes of output, escaped at worst."""
MAX_PROBLEM_BYTES: Final = 1024 * 1024


class ServiceProblem(CallerError):
    """What the service answered instead: its problem document (RFC 9457).

    `status` is the HTTP status; `retry_after` says in how many seconds to try again, where the
    service said so.
    """

    def __init__(
        self, status: int, document: Mapping[str, Any], retry_after: float | None = None
    ) -> None:
        detail = document.get("detail") or document.get("title") or f"HTTP status {status}"
        super().__init__(
            str(detail), path=document.get("path"), code=str(document.get("code", "internal"))
        )
        self.status = status
        self.retry_after = retry_after


class UnknownRemoteJob(ServiceProblem, UnknownJob):
    """Both what the service answered, and what a caller without HTTP would get."""


async def check(response: aiohttp.ClientResponse) -> None:
    """Raise the `ServiceProblem` of an answer that is a refusal."""
    if response.status < 400:
        return
    body = await _read(response, MAX_PROBLEM_BYTES)
    try:
        said = msgspec.json.decode(body or b"", type=dict[str, Any])
    except msgspec.DecodeError:
        said = {}  # a proxy's page, not the service's
    unknown = response.status == 404 and said.get("code") == "not_found"
    problem = UnknownRemoteJob if unknown else ServiceProblem
    raise problem(response.status, said, retry_after_s(response.headers.get("Retry-After")))


async def document_of(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """Return the document of an answer. Raises `ServiceProblem` for what is none."""
    body = await _read(response, MAX_ANSWER_BYTES)
    if body is None:
        raise not_a_service(response.status)
    try:
        return msgspec.json.decode(body or b"{}", type=dict[str, Any])
    except msgspec.DecodeError:
        raise not_a_service(response.status) from None


def not_a_service(status: int) -> ServiceProblem:
    """Return the error for an answer that no service gives."""
    about = "the answer is not a service's; is the address that where it is mounted?"
    return ServiceProblem(status, {"detail": about})


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes | None:
    """Return a body, or None where it has more bytes than `most`: who answers may be anybody."""
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
    except (ValueError, TypeError):
        return None
