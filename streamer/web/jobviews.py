"""Turn views of jobs into their documents."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET

from streamer.engine.interface import JobView
from streamer.model.events import Complete, Error
from streamer.web.answers import Completed, Failed, Job, JobLinks, ListedJob, Policy

__all__ = ["job_document", "listed_job", "timestamp"]


def listed_job(view: JobView, links: JobLinks) -> ListedJob:
    result = view.result
    assert result is None or isinstance(result, Complete | Error)
    return ListedJob(**_facts(view, links), result=UNSET if result is None else result)


def job_document(view: JobView, text: Mapping[str, Any], links: JobLinks) -> Job:
    """Return the document of a job; `text` is its output, from `streamer.jobs.transcript`."""
    if view.result is None:
        return Job(**_facts(view, links), **text)
    kind = Completed if isinstance(view.result, Complete) else Failed
    result = kind(**msgspec.structs.asdict(view.result), **text)
    return Job(**_facts(view, links), result=result)


def _facts(view: JobView, links: JobLinks) -> dict[str, Any]:
    facts = view.job
    return {
        "job_id": facts.job_id,
        "status": view.state,
        "language": facts.language,
        "environment": facts.environment,
        "sandbox": facts.backend,
        "policy": Policy(facts.backend, facts.preset, facts.policy),
        "metadata": facts.metadata,
        "created_at": timestamp(view.created_at),
        "started_at": None if view.started_at is None else timestamp(view.started_at),
        "finished_at": None if view.finished_at is None else timestamp(view.finished_at),
        "links": links,
        "position": UNSET if view.position is None else view.position,
    }


def timestamp(seconds: float) -> str:
    """Return a time since the epoch in ISO 8601, UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
