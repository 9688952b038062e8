"""The commands `streamer project`: upload, show and delete a project of a service."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

import click

from streamer.cli.exitcodes import EXIT_NOT_RUN
from streamer.cli.work import work
from streamer.model.terminal import visible

if TYPE_CHECKING:
    from streamer.client import Client

__all__ = ["project"]

Ask = Callable[["Client"], Awaitable[dict[str, Any] | None]]


@click.group()
def project() -> None:
    """Upload projects to a service, show and delete them."""


def _of_service(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options that say which service, and as whom."""
    options = (
        click.option("--url", metavar="URL", required=True, help="The address of the service."),
        click.option("--token-file", metavar="FILE", help="A file with the token."),
        click.option(
            "--token",
            metavar="TOKEN",
            envvar="STREAMER_TOKEN",
            help="The token itself; every user of this host can see it. Better: $STREAMER_TOKEN.",
        ),
    )
    return functools.reduce(lambda function, option: option(function), reversed(options), command)


@project.command()
@click.argument("path", metavar="DIR|ARCHIVE")
@click.option("--json", "as_json", is_flag=True, help="Print the whole document.")
@_of_service
def upload(path: str, url: str, token: str | None, token_file: str | None, *, as_json: bool) -> int:
    """Upload a folder, or a zip, tar, tar.gz or tar.zst archive; print the id of the project."""
    code, document = _asked(url, token, token_file, lambda client: client.upload(path))
    if document is not None:
        click.echo(_json(document) if as_json else visible(document["projectId"]))
    return code


@project.command()
@click.argument("project_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_of_service
def show(
    project_id: str, url: str, token: str | None, token_file: str | None, *, as_json: bool
) -> int:
    """List the files of a project."""
    code, document = _asked(url, token, token_file, lambda client: client.project(project_id))
    if document is not None:
        if as_json:
            click.echo(_json(document))
        else:
            from streamer.cli.table import show_rows  # noqa: PLC0415

            rows = [file for file in document["files"] if isinstance(file, dict)]
            if rows:
                show_rows([{"name": row.get("name"), "bytes": row.get("bytes")} for row in rows])
    return code


@project.command()
@click.argument("project_id", metavar="ID")
@_of_service
def delete(project_id: str, url: str, token: str | None, token_file: str | None) -> int:
    """Delete a project; jobs that were submitted with it keep it."""
    code, _ = _asked(url, token, token_file, lambda client: client.delete_project(project_id))
    return code


def _asked(
    url: str, token: str | None, token_file: str | None, ask: Ask
) -> tuple[int, dict[str, Any] | None]:
    """Ask the service; return the exit code and the answer."""
    from streamer.cli.remote import explained, token_in  # noqa: PLC0415
    from streamer.client import Client, ServiceProblem  # noqa: PLC0415

    async def asking() -> dict[str, Any] | None:
        async with Client(url, token=token_in(token_file) if token_file else token) as client:
            with explained(url):
                return await ask(client)

    run: Coroutine[Any, Any, dict[str, Any] | None] = asking()
    try:
        return 0, work(run)
    except (OSError, ServiceProblem) as error:
        click.echo(f"streamer: {visible(f'{url}: {error}')}", err=True)
        return EXIT_NOT_RUN, None


def _json(document: dict[str, Any]) -> str:
    import json  # noqa: PLC0415

    return json.dumps(document, indent=2)
