"""The commands `streamer jobs` and `streamer cancel`: the caller's jobs on a service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from streamer.cli.completion import language_names
from streamer.cli.service import as_json as in_json
from streamer.cli.service import asked, of_service
from streamer.model.terminal import visible

if TYPE_CHECKING:
    from streamer.client import Client
    from streamer.client.documents import JobDocument

__all__ = ["cancel", "jobs"]

STATES: Final = ("queued", "preparing", "compiling", "running", "complete", "error")


@click.command()
@click.argument("job_id", metavar="[JOB]", required=False)
@click.option("--status", type=click.Choice(STATES), help="Only jobs in this state.")
@click.option(
    "--language",
    metavar="L",
    shell_complete=language_names,
    help="Only programs in this language.",
)
@click.option(
    "--metadata",
    multiple=True,
    metavar="NAME=VALUE",
    help="Only jobs that were submitted with it; repeatable.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=20,
    show_default=True,
    metavar="N",
    help="Show the newest N.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@of_service
def jobs(
    job_id: str | None,
    status: str | None,
    language: str | None,
    metadata: tuple[str, ...],
    limit: int,
    url: str,
    token: str | None,
    token_file: str | None,
    *,
    as_json: bool,
) -> int:
    """List your jobs on a service, newest first, or show one: JOB."""
    wanted = dict(_pair(text) for text in metadata)

    async def ask(client: Client) -> list[JobDocument]:
        if job_id is not None:
            return [await client.job(job_id)]
        found: list[JobDocument] = []
        async for job in client.jobs(status=status):
            if language in (None, job.get("language")) and _has(job, wanted):
                found.append(job)
                if len(found) == limit:
                    break
        return found

    code, listed = asked(url, token, token_file, ask)
    if listed is None:
        return code
    if as_json:
        click.echo(in_json(listed if job_id is None else listed[0]))
    elif listed:
        from streamer.cli.table import show_rows

        show_rows([_row(job) for job in listed])
    return code


@click.command()
@click.argument("job_ids", metavar="JOB...", nargs=-1, required=True)
@click.option("--purge", is_flag=True, help="Delete all that is kept of jobs that are over.")
@of_service
def cancel(
    job_ids: tuple[str, ...],
    url: str,
    token: str | None,
    token_file: str | None,
    *,
    purge: bool,
) -> int:
    """Ask for the end of jobs, without waiting for it. A job that is over stays as it is."""

    async def ask(client: Client) -> None:
        for job_id in job_ids:
            await (client.purge(job_id) if purge else client.cancel(job_id))

    code, _ = asked(url, token, token_file, ask)
    return code


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.UsageError(f"--metadata {text}: write NAME=VALUE")
    return name, value


def _has(job: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    metadata = job.get("metadata") or {}
    return all(metadata.get(name) == value for name, value in wanted.items())


def _row(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a table shows of a job; a service may be older, or none of ours."""
    return {
        "job": job.get("jobId"),
        "status": job.get("status"),
        "language": job.get("language") or "-",
        "created": visible(str(job.get("createdAt") or ""))[:19].replace("T", " "),
        "took": _took(job),
        "end": _end(job.get("result")),
    }


def _took(job: Mapping[str, Any]) -> str:
    """Return how long it ran, as ``1.25 s``; nothing while it is not over."""
    from datetime import datetime

    try:
        begin, end = (datetime.fromisoformat(str(job[at])) for at in ("startedAt", "finishedAt"))
    except (KeyError, ValueError):
        return ""
    return f"{(end - begin).total_seconds():.2f} s"


def _end(result: object) -> str:
    """Return how it ended: ``exited 0``, ``signaled SIGKILL``, ``wall_time``, an error's code."""
    if not isinstance(result, Mapping):
        return ""
    reason = str(result.get("reason") or result.get("code") or "")
    detail = {"exited": result.get("exitCode"), "signaled": result.get("signal")}.get(reason)
    return reason if detail is None else f"{reason} {detail}"
