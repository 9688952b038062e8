"""The command `streamer run`: one program, here or on a service."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import click

from streamer.cli.completion import files, folders, language_names
from streamer.cli.exitcodes import EXIT_NOT_RUN
from streamer.cli.options import OF_USER, ConfigOptions, config_options, load
from streamer.cli.service import about_file
from streamer.cli.work import work
from streamer.errors import CallerError, ConfigError, StreamerError
from streamer.model.terminal import visible

__all__ = ["run"]


@click.command()
@config_options(OF_USER)
@click.argument("program", metavar="FILE|DIR|-", required=False, shell_complete=files)
@click.argument("args", nargs=-1, metavar="[-- ARGS]")
@click.option(
    "--language", metavar="L", shell_complete=language_names, help="Default: from the file's name."
)
@click.option(
    "--project",
    "project_path",
    metavar="DIR|ARCHIVE",
    shell_complete=files,
    help="Run FILE of this folder or archive; without FILE the language's entry.",
)
@click.option("--url", metavar="URL", help="Run it on the service at URL.")
@click.option("--session", "session_id", metavar="ID", help="Run it in this session of --url.")
@click.option(
    "--token-file", metavar="FILE", shell_complete=files, help="A file with the token for --url."
)
@click.option(
    "--token",
    metavar="TOKEN",
    envvar="STREAMER_TOKEN",
    help="The token itself; every user of this host can see it. Better: $STREAMER_TOKEN.",
)
@click.option(
    "--limit", "limits", multiple=True, metavar="NAME=VALUE", help="Such as wall_time_s=5."
)
@click.option(
    "--file",
    "beside",
    multiple=True,
    metavar="F",
    shell_complete=files,
    help="Put another file beside it.",
)
@click.option(
    "--env", "env", multiple=True, metavar="NAME=VALUE", help="Set an environment variable."
)
@click.option(
    "--cases", metavar="FILE", shell_complete=files, help="Run it for each case of a JSON file."
)
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
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    shell_complete=folders,
    help="The folder in which they are saved.",
)
@click.option(
    "--priority",
    type=click.IntRange(-10, 10),
    default=0,
    metavar="N",
    help="With --url: 10 is first among your waiting jobs, -10 last.",
)
@click.option("-n", "--no-stdin", is_flag=True, help="Give it no input; read no standard input.")
@click.option(
    "-d", "--detach", is_flag=True, help="Print the id of the job and leave it to the service."
)
@click.option("--json", "as_json", is_flag=True, help="Print the events, one JSON document a line.")
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
    beside: tuple[str, ...],
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
    detach: bool,
    as_json: bool,
    raw: bool,
    terminal: bool,
) -> int:
    """Run one program with live output and input from here; Ctrl-C cancels it.

    Of a folder the entry of its language is run, such as main.py. A second Ctrl-C does not wait
    for the rest of the output. From a file or a pipe on standard
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
        raise click.UsageError("name the FILE|DIR|- to run, or a --project")
    if project_path is None and os.path.isdir(program or ""):  # noqa: PTH112 - Path.is_dir may raise
        program, project_path = None, program
    _check_remote(url, session_id, project_path, retry, detach=detach)
    _check_output(artifacts, output, detach=detach)
    if terminal:
        check_terminal(program, no_stdin=no_stdin or detach, cases=cases, as_json=as_json)
    config = load(replace(options, sandbox=None) if url else options)
    spec = job_spec(
        program,
        project=project_path,
        runtimes=by_name(config.runtimes),
        language=language,
        args=args,
        files=beside,
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
    how: dict[str, Any] = {
        "forward_stdin": forward and not detach,
        "raw": raw,
        "on_terminal": terminal,
        "output": output,
        "as_json": as_json,
    }
    if as_json:
        spec = replace(spec, output_encoding="utf-8")
    try:
        if url:
            from streamer.cli.remote import run_remote, token_in

            if token_file:
                token = token_in(token_file)
            spec = replace(spec, session_id=session_id)
            how["detach"] = detach
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
    except OSError as error:
        at = url or program or project_path
        click.echo(f"streamer: {visible(about_file(error) or f'{at}: {error}')}", err=True)
    return EXIT_NOT_RUN


def _check_output(artifacts: tuple[str, ...], output: str | None, *, detach: bool) -> None:
    """Check that files are saved if any are kept, while this command is there to do it."""
    if detach and output is not None:
        raise click.UsageError("--detach leaves before there are files: use streamer files")
    if bool(artifacts) != (output is not None) and not detach:
        raise click.UsageError("--artifact GLOB and -o DIR need each other")


def _check_remote(
    url: str | None,
    session_id: str | None,
    project_path: str | None,
    retry: int,
    *,
    detach: bool,
) -> None:
    """Check the options that only a service can fulfil. Raises `click.UsageError`."""
    if session_id and (not url or project_path):
        raise click.UsageError("--session needs --url, and has its own project")
    if retry and not url:
        raise click.UsageError("--retry needs --url: here the job is lost with this command")
    if detach and not url:
        raise click.UsageError("--detach needs --url: here the job ends with this command")
