"""Run a job on a remote service."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp
import click

from streamer.cli.exitcodes import EXIT_NOT_RUN
from streamer.cli.run import INPUT_PAUSE_S, run_job
from streamer.cli.saving import save_all
from streamer.cli.stdio import StandardInput
from streamer.cli.tty import Terminal
from streamer.client import Client, ServiceProblem
from streamer.errors import Busy, Unauthorized
from streamer.model.job import JobSpec, TerminalSize
from streamer.model.terminal import visible

__all__ = ["explained", "run_remote", "token_in"]

UNREACHABLE_S: Final = 30.0
"""How long to retry while the service cannot be reached."""


def token_in(file: str) -> str:
    """Return the token in a file. Raises `click.UsageError`."""
    try:
        token = Path(file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not ASCII text"
        raise click.UsageError(f"--token-file {file}: {reason}") from None
    if not token or len(token.split()) > 1:
        raise click.UsageError(f"--token-file {file}: it must contain one word, the token")
    return token


async def run_remote(
    url: str,
    token: str | None,
    spec: JobSpec,
    sandbox: str | None,
    project: str | None,
    *,
    forward_stdin: bool,
    raw: bool,
    on_terminal: bool = False,
    output: str | None = None,
    as_json: bool = False,
    detach: bool = False,
) -> int:
    """Run a job on the service at `url` and return the exit code for the shell.

    The folder or archive `project` is uploaded for it; `output` is where its files are saved. With
    `detach` only its id is printed.
    """
    spec = replace(spec, sandbox=sandbox, interactive=forward_stdin)
    terminal = Terminal() if on_terminal else None
    if terminal is not None:
        spec = replace(spec, terminal=TerminalSize(*terminal.size))
    async with Client(url, token=token) as client:
        with explained(url):
            job_id = await _submitted(client, spec, project)
        if detach:
            click.echo(visible(job_id))
            return 0

        async def cancel() -> None:
            await client.cancel(job_id)

        typing = _Numbered(client, job_id, terminal)
        forward = (StandardInput(), typing.write) if forward_stdin or terminal else None
        at = (terminal, partial(_resize, client, job_id)) if terminal else None
        code = await run_job(
            client.events(job_id), forward, cancel, raw=raw, at=at, as_json=as_json
        )
        if output is None:
            return code
        names = [file["name"] for file in await client.files(job_id)]
        kept = [(name, _content(client, job_id, name)) for name in names]
        return code if await save_all(output, spec.artifacts, kept) else code or EXIT_NOT_RUN


async def _content(client: Client, job_id: str, name: str) -> AsyncGenerator[bytes, None]:
    # Raises what `save_all` tells.
    try:
        async with contextlib.aclosing(client.read_file(job_id, name)) as pieces:
            async for piece in pieces:
                yield piece
    except (aiohttp.ClientError, ServiceProblem, TimeoutError) as error:
        why = str(error) or "the service did not answer in time"
        raise OSError(errno.EIO, why) from error


async def _submitted(client: Client, spec: JobSpec, project: str | None) -> str:
    if project is None:
        return await client.submit(spec)
    uploaded = (await client.upload(project))["projectId"]
    try:
        return await client.submit(replace(spec, project_id=uploaded))
    finally:
        # The job keeps it; and if this fails, it expires.
        with contextlib.suppress(ServiceProblem, aiohttp.ClientError, TimeoutError):
            await client.delete_project(uploaded)


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Raise in a user's words what a first request may meet: OSError, `click.UsageError`."""
    try:
        yield
    except aiohttp.ClientConnectorError as error:
        raise OSError(f"no service can be reached there: {_why(error.os_error)}") from error
    except ServiceProblem as problem:
        if problem.status != Unauthorized.status:
            raise
        raise click.UsageError(
            f"{url}: {problem.message}; set STREAMER_TOKEN, or use --token-file FILE"
        ) from None


def _why(error: OSError) -> str:
    if isinstance(error, socket.gaierror | ssl.SSLError) or not error.errno:
        return error.strerror or str(error)
    # asyncio's own text names its call and repeats the address.
    return os.strerror(error.errno)


async def _resize(client: Client, job_id: str, cols: int, rows: int) -> None:
    # Not OSError's family in every case, as what `run_job` expects is.
    try:
        await client.resize(job_id, cols, rows)
    except aiohttp.ClientError as error:
        raise OSError(str(error)) from error


class _Numbered:
    """Sends input, numbered: what may have arrived already can be sent again."""

    def __init__(self, client: Client, job_id: str, terminal: Terminal | None) -> None:
        self._client = client
        self._job_id = job_id
        self._terminal = terminal
        self._sent = 0

    async def write(self, data: bytes) -> bool:
        """Send; return False if the job takes no more input."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + UNREACHABLE_S
        while True:
            try:
                await self._client.write(self._job_id, data, close=not data, seq=self._sent)
            except ServiceProblem as problem:
                if problem.status in (404, 409, 410):
                    return False
                if problem.status != Busy.status:  # the program has not read its earlier input yet
                    raise
            except (aiohttp.ClientConnectionError, TimeoutError):
                if loop.time() > give_up:
                    raise
                self._tell_trouble()
            else:
                self._sent += len(data)
                if self._terminal is not None and self._terminal.unanswered:
                    self._terminal.begin()
                return True
            await asyncio.sleep(INPUT_PAUSE_S)

    def _tell_trouble(self) -> None:
        """Let Ctrl-C end the command again: nobody else answers it."""
        if self._terminal is not None and self._terminal.restore():
            self._terminal.unanswered = True
            click.echo("streamer: the service does not answer; Ctrl-C ends this", err=True)
