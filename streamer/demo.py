"""Run a program through a service that has just started, and show it in the terminal."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from streamer.client import Client
from streamer.events import Complete, Error, Output

__all__ = ["show_demo"]


async def show_demo(address: str, file: Path) -> None:
    """Submit a Python file over HTTP and print what it prints, as it comes."""
    code = await asyncio.to_thread(file.read_text, encoding="utf-8")
    click.echo(f"running {file} in a sandbox, streamed over HTTP:\n", err=True)
    async with Client(address) as client:
        async for event in client.run(language="python", code=code):
            match event.data:
                case Output(stream=stream, data=data):
                    click.echo(data, nl=False, err=stream == "stderr")
                case Complete(reason=reason, exit_code=code_, duration_ms=ms, sandbox=name):
                    click.echo(f"\n{reason}, exit code {code_}, {ms} ms in {name}", err=True)
                case Error(code=problem, message=message):
                    click.echo(f"\n{problem}: {message}", err=True)
    click.echo(f"\nThe playground: {address}/   (Ctrl-C stops the service)", err=True)
