"""The command line: options become a `Config`, a `Config` becomes an application.

Errors go to standard error in one line; 2 is the exit code for usage and configuration. A command
imports what it needs when it runs: a server takes ten times as long to import as click.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

import streamer
from streamer.cli.descriptors import drop_output, fill_closed
from streamer.cli.environments import environment
from streamer.cli.exitcodes import EXIT_BROKEN_PIPE, EXIT_NOT_RUN, EXIT_USAGE
from streamer.cli.files import files
from streamer.cli.options import ConfigOptions, config_options, load, load_serving
from streamer.cli.projects import project
from streamer.cli.work import work
from streamer.errors import BackendUnavailable, CallerError, ConfigError, StreamerError
from streamer.model.terminal import visible

if TYPE_CHECKING:
    from streamer.config.schema import Config

__all__ = ["main"]

OF_SERVICE: Final = "./config.toml"
OF_USER: Final = "~/.config/streamer/config.toml"


def main(
    args: Sequence[str] | None = None, on_work: Callable[[], object] = lambda: None
) -> NoReturn:
    """Run a command and exit with its code.

    `on_work` is called when everything is imported and an interrupt has to be cleaned up after.
    """
    fill_closed()
    try:
        code = cli.main(args=args, prog_name="streamer", standalone_mode=False, obj=on_work)
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
        drop_output()
        code = 1
    sys.exit(code or 0)


class _Commands(click.Group):
    """The commands. Exits with 141, as SIGPIPE would, if nobody reads the output; click with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            drop_output()
            return EXIT_BROKEN_PIPE


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(streamer.__version__, "-V", "--version", message="%(version)s")
def cli() -> None:
    """Run programs in sandboxes and stream their output as Server-Sent Events."""


cli.add_command(project)
cli.add_command(environment)
cli.add_command(files)


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
    from streamer.application import create_app
    from streamer.cli.demo import show_demo
    from streamer.web.server.logs import configure_logging
    from streamer.web.server.serve import serve as serve_forever

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
    program = Path(demo) if demo is not None else None
    if program is not None and not program.is_file():
        raise click.UsageError(f"--demo {demo}: there is no such file")
    app = create_app(config)

    async def on_ready(address: str) -> None:
        if sys.stderr is not None and sys.stderr.isatty():  # otherwise the log says so
            click.echo(f"streamer {streamer.__version__} listens on {address}/", err=True)
        if program is not None:
            await show_demo(address, program, app)

    # What exists now stays, so the collector need not look at it again. A job makes hundreds of
    # objects and hardly a cycle: 700 between two looks, the default, is for smaller programs.
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    work(serve_forever(app, config, on_ready), quick=True)


@cli.command()
@config_options(OF_USER)
@click.argument("program", metavar="FILE|-", required=False)
@click.argument("args", nargs=-1, metavar="[-- ARGS]")
@click.option("--language", metavar="L", help="Default: from the file's name.")
@click.option(
    "--project",
    "project_path",
    metavar="DIR|ARCHIVE",
    help="Run FILE of this folder or archive; without FILE the language's entry.",
)
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
@click.option("--cases", metavar="FILE", help="Run it for each case of a JSON file.")
@click.option("--stop-on-failure", is_flag=True, help="Not after a case that fails.")
@click.option(
    "--environment",
    "packages",
    metavar="NAME",
    help="Run it with these packages of the operator's: environments.NAME.",
)
@click.option(
    "--artifact", "artifacts", multiple=True, metavar="GLOB", help="Save the files that it leaves."
)
@click.option("-o", "--output", metavar="DIR", help="The folder in which they are saved.")
@click.option("-n", "--no-stdin", is_flag=True, help="Give it no input; read no standard input.")
@click.option("--raw", is_flag=True, help="Do not filter its output on a terminal.")
@click.option(
    "-t", "--terminal", is_flag=True, help="Give it this terminal; Ctrl-C and all keys are its own."
)
def run(
    options: ConfigOptions,
    program: str | None,
    args: tuple[str, ...],
    language: str | None,
    project_path: str | None,
    url: str | None,
    token: str | None,
    token_file: str | None,
    limits: tuple[str, ...],
    files: tuple[str, ...],
    env: tuple[str, ...],
    cases: str | None,
    packages: str | None,
    artifacts: tuple[str, ...],
    output: str | None,
    *,
    stop_on_failure: bool,
    no_stdin: bool,
    raw: bool,
    terminal: bool,
) -> int:
    """Run one program with live output and input from here; Ctrl-C cancels it.

    A second Ctrl-C does not wait for the rest of the output. From a file or a pipe on standard
    input only what the program reads is consumed; with --url all of it, and from a terminal the
    first lines. With -n nothing is read.
    Exits with the program's code; 124 after a time limit, 128+N after signal N, 137 if it
    was killed for another limit, 130 after Ctrl-C, 125 if it could not be run, 141 if nobody
    reads its output any more.
    """
    import logging

    from streamer.cli.jobspec import job_spec
    from streamer.cli.tty import check_terminal
    from streamer.model.runtime import by_name

    if program is None and project_path is None:
        raise click.UsageError("name the FILE|- to run, or a --project")
    if bool(artifacts) != (output is not None):
        raise click.UsageError("--artifact GLOB and -o DIR need each other")
    if terminal:
        check_terminal(program, no_stdin=no_stdin, cases=cases)
    config = load(replace(options, sandbox=None) if url else options)
    spec = job_spec(
        program,
        in_project=project_path is not None,
        runtimes=by_name(config.runtimes),
        language=language,
        args=args,
        files=files,
        limits=limits,
        env=env,
        cases=cases,
        stop_on_failure=stop_on_failure,
        environment=packages,
        artifacts=artifacts,
    )
    # If standard input was the program's text, nothing is left of it; cases have their own.
    forward = program != "-" and not no_stdin and cases is None
    how: dict[str, Any] = {"forward_stdin": forward, "raw": raw, "on_terminal": terminal}
    how["output"] = output
    try:
        if url:
            from streamer.cli.remote import run_remote, token_in

            if token_file:
                token = token_in(token_file)
            job = run_remote(url, token, spec, options.sandbox, project_path, **how)
        else:
            from streamer.cli.local import run_local

            logging.getLogger("streamer").setLevel(logging.ERROR)
            job = run_local(config, spec, project_path, **how)
        return work(job)
    except StreamerError as error:
        if isinstance(error, CallerError | ConfigError):
            raise
        click.echo(f"streamer: {visible(str(error))}", err=True)
        return EXIT_NOT_RUN
    except OSError as error:
        at = url or program or project_path
        click.echo(f"streamer: {visible(f'{at}: {error}')}", err=True)
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
    from streamer.compose import build
    from streamer.config.text import in_force, template

    if begin:
        click.echo(template(), nl=False)
        return
    config, origins = load_serving(options)
    for line in in_force(config, origins if show_origin else None):
        click.echo(line)
    build(config)  # refuses what `serve` would, such as an unknown option of a backend


@cli.command()
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
    _print_rows(work(_try_sandboxes(config)), as_json=as_json)


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
    import logging

    import msgspec

    from streamer.doctor.report import examine

    config = load(options)
    logging.getLogger("streamer").setLevel(logging.ERROR)
    try:
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


@cli.command()
def version() -> None:
    """Print the version."""
    click.echo(streamer.__version__)


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
