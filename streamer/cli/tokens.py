"""The commands `streamer token`: create tokens of tenants, list and revoke them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from streamer.cli.options import OF_SERVICE, ConfigOptions, config_options, load_serving
from streamer.model.scopes import DEFAULT_SCOPES, SCOPES, Scope
from streamer.model.terminal import visible

if TYPE_CHECKING:
    from streamer.config.tokens import StoredToken

__all__ = ["token"]

EXIT_UNKNOWN: Final = 1
UNITS: Final = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
AGE: Final = re.compile("([0-9]{1,6})([mhdw])")
MAX_CHARS: Final = 200


@click.group()
def token() -> None:
    """Create tokens of tenants, list and revoke them; a service that runs notices it at once."""


@token.command()
@config_options(OF_SERVICE)
@click.option("--tenant", required=True, metavar="T", help="Whose it is.")
@click.option("--name", default="", metavar="N", help="What it is for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    help=f"What it is good for; repeatable. Default: {', '.join(DEFAULT_SCOPES)}.",
)
@click.option(
    "--expires", metavar="TIME", help="After 30d, 12h, 45m or 2w, or at a time: 2030-12-31."
)
@click.option("--file", "path", metavar="FILE", help="Default: auth.tokens_file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(
    options: ConfigOptions,
    tenant: str,
    name: str,
    scopes: tuple[Scope, ...],
    expires: str | None,
    path: str | None,
    *,
    as_json: bool,
) -> None:
    """Create a token and print it. This is the only time: the file has its SHA-256."""
    from streamer.config.tokens import changed_tokens, new_token

    for option, text in (("--tenant", tenant), ("--name", name)):
        _check_text(option, text)
    if not tenant:
        raise click.UsageError("--tenant: a tenant has a name")
    until = None if expires is None else _time(expires)
    file = _file(options, path)
    wanted = tuple(scope for scope in SCOPES if scope in scopes) or DEFAULT_SCOPES
    secret, stored = new_token(tenant, name=name, scopes=wanted, expires=until)
    with changed_tokens(file) as tokens:
        tokens.append(stored)
    if as_json:
        click.echo(_json({"token": secret, **_row(stored)}))
        return
    click.echo(secret)
    click.echo(visible(f"streamer: token {stored.id} of {tenant}; it is not shown again"), err=True)


@token.command("list")
@config_options(OF_SERVICE)
@click.option("--tenant", metavar="T", help="Only those of this tenant.")
@click.option("--file", "path", metavar="FILE", help="Default: auth.tokens_file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_tokens(
    options: ConfigOptions, tenant: str | None, path: str | None, *, as_json: bool
) -> None:
    """List the tokens, without the tokens themselves."""
    from streamer.cli.table import show_rows
    from streamer.config.tokens import read_tokens

    file = _file(options, path)
    tokens = read_tokens(file).tokens
    rows = [_row(one) for one in tokens if tenant in (None, one.tenant)]
    if as_json:
        click.echo(_json(rows))
    elif rows:
        times = ("created", "expires")
        short = [{**row, **{at: row[at][:16].replace("T", " ") for at in times}} for row in rows]
        show_rows([{**row, "scopes": " ".join(row["scopes"])} for row in short])
    else:
        why = f"{file} has no such token" if file.exists() else f"there is no {file} yet"
        click.echo(f"streamer: {visible(why)}", err=True)


@token.command()
@config_options(OF_SERVICE)
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--file", "path", metavar="FILE", help="Default: auth.tokens_file.")
def revoke(options: ConfigOptions, ids: tuple[str, ...], path: str | None) -> int:
    """Revoke tokens by the ids that `list` shows. Exits with 1 if one is unknown."""
    from streamer.config.tokens import changed_tokens

    with changed_tokens(_file(options, path)) as tokens:
        unknown = {*ids} - {one.id for one in tokens}
        tokens[:] = [one for one in tokens if one.id not in ids]
    for one in sorted(unknown):
        click.echo(f"streamer: there is no token {visible(one)}", err=True)
    return EXIT_UNKNOWN if unknown else 0


def _file(options: ConfigOptions, path: str | None) -> Path:
    if path is None:
        path = load_serving(options)[0].auth.tokens_file
    if not path:
        raise click.UsageError(
            "name the file of tokens: tokens_file in [auth] of the service's configuration"
        )
    return Path(path)


def _check_text(option: str, text: str) -> None:
    # What the file, a log and a terminal show in one way.
    if visible(text) != text or len(text) > MAX_CHARS or not text.isprintable():
        raise click.UsageError(
            f"{option}: at most {MAX_CHARS} characters, none of them a control character"
        )


def _time(text: str) -> datetime:
    """Return the time that a text means. Raises `click.UsageError`, also for one that is over."""
    now = datetime.now(UTC).replace(microsecond=0)
    age = AGE.fullmatch(text)
    try:
        at = (
            now + timedelta(seconds=int(age[1]) * UNITS[age[2]])
            if age
            else datetime.fromisoformat(text)
        )
    except (OverflowError, ValueError):
        raise click.UsageError(
            f"--expires {text}: write 30d, 12h, 45m or 2w, or a time such as 2030-12-31"
        ) from None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    if at <= now:
        raise click.UsageError(f"--expires {text}: that is over")
    return at


def _row(stored: StoredToken) -> dict[str, Any]:
    return {
        "id": stored.id,
        "tenant": stored.tenant,
        "name": stored.name,
        "scopes": list(stored.scopes),
        "created": stored.created.isoformat(),
        "expires": "" if stored.expires is None else stored.expires.isoformat(),
    }


def _json(document: object) -> str:
    import json

    return json.dumps(document, indent=2)
