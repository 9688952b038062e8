"""Run a program on the service that has just started, and show its output in the terminal."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import aiohttp
import click
from aiohttp import web

from streamer.cli.stdio import Outlet
from streamer.client import Client
from streamer.errors import StreamerError
from streamer.model.events import Complete, Error, Output
from streamer.model.terminal import visible
from streamer.web.app import ACCESS, SERVICE

__all__ = ["show_demo"]


async def show_demo(address: str, file: Path, app: web.Application) -> None:
    """Submit a Python file over HTTP, print its output, and then the playground's URL.

    If a token is needed it is `$STREAMER_TOKEN`. The URL is printed even if the demo fails, but not
    if the service is stopping meanwhile.
    """
    token = os.environ.get("STREAMER_TOKEN")
    try:
        if app[ACCESS].knows_callers and not token:
            click.echo(
                "the demo needs a token: set STREAMER_TOKEN to one of the configured ones", err=True
            )
        else:
            await _run(address, file, token)
    except (StreamerError, aiohttp.ClientError, OSError, UnicodeDecodeError) as error:
        click.echo(f"the demo failed: {visible(str(error))}", err=True)
    if not app[SERVICE].draining.is_set():
        click.echo(f"\nThe playground: {address}/   (Ctrl-C stops the service)", err=True)


async def _run(address: str, file: Path, token: str | None) -> None:
    code = await asyncio.to_thread(file.read_text, encoding="utf-8")
    click.echo(f"running {file} in a sandbox, streamed over HTTP:\n", err=True)
    outlets = {"stdout": Outlet(1, raw=False), "stderr": Outlet(2, raw=False)}
    async with Client(address, token=token) as client:
        async for event in client.run(language="python", code=code):
            match event.data:
                case Output(stream=stream, data=data):
                    await outlets[stream].write(data.encode())
                case Complete(reason=reason, exit_code=code_, duration_ms=ms, sandbox=name):
                    click.echo(f"\n{reason}, exit code {code_}, {ms} ms in {name}", err=True)
                case Error(code=problem, message=message):
                    click.echo(f"\n{problem}: {visible(message)}", err=True)
