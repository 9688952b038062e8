"""How values travel: encoded by msgpack, and the fields of a job's record as a view."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar, cast

import msgspec

from streamer.engine.blobs import JobFile
from streamer.engine.interface import Idempotency, JobState, JobView
from streamer.model.capabilities import Accepts, Capabilities
from streamer.model.events import decode
from streamer.model.job import JobFacts, ResolvedJob
from streamer.model.session import ResolvedSession, SessionAnswer, SessionRequest

__all__ = [
    "ANSWER",
    "CAPABILITIES",
    "FILES",
    "JOB",
    "REQUEST",
    "SESSION",
    "accepted",
    "encoded",
    "key_name",
    "tenant_hash",
    "tenant_name",
    "tenant_of",
    "view_of",
]

T = TypeVar("T")


def _decoder(kind: type[T]) -> msgspec.msgpack.Decoder[T]:
    return msgspec.msgpack.Decoder(kind)


encoded: Final = msgspec.msgpack.Encoder().encode
JOB: Final = _decoder(ResolvedJob)
FACTS: Final = _decoder(JobFacts)
FILES: Final = _decoder(tuple[JobFile, ...])
SESSION: Final = _decoder(ResolvedSession)
REQUEST: Final[msgspec.msgpack.Decoder[SessionRequest]] = msgspec.msgpack.Decoder(
    cast("Any", SessionRequest)
)
ANSWER: Final[msgspec.msgpack.Decoder[SessionAnswer]] = msgspec.msgpack.Decoder(
    cast("Any", SessionAnswer)
)
CAPABILITIES: Final = _decoder(Capabilities)


def tenant_name(tenant: str) -> bytes:
    """Return a tenant as bytes; a plugin's may hold lone surrogates."""
    return tenant.encode("utf-8", "surrogatepass")


def tenant_of(name: bytes) -> str:
    """Undo `tenant_name`."""
    return name.decode("utf-8", "surrogatepass")


def tenant_hash(tenant: str) -> str:
    """Return what stands for a tenant in keys, where its name could be anything."""
    return hashlib.sha256(tenant_name(tenant)).hexdigest()[:32]


def key_name(tenant: str, idempotency: Idempotency) -> str:
    """Return what stands for a caller's key of a tenant."""
    key = idempotency.key.encode("utf-8", "surrogatepass")
    return hashlib.sha256(tenant_hash(tenant).encode() + key).hexdigest()


def accepted(accepts: Accepts | None) -> bytes:
    """Return what a worker accepts, as the script reads it: sets as tables."""
    if accepts is None:
        return encoded({})
    return encoded(
        {
            "backends": dict.fromkeys(accepts.backends, True),
            "languages": dict.fromkeys(accepts.languages, True),
            "environments": dict.fromkeys(accepts.environments, True),
        }
    )


def view_of(
    fields: Sequence[bytes | None], position: int | None = None, wait: bytes | None = None
) -> JobView:
    """Return the view of a job from the fields of its record, in the order of the script."""
    facts, policy, tenant, state, created, started, finished, first_output, kind, result = fields
    assert facts is not None
    assert tenant is not None
    assert state is not None
    assert created is not None
    job = FACTS.decode(facts)
    if policy is not None:
        job = replace(job, policy=policy.decode())
    return JobView(
        job=job,
        tenant=tenant_of(tenant),
        state=cast("JobState", state.decode()),
        created_at=float(created),
        started_at=_time(started),
        finished_at=_time(finished),
        first_output_at=_time(first_output),
        position=position,
        estimated_wait_s=_time(wait),
        result=None if kind is None or result is None else decode(kind.decode(), result),
    )


def _time(value: bytes | None) -> float | None:
    return None if value is None else float(value)
