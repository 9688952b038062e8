"""Turn views of jobs into their documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from streamer.engine.interface import JobView
from streamer.model.events import CaseEnd, Complete, Error
from streamer.model.names import camel
from streamer.model.webhook import WebhookView
from streamer.web.answers import (
    CaseResult,
    Completed,
    Failed,
    Job,
    JobLinks,
    ListedJob,
    Policy,
    TerminalSize,
    WebhookState,
)

__all__ = ["job_document", "listed_job", "timestamp"]


def listed_job(view: JobView, links: JobLinks, keep_s: float) -> ListedJob:
    result = view.result
    assert result is None or isinstance(result, Complete | Error)
    return ListedJob(**_facts(view, links, keep_s), result=UNSET if result is None else result)


def job_document(view: JobView, text: Mapping[str, Any], links: JobLinks, keep_s: float) -> Job:
    """Return the document of a job.

    `text` is its output, from `streamer.jobs.transcript`; it is kept for `keep_s` after its end.
    """
    whole = {name: part for name, part in text.items() if name != "cases"}
    facts = {**_facts(view, links, keep_s), "webhook": _webhook(view.webhook)}
    if view.result is None:
        return Job(**facts, **whole)
    data = msgspec.structs.asdict(view.result)
    if not isinstance(view.result, Complete):
        return Job(**facts, result=Failed(**data, **whole))
    if view.result.cases is not None:
        data["cases"] = tuple(_case(case, text["cases"]) for case in view.result.cases)
    return Job(**facts, result=Completed(**data, **whole))


def _webhook(view: WebhookView | None) -> WebhookState | UnsetType:
    if view is None:
        return UNSET
    return WebhookState(
        state=view.state,
        attempts=view.attempts,
        last_error=UNSET if view.last_error is None else view.last_error,
        next_at=UNSET if view.next_at is None else timestamp(view.next_at),
    )


def _case(end: CaseEnd, texts: Mapping[int, Mapping[str, str]]) -> CaseResult:
    text = texts.get(end.index, {})
    return CaseResult(
        **msgspec.structs.asdict(end),
        stdout=text.get("stdout", ""),
        stderr=text.get("stderr", ""),
    )


def _facts(view: JobView, links: JobLinks, keep_s: float) -> dict[str, Any]:
    facts = view.job
    return {
        "job_id": facts.job_id,
        "status": view.state,
        "language": facts.language,
        "environment": facts.environment,
        "sandbox": facts.backend,
        "policy": Policy(facts.backend, facts.preset, facts.policy),
        "metadata": facts.metadata,
        "priority": facts.priority,
        "created_at": timestamp(view.created_at),
        "started_at": None if view.started_at is None else timestamp(view.started_at),
        "finished_at": None if view.finished_at is None else timestamp(view.finished_at),
        "expires_at": None if view.finished_at is None else timestamp(view.finished_at + keep_s),
        "interactive": facts.interactive,
        "terminal": None
        if facts.terminal is None
        else TerminalSize(facts.terminal.cols, facts.terminal.rows),
        "limits": None
        if facts.limits is None
        else {camel(name): value for name, value in asdict(facts.limits).items()},
        "links": links,
        "session_id": UNSET if facts.session_id is None else facts.session_id,
        "position": UNSET if view.position is None else view.position,
        "estimated_wait_s": UNSET
        if view.estimated_wait_s is None
        else round(view.estimated_wait_s, 2),
    }


def timestamp(seconds: float) -> str:
    """Return a time since the epoch in ISO 8601, UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
