"""The commands about this host: its languages, its sandboxes, and what these enforce."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from streamer.cli.options import OF_USER, ConfigOptions, config_options, load
from streamer.cli.work import work
from streamer.errors import BackendUnavailable
from streamer.model.terminal import visible

if TYPE_CHECKING:
    from streamer.config.schema import Config

__all__ = ["doctor", "runtimes", "sandboxes"]


@click.command()
@config_options(OF_USER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def runtimes(
    options: ConfigOptions,
    *,
    as_json: bool,
) -> None:
    """List the languages and whether they are available on this host."""
    from streamer.compose import build

    parts = build(load(options))
    missing = parts.worker.host.languages.missing
    known = {runtime.name: runtime for runtime in parts.jobs.runtimes.values()}
    rows = [
        {
            "name": name,
            **({"title": runtime.title or name} if as_json else {}),
            "aliases": ", ".join(runtime.aliases),
            "entry": runtime.entry,
            "available": name not in missing,
            "reason": missing.get(name, ""),
        }
        for name, runtime in sorted(known.items())
    ]
    _print_rows(rows, as_json=as_json)


@click.command()
@config_options(OF_USER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def sandboxes(
    options: ConfigOptions,
    *,
    as_json: bool,
) -> None:
    """List the sandbox backends; a test program is run in each."""
    config = load(options)
    _print_rows(work(_try_sandboxes(config)), as_json=as_json)


@click.command()
@config_options(OF_USER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(
    options: ConfigOptions,
    *,
    as_json: bool,
) -> int:
    """Test what each sandbox enforces on this host, and how to fix what it does not.

    Exits with 1 if the configured sandbox, or one that callers may choose, does not keep all of
    its promises.
    """
    import logging

    import msgspec

    from streamer.cli.progress import Progress
    from streamer.doctor.report import examine

    config = load(options)
    logging.getLogger("streamer").setLevel(logging.ERROR)
    try:
        with Progress("testing what each sandbox enforces", lines=not as_json):
            report = work(examine(config))
    except BackendUnavailable as error:
        click.echo(f"streamer: {visible(str(error))}", err=True)
        return 1
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report)))
    else:
        from rich.console import Console

        from streamer.cli.doctor import show

        show(report, Console())
    return 0 if report.ok else 1


async def _try_sandboxes(config: Config) -> list[dict[str, Any]]:
    from streamer.compose import build

    async with build(config).worker.trial() as backends:
        reasons = await backends.reasons()
    return [
        {
            "name": name,
            "isolation": backend.isolation.name.lower(),
            "available": not reasons[name],
            "reason": reasons[name],
        }
        for name, backend in sorted(backends.items())
    ]


def _print_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=2))
    else:
        from streamer.cli.table import show_rows

        show_rows(rows)
