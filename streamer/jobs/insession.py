"""Fit a job into the session that it names: into its limits, network and mounts."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from streamer.errors import InvalidJob
from streamer.model.job import JobSpec, Limits, ResolvedJob
from streamer.model.names import camel
from streamer.model.session import ResolvedSession

__all__ = ["check_in_session", "check_language", "in_session"]


def check_in_session(spec: JobSpec, session: ResolvedSession) -> None:
    """Check that a job asks for nothing that its session has decided. Raises `InvalidJob`."""
    if spec.project_id is not None:
        raise InvalidJob(
            "a session is given its project at its start: leave out projectId", path="$.projectId"
        )
    if spec.cases:
        raise InvalidJob(
            "no case sees what an earlier one has left, so none can be in a session", path="$.cases"
        )
    if spec.retry:
        raise InvalidJob(
            "the workspace of a session is lost with its worker: leave out retry", path="$.retry"
        )
    if spec.environment not in (None, session.environment):
        raise InvalidJob(
            "a session is given its environment at its start: leave out environment",
            path="$.environment",
        )
    if spec.sandbox not in (None, session.backend):
        raise InvalidJob(
            f"the sandbox of the session is {session.backend!r}: leave out sandbox",
            path="$.sandbox",
        )
    if "disk_bytes" in spec.limits:
        raise InvalidJob(
            "the workspace of the session has its size: leave out diskBytes",
            path="$.limits.diskBytes",
        )
    if spec.network and not (session.network or session.allow_hosts):
        raise InvalidJob("the session has no network", path="$.network")


def check_language(name: str, session: ResolvedSession) -> None:
    """Check that a job of a session is in a language that its worker has. Raises `InvalidJob`."""
    if session.languages and name not in session.languages:
        raise InvalidJob(
            f"the session is for {', '.join(session.languages)}: open another for {name}",
            path="$.language",
        )


def in_session(job: ResolvedJob, spec: JobSpec, session: ResolvedSession) -> ResolvedJob:
    """Return the job within the session's limits. Raises `InvalidJob` if it asks for more."""
    for name in spec.limits:
        most = getattr(session.limits, name)
        if getattr(job.limits, name) > most:
            raise InvalidJob(
                f"the session allows {most}: a job of it may ask for less",
                path=f"$.limits.{camel(name)}",
            )
    return replace(
        job,
        session_id=session.session_id,
        steps=tuple(
            replace(step, limits=_lesser(step.limits, session.limits)) for step in job.steps
        ),
        network=session.network,
        allow_hosts=session.allow_hosts,
        read_only=session.read_only,
        etc=session.etc,
        tmp_bytes=session.tmp_bytes,
        # Its sandbox is there already.
        warm=False,
        fork=None,
        # One of the host's lasts as long as a process has it, and each job would leave another.
        output_terminal=job.output_terminal and not session.keep_processes,
    )


def _lesser(limits: Limits, most: Limits) -> Limits:
    lesser: dict[str, Any] = {
        one.name: min(getattr(limits, one.name), getattr(most, one.name)) for one in fields(Limits)
    }
    # The workspace has the files of earlier jobs, too.
    return Limits(**{**lesser, "disk_bytes": most.disk_bytes})
