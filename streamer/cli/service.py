"""Ask a remote service something from a command."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

from streamer.cli.completion import files
from streamer.cli.exitcodes import EXIT_NOT_RUN
from streamer.cli.work import work
from streamer.model.terminal import visible

if TYPE_CHECKING:
    from streamer.client import Client

__all__ = ["about_file", "as_json", "asked", "of_service"]

T = TypeVar("T")


def of_service(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options that say which service, and as whom."""
    options = (
        click.option(
            "--url",
            metavar="URL",
            envvar="STREAMER_URL",
            required=True,
            help="The address of the service; default $STREAMER_URL.",
        ),
        click.option(
            "--token-file", metavar="FILE", shell_complete=files, help="A file with the token."
        ),
        click.option(
            "--token",
            metavar="TOKEN",
            envvar="STREAMER_TOKEN",
            help="The token itself; every user of this host can see it. Better: $STREAMER_TOKEN.",
        ),
    )
    return functools.reduce(lambda function, option: option(function), reversed(options), command)


def asked(
    url: str,
    token: str | None,
    token_file: str | None,
    ask: Callable[[Client], Awaitable[T]],
) -> tuple[int, T | None]:
    """Ask the service; return the exit code and the answer."""
    import aiohttp

    from streamer.cli.remote import explained, token_in
    from streamer.client import Client, ServiceProblem

    async def asking() -> T:
        async with Client(url, token=token_in(token_file) if token_file else token) as client:
            with explained(url):
                return await ask(client)

    run: Coroutine[Any, Any, T] = asking()
    try:
        return 0, work(run)
    except (OSError, ServiceProblem, aiohttp.ClientError) as error:
        click.echo(f"streamer: {visible(about_file(error) or f'{url}: {error}')}", err=True)
        return EXIT_NOT_RUN, None


def about_file(error: Exception) -> str:
    """Return what is wrong with a file here, or ``""`` for any other error."""
    if isinstance(error, OSError) and isinstance(error.filename, str) and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return ""


def as_json(document: object) -> str:
    import json

    return json.dumps(document, indent=2)
