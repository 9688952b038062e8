"""The command `streamer follow`: show a job of a service, from its beginning or from any event."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import click

from streamer.cli.exitcodes import EXIT_INTERRUPTED
from streamer.cli.service import asked, of_service
from streamer.model.terminal import visible

if TYPE_CHECKING:
    from streamer.client import Client
    from streamer.client.documents import JobDocument
    from streamer.model.events import Event

__all__ = ["follow"]


@click.command()
@click.argument("job_id", metavar="JOB")
@click.option(
    "--from",
    "first",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Begin with event N; 1 is the first one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the events, one JSON document a line.")
@click.option("--raw", is_flag=True, help="Do not filter its output on a terminal.")
@of_service
def follow(
    job_id: str,
    first: int,
    url: str,
    token: str | None,
    token_file: str | None,
    *,
    as_json: bool,
    raw: bool,
) -> int:
    """Show what a job has written, then what it writes, and exit as `streamer run` does.

    A lost connection is resumed. Ctrl-C ends this command and not the job.
    """

    async def ask(client: Client) -> int:
        return await _followed(client, job_id, first, url, as_json=as_json, raw=raw)

    code, shown = asked(url, token, token_file, ask)
    return code if shown is None else shown


async def _followed(
    client: Client, job_id: str, first: int, url: str, *, as_json: bool, raw: bool
) -> int:
    from streamer.cli.run import run_job
    from streamer.model.events import TERMINAL_KINDS

    seen, over = first - 1, False
    events = client.events(job_id, first - 1)
    # An unknown job is told here, as by every other command.
    begin = await anext(events, None)
    if begin is None:
        return _ended(await client.job(job_id))

    async def shown() -> AsyncIterator[Event]:
        nonlocal seen, over
        yield begin
        seen, over = begin.id, begin.kind in TERMINAL_KINDS
        async for event in events:
            yield event
            seen, over = event.id, event.kind in TERMINAL_KINDS

    code = await run_job(shown(), None, None, raw=raw, as_json=as_json)
    if code == EXIT_INTERRUPTED and not over:
        again = f"streamer follow {job_id} --from {seen + 1} --url {url}"
        click.echo(visible(f"streamer: the job goes on; to see the rest: {again}"), err=True)
    return code


def _ended(document: JobDocument) -> int:
    """Return the exit code of a job that has no more events."""
    import json

    from streamer.cli.run import exit_code
    from streamer.client.problem import not_a_service
    from streamer.model.events import TERMINAL_KINDS, Complete, Error, decode

    kind = document["status"]
    if kind not in TERMINAL_KINDS or "result" not in document:
        raise not_a_service(204)
    end = decode(kind, json.dumps(document["result"]).encode())
    assert isinstance(end, Complete | Error)
    return exit_code(end)
