"""The command line: options become a `Config`, a `Config` becomes an application.

Errors go to standard error in one line; 2 is the exit code for usage and configuration. A command
imports what it needs when it runs: a server takes ten times as long to import as click.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

import streamer
from streamer.cli.descriptors import drop_output, fill_closed
from streamer.cli.environments import environment
from streamer.cli.exitcodes import EXIT_BROKEN_PIPE, EXIT_NOT_RUN, EXIT_USAGE
from streamer.cli.files import files
from streamer.cli.host import doctor, runtimes, sandboxes
from streamer.cli.options import (
    OF_SERVICE,
    OF_USER,
    ORIGINS,
    ConfigOptions,
    config_options,
    load,
    load_serving,
)
from streamer.cli.projects import project
from streamer.cli.service import about_file
from streamer.cli.sessions import session
from streamer.cli.tokens import token as token_commands
from streamer.cli.work import work
from streamer.errors import CallerError, ConfigError, StreamerError
from streamer.model.terminal import visible

if TYPE_CHECKING:
    from aiohttp.web import Application

__all__ = ["main"]


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
        except ConfigError as error:
            from streamer.config.load import with_origin

            raise with_origin(error, ctx.meta.get(ORIGINS, {})) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(streamer.__version__, "-V", "--version", message="%(version)s")
def cli() -> None:
    """Run programs in sandboxes and stream their output as Server-Sent Events."""


cli.add_command(project)
cli.add_command(environment)
cli.add_command(files)
cli.add_command(session)
cli.add_command(token_commands)
cli.add_command(runtimes)
cli.add_command(sandboxes)
cli.add_command(doctor)


@cli.command()
@config_options(OF_SERVICE)
@click.option("--host", metavar="ADDRESS", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.")
@click.option(
    "--role",
    type=click.Choice(["all", "api", "worker"]),
    help="The part of the service in this process: api accepts jobs, worker runs them.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Processes that share the port; queue.concurrency is how many jobs each runs.",
)
@click.option(
    "--demo", metavar="FILE", help="Run a program once the service listens, and show its output."
)
def serve(
    options: ConfigOptions,
    host: str | None,
    port: int | None,
    role: str | None,
    workers: int | None,
    demo: str | None,
) -> None:
    """Run the service until Ctrl-C or SIGTERM."""
    address = [
        f"server.{key}={value}"
        for key, value in (
            *(("host", host), ("port", port)),
            *(("role", role), ("workers", workers)),
        )
        if value is not None
    ]
    from streamer.application import create_app
    from streamer.cli.demo import show_demo
    from streamer.web.server.logs import configure_logging
    from streamer.web.server.serve import serve as serve_forever

    config, _ = load_serving(replace(options, overrides=(*options.overrides, *address)))
    program = Path(demo) if demo is not None else None
    if program is not None and config.server.role == "worker":
        raise click.UsageError(f"--demo {demo}: a worker accepts no jobs; use it with another role")
    if program is not None and not program.is_file():
        raise click.UsageError(f"--demo {demo}: there is no such file")

    def say(address: str) -> None:
        if sys.stderr is not None and sys.stderr.isatty():  # otherwise the log says so
            click.echo(f"streamer {streamer.__version__} listens on {address}/", err=True)

    async def demonstrate(address: str, app: Application) -> None:
        if program is not None:
            await show_demo(address, program, app)

    gc.set_threshold(10_000, 10, 10)
    if config.server.workers > 1:
        from streamer.supervisor.serve import serve_together

        serve_together(config, partial(work, quick=True), say, demonstrate)
        return
    configure_logging(config.logging)
    app = create_app(config)

    async def on_ready(address: str) -> None:
        say(address)
        await demonstrate(address, app)

    # What exists now stays, so the collector need not look at it again. A job makes hundreds of
    # objects and hardly a cycle: 700 between two looks, the default, is for smaller programs.
    gc.freeze()
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
@click.option("--session", "session_id", metavar="ID", help="Run it in this session of --url.")
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
    "--retry",
    metavar="N",
    type=click.IntRange(0, 3),
    default=0,
    help="Run it again up to N times when its worker is lost; needs --url.",
)
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
@click.option(
    "--priority",
    type=click.IntRange(-10, 10),
    default=0,
    metavar="N",
    help="With --url: 10 is first among your waiting jobs, -10 last.",
)
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
    session_id: str | None,
    token: str | None,
    token_file: str | None,
    limits: tuple[str, ...],
    files: tuple[str, ...],
    env: tuple[str, ...],
    cases: str | None,
    packages: str | None,
    artifacts: tuple[str, ...],
    output: str | None,
    priority: int,
    retry: int,
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
    _check_remote(url, session_id, project_path, retry)
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
        retry=retry,
        environment=packages,
        artifacts=artifacts,
        priority=priority,
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
            spec = replace(spec, session_id=session_id)
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
        click.echo(f"streamer: {visible(about_file(error) or f'{at}: {error}')}", err=True)
        return EXIT_NOT_RUN


def _check_remote(
    url: str | None, session_id: str | None, project_path: str | None, retry: int
) -> None:
    """Check the options that only a service can fulfil. Raises `click.UsageError`."""
    if session_id and (not url or project_path):
        raise click.UsageError("--session needs --url, and has its own project")
    if retry and not url:
        raise click.UsageError("--retry needs --url: here the job is lost with this command")


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
    from streamer.config.text import in_force, template, with_options

    if begin:
        click.echo(template(), nl=False)
        return
    config, origins = load_serving(options)
    refusal = None
    try:
        config = with_options(config, build(config).backends)
    except StreamerError as error:  # what `serve` would refuse, as an unknown option of a backend
        refusal = error
    for line in in_force(config, origins if show_origin else None):
        click.echo(line)
    if refusal is not None:
        raise refusal


@cli.command()
def version() -> None:
    """Print the version."""
    click.echo(streamer.__version__)
