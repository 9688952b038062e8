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
from streamer.cli.bench import bench
from streamer.cli.completion import files as complete_files
from streamer.cli.descriptors import drop_output, fill_closed
from streamer.cli.environments import environment
from streamer.cli.exitcodes import EXIT_BROKEN_PIPE, EXIT_USAGE
from streamer.cli.files import files
from streamer.cli.follow import follow
from streamer.cli.host import doctor, runtimes, sandboxes
from streamer.cli.jobs import cancel, jobs
from streamer.cli.mcp import mcp
from streamer.cli.options import (
    OF_SERVICE,
    ORIGINS,
    ConfigOptions,
    config_options,
    load_serving,
)
from streamer.cli.plugins import plugins
from streamer.cli.program import run
from streamer.cli.projects import project
from streamer.cli.sessions import session
from streamer.cli.tokens import token as token_commands
from streamer.cli.work import work
from streamer.errors import ConfigError, StreamerError
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


cli.add_command(run)
cli.add_command(follow)
cli.add_command(jobs)
cli.add_command(cancel)
cli.add_command(project)
cli.add_command(environment)
cli.add_command(files)
cli.add_command(session)
cli.add_command(token_commands)
cli.add_command(runtimes)
cli.add_command(sandboxes)
cli.add_command(doctor)
cli.add_command(bench)
cli.add_command(mcp)
cli.add_command(plugins)


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
    "--demo",
    metavar="FILE",
    shell_complete=complete_files,
    help="Run a program once the service listens, and show its output.",
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
