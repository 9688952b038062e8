"""Turn an answer that is no success into the error that a caller of the client catches."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import msgspec

from streamer.errors import CallerError, UnknownJob

__all__ = ["ServiceProblem", "check", "retry_after_s"]


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
    try:
        document = msgspec.json.decode(await response.read(), type=dict[str, Any])
    except msgspec.DecodeError:
        document = {}  # a proxy's page, not the service's
    unknown = response.status == 404 and document.get("code") == "not_found"
    problem = UnknownRemoteJob if unknown else ServiceProblem
    raise problem(response.status, document, retry_after_s(response.headers.get("Retry-After")))


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
