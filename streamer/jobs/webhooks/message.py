"""What a webhook says, signed as Standard Webhooks has it (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

import streamer
from streamer.engine.views import JobView

__all__ = ["body_of", "headers_of", "webhook_id"]


def webhook_id(job_id: str) -> str:
    """Return what all attempts for a job have in common, so that a receiver can tell them."""
    return f"msg_{job_id}"


def body_of(job: JobView) -> bytes:
    """Return the same bytes at each attempt."""
    facts = job.job
    data: dict[str, Any] = {
        "jobId": facts.job_id,
        "status": job.state,
        "language": facts.language,
        "metadata": facts.metadata,
        "createdAt": _time(job.created_at),
        "startedAt": _time(job.started_at),
        "finishedAt": _time(job.finished_at),
        "result": job.result,
    }
    said = {"type": f"job.{job.state}", "timestamp": _time(job.finished_at), "data": data}
    return msgspec.json.encode(said)


def headers_of(
    job_id: str, body: bytes, secrets: Iterable[bytes], seconds: float
) -> Mapping[str, str]:
    """Return the headers of an attempt at this time, with a signature by each secret."""
    name, at = webhook_id(job_id), str(int(seconds))
    signed = b".".join((name.encode(), at.encode(), body))
    signatures = (
        base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode() for secret in secrets
    )
    return {
        "Content-Type": "application/json",
        "User-Agent": f"streamer/{streamer.__version__}",
        "webhook-id": name,
        "webhook-timestamp": at,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
