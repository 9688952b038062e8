"""Run one job for a terminal: pass on its output, input and exit code."""

from __future__ import annotations

import asyncio
import base64
import errno
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import click

from streamer.cli.exitcodes import (
    EXIT_BROKEN_PIPE,
    EXIT_INTERRUPTED,
    EXIT_KILLED,
    EXIT_NOT_RUN,
    EXIT_TIME_LIMIT,
)
from streamer.cli.input import InputSource
from streamer.cli.stdio import NAMES, Outlet, StandardInput
from streamer.eventlog.joblog import Event
from streamer.model.events import Complete, Error, Output
from streamer.model.signals import signal_number
from streamer.model.terminal import visible

__all__ = ["INPUT_PAUSE_S", "exit_code", "run_job"]

INPUT_PAUSE_S: Final = 0.05
"""How long to wait before input that a job did not take is sent again."""

Write = Callable[[bytes], Awaitable[bool]]
"""Takes bytes for the program's standard input; ``b""`` ends it. False: it takes no more."""


Blocks = InputSource | StandardInput
"""Returns the next block of standard input."""


def exit_code(end: Complete | Error) -> int:
    if isinstance(end, Error):
        return EXIT_NOT_RUN
    if end.reason in ("wall_time", "cpu_time"):
        return EXIT_TIME_LIMIT
    if end.reason == "cancelled":
        return EXIT_INTERRUPTED
    if end.reason == "exited" and end.exit_code is not None:
        return end.exit_code
    number = signal_number(end.signal or "")
    if end.reason == "signaled" and number is not None:
        return 128 + number
    return EXIT_KILLED


async def run_job(
    events: AsyncIterator[Event],
    forward: tuple[Blocks, Write] | None,
    cancel: Callable[[], Awaitable[object]],
    *,
    raw: bool,
) -> int:
    """Show a job's events, forward its input, and return the exit code for the shell."""
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
        raise _not_a_service(204)
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
        raise _not_a_service(200) from None
    await outlet.write(data)


def _not_a_service(status: int) -> Exception:
    # Only a remote service answers so, and its client takes as long to import as all the rest.
    from streamer.client.problem import not_a_service  # noqa: PLC0415 - as above

    return not_a_service(status)


def _failure(feeding: asyncio.Task[None]) -> BaseException | None:
    return feeding.exception() if feeding.done() and not feeding.cancelled() else None


async def _feed(source: Blocks, write: Write) -> None:
    """Pass on standard input, block by block, as fast as the job reads it."""
    data = b"-"
    while data:
        data = await source.block()
        if not await write(data):
            return
