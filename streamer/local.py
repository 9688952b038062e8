"""Run one job for a terminal: its output here, its input from here, its exit code as ours."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

import click

from streamer.app import SERVICE, create_app
from streamer.client import Client, ServiceProblem
from streamer.config import Config
from streamer.errors import Busy
from streamer.events import Complete, Error, Output
from streamer.jobs import JobSpec
from streamer.log import Event
from streamer.resolve import camel

__all__ = ["EXIT_NOT_RUN", "exit_code", "run_local", "run_remote"]

EXIT_TIME_LIMIT: Final = 124
EXIT_NOT_RUN: Final = 125
EXIT_KILLED: Final = 137
EXIT_INTERRUPTED: Final = 130

INPUT_PAUSE_S: Final = 0.05

Write = Callable[[bytes], Awaitable[object]]
"""Takes bytes for the program's standard input; none mean its end."""


async def run_local(config: Config, spec: JobSpec, *, forward_stdin: bool) -> int:
    """Run a job in this process, without a server, and return the exit code for the shell."""
    spec = replace(spec, interactive=forward_stdin)
    async with create_app(config)[SERVICE] as service:
        job = await service.submit(spec)

        async def write(data: bytes) -> None:
            await (job.write(data) if data else job.end_input())

        return await _show(job.events(), write if forward_stdin else None, job.cancel)


async def run_remote(
    url: str, token: str | None, spec: JobSpec, sandbox: str | None, *, forward_stdin: bool
) -> int:
    """Run a job on the service at `url` and return the exit code for the shell."""
    fields: dict[str, Any] = {
        "language": spec.language,
        "files": [
            {
                "name": file.name,
                "content": base64.b64encode(file.content).decode(),
                "encoding": "base64",
                "mode": f"{file.mode:04o}",
            }
            for file in spec.files
        ],
        "args": spec.args,
        "env": spec.env,
        "limits": {camel(name): value for name, value in spec.limits.items()},
        "interactive": forward_stdin,
        "outputEncoding": spec.output_encoding,
    }
    optional = {"code": spec.code, "entry": spec.entry, "sandbox": sandbox}
    fields.update({name: value for name, value in optional.items() if value is not None})
    async with Client(url, token=token) as client:
        job_id = await client.submit(**fields)

        async def write(data: bytes) -> None:
            await client.write(job_id, data, close=not data)

        async def cancel() -> None:
            await client.cancel(job_id)

        return await _show(client.events(job_id), write if forward_stdin else None, cancel)


def exit_code(end: Complete | Error) -> int:
    """Return the exit code that tells a shell how a job ended."""
    if isinstance(end, Error):
        return EXIT_NOT_RUN
    if end.reason in ("wall_time", "cpu_time"):
        return EXIT_TIME_LIMIT
    if end.reason == "cancelled":
        return EXIT_INTERRUPTED
    if end.reason == "exited" and end.exit_code is not None:
        return end.exit_code
    number = signal.Signals.__members__.get(end.signal or "")
    if end.reason == "signaled" and number is not None:
        return 128 + number
    return EXIT_KILLED


async def _show(
    events: AsyncIterator[Event], write: Write | None, cancel: Callable[[], Awaitable[object]]
) -> int:
    loop = asyncio.get_running_loop()
    cancelling: list[asyncio.Future[object]] = []

    def interrupted() -> None:
        cancelling.append(asyncio.ensure_future(cancel()))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted)
    feeding = asyncio.create_task(_feed(write)) if write else None
    end: Complete | Error | None = None
    try:
        async for event in events:
            if isinstance(event.data, Output):
                _print(event.data)
            elif isinstance(event.data, Complete | Error):
                end = event.data
    finally:
        if feeding is not None:
            feeding.cancel()
        await asyncio.gather(*cancelling, *filter(None, [feeding]), return_exceptions=True)
    assert end is not None
    if isinstance(end, Error):
        click.echo(f"streamer: {end.code}: {end.message}", err=True)
    elif end.reason != "exited":
        name = f" by {end.signal}" if end.signal else ""
        click.echo(f"streamer: ended: {end.reason}{name} ({end.phase})", err=True)
    return exit_code(end)


def _print(output: Output) -> None:
    stream = sys.stdout if output.stream == "stdout" else sys.stderr
    raw = output.encoding == "base64"
    stream.buffer.write(base64.b64decode(output.data) if raw else output.data.encode())
    stream.flush()


async def _feed(write: Write) -> None:
    """Pass standard input on as it comes.

    A thread reads, since a file cannot be polled; it is a daemon, since a read of a terminal
    cannot be interrupted and must not keep the process.
    """
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue()
    room = threading.Semaphore(4)

    def read() -> None:
        data = b"-"
        while data:
            room.acquire()
            try:
                data = os.read(sys.stdin.fileno(), 65536)
            except (OSError, ValueError):
                data = b""
            try:
                loop.call_soon_threadsafe(chunks.put_nowait, data)
            except RuntimeError:
                return  # the loop is closed: the job is over

    threading.Thread(target=read, daemon=True, name="streamer-stdin").start()
    while True:
        data = await chunks.get()
        room.release()
        await _write_patiently(write, data)
        if not data:
            return


async def _write_patiently(write: Write, data: bytes) -> None:
    """Write, again and again while the program has not read its earlier input yet."""
    while True:
        try:
            await write(data)
        except Busy:
            pass
        except ServiceProblem as problem:
            if problem.status != Busy.status:
                raise
        else:
            return
        await asyncio.sleep(INPUT_PAUSE_S)
