"""The commands `streamer session`: open, list, show and end sessions, and their files."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

import click

from streamer.cli.files import place_of
from streamer.cli.service import as_json as in_json
from streamer.cli.service import asked, of_service
from streamer.model.terminal import visible

if TYPE_CHECKING:
    from streamer.client import Client
    from streamer.client.documents import SessionDocument, SessionFileDocument

__all__ = ["session"]


@click.group()
def session() -> None:
    """Create sessions of a service, list, show and end them, read and write their files."""


@session.command()
@click.option("--idle", "idle_s", type=float, metavar="S", help="End it after so long unused.")
@click.option("--project", "project_id", metavar="ID", help="An uploaded project to begin with.")
@click.option("--environment", metavar="NAME", help="Packages of the operator's for its jobs.")
@click.option(
    "--language",
    "languages",
    multiple=True,
    metavar="L",
    help="A language of its jobs; repeatable.",
)
@click.option("--keep-processes", is_flag=True, help="Let go on what its jobs leave running.")
@click.option("--sandbox", metavar="NAME", help="Its backend.")
@click.option(
    "--limit", "limits", multiple=True, metavar="NAME=VALUE", help="Such as disk_bytes=32MiB."
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole document.")
@of_service
def create(
    idle_s: float | None,
    project_id: str | None,
    environment: str | None,
    languages: tuple[str, ...],
    sandbox: str | None,
    limits: tuple[str, ...],
    url: str,
    token: str | None,
    token_file: str | None,
    *,
    keep_processes: bool,
    as_json: bool,
) -> int:
    """Open a session and print its id, for: streamer run --session ID."""
    from streamer.cli.jobspec import parsed_limits

    given = {
        "idle_s": idle_s,
        "project_id": project_id,
        "environment": environment,
        "languages": languages or None,
        "sandbox": sandbox,
        "keep_processes": keep_processes or None,
    }
    fields: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if limits:
        fields["limits"] = parsed_limits(limits)

    async def ask(client: Client) -> SessionDocument:
        return await client.session(**fields).open()

    code, document = asked(url, token, token_file, ask)
    if document is not None:
        click.echo(in_json(document) if as_json else visible(document["sessionId"]))
    return code


@session.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@of_service
def list_sessions(url: str, token: str | None, token_file: str | None, *, as_json: bool) -> int:
    """List your sessions."""
    code, documents = asked(url, token, token_file, lambda client: client.sessions())
    if documents is not None:
        _show(documents, as_json=as_json)
    return code


@session.command()
@click.argument("session_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@of_service
def show(
    session_id: str, url: str, token: str | None, token_file: str | None, *, as_json: bool
) -> int:
    """Show a session and list its files."""

    async def ask(client: Client) -> list[SessionFileDocument]:
        return await client.session(session_id).files()

    code, files = asked(url, token, token_file, ask)
    if files is not None:
        if as_json:
            click.echo(in_json(files))
        elif files:
            _rows(files, ("name", "kind", "bytes"))
    return code


@session.command()
@click.argument("session_id", metavar="ID")
@of_service
def end(session_id: str, url: str, token: str | None, token_file: str | None) -> int:
    """End a session, and all that runs in it."""
    code, _ = asked(url, token, token_file, lambda client: client.session(session_id).end())
    return code


@session.command()
@click.argument("session_id", metavar="ID")
@click.argument("name", metavar="PATH")
@click.option(
    "-o",
    "--output",
    metavar="DIR|FILE",
    help="Save it as FILE, or beneath DIR if that exists or ends with a slash.",
)
@click.option("--raw", is_flag=True, help="Do not filter it on a terminal.")
@of_service
def read(
    session_id: str,
    name: str,
    output: str | None,
    url: str,
    token: str | None,
    token_file: str | None,
    *,
    raw: bool,
) -> int:
    """Print a file of a session, or save it."""

    async def ask(client: Client) -> None:
        content = await client.session(session_id).read(name)
        if output is None:
            from streamer.cli.stdio import Outlet

            outlet = Outlet(1, raw=raw)
            await outlet.write(content)
            await outlet.end()
        else:
            from streamer.saving import save

            await save(*place_of(output, name), _pieces(content))

    code, _ = asked(url, token, token_file, ask)
    return code


async def _pieces(content: bytes) -> AsyncGenerator[bytes, None]:
    yield content


@session.command()
@click.argument("session_id", metavar="ID")
@click.argument("name", metavar="PATH")
@click.argument("file", metavar="[FILE|-]", type=click.File("rb"), default="-")
@click.option("--mode", metavar="MODE", default="644", help="Its permissions, such as 755.")
@of_service
def write(
    session_id: str,
    name: str,
    file: IO[bytes],
    mode: str,
    url: str,
    token: str | None,
    token_file: str | None,
) -> int:
    """Write a file of a session: FILE, or what comes on standard input."""
    if len(mode) != 3 or not set(mode) <= set("01234567"):
        raise click.UsageError('--mode must be three octal digits, such as "755"')
    content = file.read()

    async def ask(client: Client) -> None:
        await client.session(session_id).write(name, content, mode=int(mode, 8))

    code, _ = asked(url, token, token_file, ask)
    return code


@session.command()
@click.argument("session_id", metavar="ID")
@click.argument("name", metavar="PATH")
@of_service
def remove(session_id: str, name: str, url: str, token: str | None, token_file: str | None) -> int:
    """Remove a file, a link or an empty folder of a session."""
    code, _ = asked(url, token, token_file, lambda client: client.session(session_id).remove(name))
    return code


def _show(documents: list[SessionDocument], *, as_json: bool) -> None:
    if as_json:
        click.echo(in_json(documents))
    elif documents:
        _rows(documents, ("sessionId", "status", "sandbox", "expiresAt"))


def _rows(documents: Sequence[Mapping[str, object]], names: tuple[str, ...]) -> None:
    from streamer.cli.table import show_rows

    if documents:
        show_rows([{name: one.get(name) for name in names} for one in documents])
