"""Run one job for a terminal: pass on its output, input and exit code."""

from __future__ import annotations

import asyncio
import base64
import errno
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Final

import aiohttp
import click

from streamer.cli.input import InputSource, input_for
from streamer.cli.stdio import NAMES, Outlet, StandardInput
from streamer.client import Client, ServiceProblem
from streamer.client.problem import not_a_service
from streamer.compose import build
from streamer.config.schema import Config
from streamer.errors import Busy
from streamer.eventlog.joblog import Event
from streamer.model.events import Complete, Error, Output
from streamer.model.job import JobSpec
from streamer.model.terminal import visible
from streamer.worker.execution import Execution

__all__ = ["EXIT_BROKEN_PIPE", "EXIT_NOT_RUN", "exit_code", "run_local", "run_remote"]

EXIT_TIME_LIMIT: Final = 124
EXIT_NOT_RUN: Final = 125
EXIT_KILLED: Final = 137
EXIT_INTERRUPTED: Final = 130
EXIT_BROKEN_PIPE: Final = 141

INPUT_PAUSE_S: Final = 0.05
UNREACHABLE_S: Final = 30.0
"""How long to retry while the service cannot be reached."""

Write = Callable[[bytes], Awaitable[object]]
"""Takes bytes for the program's standard input; ``b""`` ends it."""


Blocks = InputSource | StandardInput
"""Returns the next block of standard input."""


async def run_local(config: Config, spec: JobSpec, *, forward_stdin: bool, raw: bool) -> int:
    """Run a job in this process, without HTTP, and return the exit code for the shell."""
    spec = replace(spec, interactive=forward_stdin)
    async with build(config) as parts:
        started: list[Execution] = []  # it is the only job
        parts.worker.on_start = started.append
        job = await parts.jobs.submit(spec)

        async def write(data: bytes) -> None:
            await (job.write(data) if data else job.end_input())

        if not forward_stdin:
            return await _run(job.events(), None, job.cancel, raw=raw)
        source = input_for(lambda: sum(execution.input_taken for execution in started))
        try:
            return await _run(job.events(), (source, write), job.cancel, raw=raw)
        finally:
            source.leave()


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
        job_id = await client.submit(spec)

        async def write(data: bytes) -> None:
            await client.write(job_id, data, close=not data)

        async def cancel() -> None:
            await client.cancel(job_id)

        forward = (StandardInput(), write) if forward_stdin else None
        return await _run(client.events(job_id), forward, cancel, raw=raw)


def exit_code(end: Complete | Error) -> int:
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


async def _run(
    events: AsyncIterator[Event],
    forward: tuple[Blocks, Write] | None,
    cancel: Callable[[], Awaitable[object]],
    *,
    raw: bool,
) -> int:
    loop = asyncio.get_running_loop()
    cancelling: list[asyncio.Future[object]] = []

    showing = asyncio.create_task(_show(events, raw=raw))

    def interrupted() -> None:
        if cancelling:
            showing.cancel()  # the second time, do not wait for the rest of the output
        else:
            cancelling.append(asyncio.ensure_future(cancel()))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted)
    feeding = asyncio.create_task(_feed(*forward)) if forward else None
    if feeding is not None:
        # Without its input the program could wait until its time limit.
        feeding.add_done_callback(lambda done: interrupted() if _failure(done) else None)
    try:
        end = await _seen(showing, interrupted)
    finally:
        if feeding is not None:
            feeding.cancel()
        await asyncio.gather(*cancelling, *filter(None, [feeding]), return_exceptions=True)
    if isinstance(end, int):
        return end
    failure = _failure(feeding) if feeding else None
    if failure is not None:
        click.echo(f"streamer: the input could not be sent: {visible(str(failure))}", err=True)
        return EXIT_NOT_RUN
    return _report(end)


async def _seen(
    showing: asyncio.Task[Complete | Error], interrupted: Callable[[], None]
) -> Complete | Error | int:
    """Return how the job ended, or the exit code if not all of its output was written."""
    try:
        return await showing
    except asyncio.CancelledError:
        this = asyncio.current_task()
        if this is None or this.cancelling():
            raise
        return EXIT_INTERRUPTED
    except OSError as error:
        if error.filename not in NAMES.values():
            raise
        interrupted()
        if error.errno == errno.EPIPE:
            return EXIT_BROKEN_PIPE  # as SIGPIPE would, in `... | head -1`
        click.echo(f"streamer: {error.filename}: {error.strerror}", err=True)
        return EXIT_NOT_RUN


async def _show(events: AsyncIterator[Event], *, raw: bool) -> Complete | Error:
    """Write the output as it arrives and return how the job ended. Raises `OSError`."""
    outlets = {"stdout": Outlet(1, raw=raw), "stderr": Outlet(2, raw=raw)}
    end: Complete | Error | None = None
    async for event in events:
        if isinstance(event.data, Output):
            await _print(event.data, outlets[event.data.stream])
        elif isinstance(event.data, Complete | Error):
            end = event.data
    for outlet in outlets.values():
        await outlet.end()
    if end is None:
        raise not_a_service(204)
    return end


def _report(end: Complete | Error) -> int:
    if isinstance(end, Error):
        click.echo(visible(f"streamer: {end.code}: {end.message}"), err=True)
    elif end.reason != "exited":
        name = f" by {end.signal}" if end.signal else ""
        click.echo(visible(f"streamer: ended: {end.reason}{name} ({end.phase})"), err=True)
    return exit_code(end)


async def _print(output: Output, outlet: Outlet) -> None:
    raw = output.encoding == "base64"
    try:
        data = base64.b64decode(output.data) if raw else output.data.encode()
    except ValueError:
        raise not_a_service(200) from None
    await outlet.write(data)


def _failure(feeding: asyncio.Task[None]) -> BaseException | None:
    return feeding.exception() if feeding.done() and not feeding.cancelled() else None


async def _feed(source: Blocks, write: Write) -> None:
    """Pass on standard input, block by block, as fast as the job reads it."""
    data = b"-"
    while data:
        data = await source.block()
        if not await _write_patiently(write, data):
            return


async def _write_patiently(write: Write, data: bytes) -> bool:
    """Write; return False if the job takes no more input.

    Repeats only what certainly did not arrive: doubled input would be worse than lost input.
    """
    loop = asyncio.get_running_loop()
    give_up = loop.time() + UNREACHABLE_S
    while True:
        try:
            await write(data)
        except Busy:
            pass  # the program has not read its earlier input yet
        except ServiceProblem as problem:
            if problem.status in (404, 409, 410):
                return False
            if problem.status != Busy.status:
                raise
        except aiohttp.ClientConnectorError:
            if loop.time() > give_up:
                raise
        else:
            return True
        await asyncio.sleep(INPUT_PAUSE_S)
