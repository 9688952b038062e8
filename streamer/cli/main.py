"""The command line: options become a `Config`, a `Config` becomes an application.

Errors go to standard error in one line; 2 is the exit code for usage and configuration.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import streamer
from streamer.cli.demo import show_demo
from streamer.cli.doctor import show
from streamer.cli.jobspec import job_spec
from streamer.cli.options import ConfigOptions, config_options, load, load_serving
from streamer.cli.run import EXIT_BROKEN_PIPE, EXIT_NOT_RUN, run_local, run_remote
from streamer.cli.stdio import fill_closed
from streamer.compose import build, create_app
from streamer.config.schema import Config
from streamer.config.text import in_force, template
from streamer.doctor.report import examine
from streamer.errors import BackendUnavailable, CallerError, ConfigError, StreamerError
from streamer.model.runtime import by_name
from streamer.model.terminal import visible
from streamer.web.app import ACCESS
from streamer.web.server.logs import configure_logging
from streamer.web.server.serve import serve as serve_forever

__all__ = ["main"]

EXIT_USAGE: Final = 2
OF_SERVICE: Final = "./config.toml"
OF_USER: Final = "~/.config/streamer/config.toml"


def main(args: Sequence[str] | None = None) -> NoReturn:
    fill_closed()
    try:
        code = cli.main(args=args, prog_name="streamer", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as shown:
        click.echo(shown.format_message())
        code = EXIT_USAGE
    except click.ClickException as error:
        click.echo(f"streamer: {visible(error.format_message())}", err=True)
        code = EXIT_USAGE
    except StreamerError as error:
        click.echo(f"streamer: {visible(str(error))}", err=True)
        code = EXIT_USAGE
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except OSError as error:
        click.echo(f"streamer: {visible(str(error))}", err=True)
        _drop_output()
        code = 1
    sys.exit(code or 0)


class _Commands(click.Group):
    """The commands. Exits with 141, as SIGPIPE would, if nobody reads the output; click with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _drop_output()
            return EXIT_BROKEN_PIPE


def _drop_output() -> None:
    """Discard what Python has buffered for standard output; it would fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(streamer.__version__, "-V", "--version", message="%(version)s")
def cli() -> None:
    """Run programs in sandboxes and stream their output as Server-Sent Events."""


@cli.command()
@config_options(OF_SERVICE)
@click.option("--host", metavar="ADDRESS", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.")
@click.option(
    "--role",
    type=click.Choice(["all", "api", "worker"]),
    default="all",
    help="The part of the service in this process; the memory engine needs all.",
)
@click.option("--workers", type=click.IntRange(1), default=1, metavar="N", help="Must be 1.")
@click.option(
    "--demo", metavar="FILE", help="Run a program once the service listens, and show its output."
)
def serve(
    options: ConfigOptions,
    host: str | None,
    port: int | None,
    role: str,
    workers: int,
    demo: str | None,
) -> None:
    """Run the service until Ctrl-C or SIGTERM."""
    address = [
        f"server.{key}={value}"
        for key, value in (("host", host), ("port", port))
        if value is not None
    ]
    config, _ = load_serving(replace(options, overrides=(*options.overrides, *address)))
    if role != "all":
        raise click.UsageError(
            f"--role {role} needs an engine that processes can share; "
            f"engine.url is {config.engine.url!r}"
        )
    if workers != 1:
        raise click.UsageError(
            f"--workers {workers}: several processes need an engine that they can share, and "
            f"engine.url is {config.engine.url!r}; for more jobs at once: --set queue.concurrency=N"
        )
    configure_logging(config.logging)
    if demo is not None and not Path(demo).is_file():
        raise click.UsageError(f"--demo {demo}: there is no such file")
    app = create_app(config)

    async def on_ready(address: str) -> None:
        if sys.stderr is not None and sys.stderr.isatty():  # otherwise the log says so
            click.echo(f"streamer {streamer.__version__} listens on {address}/", err=True)
        if demo is not None:
            await show_demo(address, Path(demo), token_needed=app[ACCESS].knows_callers)

    _event_loop()(serve_forever(app, config, on_ready))


@cli.command()
@config_options(OF_USER)
@click.argument("program", metavar="FILE|-")
@click.argument("args", nargs=-1, metavar="[-- ARGS]")
@click.option("--language", metavar="L", help="Default: from the file's name.")
@click.option("--url", metavar="URL", help="Run it on the service at URL.")
@click.option("--token-file", metavar="FILE", help="A file with the token for --url.")
@click.option(
    "--token",
    metavar="TOKEN",
    envvar="STREAMER_TOKEN",
    help="The token itself; every user of this host can see it. Better: $STREAMER_TOKEN.",
)
@click.option(
    "--limit", "limits", multiple=True, metavar="NAME=VALUE", help="Such as wall_time_s=5."
)
@click.option("--file", "files", multiple=True, metavar="F", help="Put another file beside it.")
@click.option(
    "--env", "env", multiple=True, metavar="NAME=VALUE", help="Set an environment variable."
)
@click.option("-n", "--no-stdin", is_flag=True, help="Give it no input; read no standard input.")
@click.option("--raw", is_flag=True, help="Do not filter its output on a terminal.")
def run(
    options: ConfigOptions,
    program: str,
    args: tuple[str, ...],
    language: str | None,
    url: str | None,
    token: str | None,
    token_file: str | None,
    limits: tuple[str, ...],
    files: tuple[str, ...],
    env: tuple[str, ...],
    *,
    no_stdin: bool,
    raw: bool,
) -> int:
    """Run one program with live output and input from here; Ctrl-C cancels it.

    A second Ctrl-C does not wait for the rest of the output. From a file or a pipe on standard
    input only what the program reads is consumed; with --url all of it, and from a terminal the
    first lines. With -n nothing is read.
    Exits with the program's code; 124 after a time limit, 128+N after signal N, 137 if it
    was killed for another limit, 130 after Ctrl-C, 125 if it could not be run, 141 if nobody
    reads its output any more.
    """
    config = load(replace(options, sandbox=None) if url else options)
    spec = job_spec(
        program,
        runtimes=by_name(config.runtimes),
        language=language,
        args=args,
        files=files,
        limits=limits,
        env=env,
    )
    # If standard input was the program's text, nothing is left of it.
    forward = program != "-" and not no_stdin
    try:
        if url:
            if token_file:
                token = _token(token_file)
            job = run_remote(url, token, spec, options.sandbox, forward_stdin=forward, raw=raw)
        else:
            logging.getLogger("streamer").setLevel(logging.ERROR)
            job = run_local(config, spec, forward_stdin=forward, raw=raw)
        return asyncio.run(job)
    except StreamerError as error:
        if isinstance(error, CallerError | ConfigError):
            raise
        click.echo(f"streamer: {visible(str(error))}", err=True)
        return EXIT_NOT_RUN
    except OSError as error:
        click.echo(f"streamer: {visible(f'{url or program}: {error}')}", err=True)
        return EXIT_NOT_RUN


@cli.command("config")
@config_options(OF_SERVICE)
@click.option("--show-origin", is_flag=True, help="Show where each value comes from.")
@click.option(
    "--template", "begin", is_flag=True, help="Print a configuration file to start from instead."
)
def show_config(
    options: ConfigOptions,
    *,
    show_origin: bool,
    begin: bool,
) -> None:
    """Print the effective configuration as TOML, secrets as comments."""
    if begin:
        click.echo(template(), nl=False)
        return
    config, origins = load_serving(options)
    for line in in_force(config, origins if show_origin else None):
        click.echo(line)


@cli.command()
@config_options(OF_USER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def runtimes(
    options: ConfigOptions,
    *,
    as_json: bool,
) -> None:
    """List the languages and whether they are available on this host."""
    config = load(options)
    parts = build(config)
    missing = parts.worker.host.missing
    known = {runtime.name: runtime for runtime in parts.jobs.runtimes.values()}
    rows = [
        {
            "name": name,
            "aliases": ", ".join(runtime.aliases),
            "entry": runtime.entry,
            "available": name not in missing,
            "reason": missing.get(name, ""),
        }
        for name, runtime in sorted(known.items())
    ]
    _print_rows(rows, as_json=as_json)


@cli.command()
@config_options(OF_USER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def sandboxes(
    options: ConfigOptions,
    *,
    as_json: bool,
) -> None:
    """List the sandbox backends; a test program is run in each."""
    config = load(options)
    _print_rows(asyncio.run(_try_sandboxes(config)), as_json=as_json)


@cli.command()
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
    config = load(options)
    logging.getLogger("streamer").setLevel(logging.ERROR)
    try:
        report = asyncio.run(examine(config))
    except BackendUnavailable as error:
        click.echo(f"streamer: {visible(str(error))}", err=True)
        return 1
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report)))
    else:
        show(report, Console())
    return 0 if report.ok else 1


@cli.command()
def version() -> None:
    """Print the version."""
    click.echo(streamer.__version__)


def _token(file: str) -> str:
    try:
        token = Path(file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not ASCII text"
        raise click.UsageError(f"--token-file {file}: {reason}") from None
    if not token or len(token.split()) > 1:
        raise click.UsageError(f"--token-file {file}: it must contain one word, the token")
    return token


def _event_loop() -> Callable[[Coroutine[Any, Any, None]], None]:
    """Return the runner of the event loop: uvloop if it is installed (the extra ``uvloop``)."""
    try:
        import uvloop  # noqa: PLC0415 - it is optional
    except ImportError:
        return asyncio.run
    return uvloop.run


async def _try_sandboxes(config: Config) -> list[dict[str, Any]]:
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
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(*rows[0], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    Console(soft_wrap=True).print(table)


def _cell(value: object) -> str:
    """Return the text of a table's cell; markup and control characters in it have no effect."""
    return {"True": "yes", "False": "no"}.get(str(value)) or escape(visible(str(value)))
