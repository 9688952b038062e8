"""Run a job on a remote service."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp
import click

from streamer.cli.run import INPUT_PAUSE_S, run_job
from streamer.cli.stdio import StandardInput
from streamer.client import Client, ServiceProblem
from streamer.errors import Busy, Unauthorized
from streamer.model.job import JobSpec

__all__ = ["run_remote", "token_in"]

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
    *,
    forward_stdin: bool,
    raw: bool,
) -> int:
    """Run a job on the service at `url` and return the exit code for the shell."""
    spec = replace(spec, sandbox=sandbox, interactive=forward_stdin)
    async with Client(url, token=token) as client:
        try:
            job_id = await client.submit(spec)
        except aiohttp.ClientConnectorError as error:
            raise OSError(f"no service can be reached there: {_why(error.os_error)}") from error
        except ServiceProblem as problem:
            if problem.status != Unauthorized.status:
                raise
            raise click.UsageError(
                f"{url}: {problem.message}; set STREAMER_TOKEN, or use --token-file FILE"
            ) from None

        async def cancel() -> None:
            await client.cancel(job_id)

        write = partial(_write_patiently, client, job_id)
        forward = (StandardInput(), write) if forward_stdin else None
        return await run_job(client.events(job_id), forward, cancel, raw=raw)


def _why(error: OSError) -> str:
    if isinstance(error, socket.gaierror | ssl.SSLError) or not error.errno:
        return error.strerror or str(error)
    # asyncio's own text names its call and repeats the address.
    return os.strerror(error.errno)


async def _write_patiently(client: Client, job_id: str, data: bytes) -> bool:
    """Write; return False if the job takes no more input.

    Repeats only what certainly did not arrive: doubled input would be worse than lost input.
    """
    loop = asyncio.get_running_loop()
    give_up = loop.time() + UNREACHABLE_S
    while True:
        try:
            await client.write(job_id, data, close=not data)
        except ServiceProblem as problem:
            if problem.status in (404, 409, 410):
                return False
            if problem.status != Busy.status:  # the program has not read its earlier input yet
                raise
        except aiohttp.ClientConnectorError:
            if loop.time() > give_up:
                raise
        else:
            return True
        await asyncio.sleep(INPUT_PAUSE_S)
