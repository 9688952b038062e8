"""Run one job for a terminal: pass on its output, input and exit code."""

from __future__ import annotations

import asyncio
import base64
import contextlib
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
from streamer.cli.tty import Modes, Terminal
from streamer.errors import StreamerError, UnknownJob
from streamer.model.events import (
    CaseEnd,
    Complete,
    Error,
    Event,
    Gap,
    JobEvent,
    Output,
    Status,
    encode,
)
from streamer.model.signals import signal_number
from streamer.model.terminal import visible

__all__ = ["INPUT_PAUSE_S", "exit_code", "run_job"]

INPUT_PAUSE_S: Final = 0.05
"""How long to wait before input that a job did not take is sent again."""

Write = Callable[[bytes], Awaitable[bool]]
"""Takes bytes for the program's standard input; ``b""`` ends it. False: it takes no more."""


Resize = Callable[[int, int], Awaitable[object]]
"""Tells the job's terminal its columns and rows."""

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
    cancel: Callable[[], Awaitable[object]] | None,
    *,
    raw: bool,
    at: tuple[Terminal, Resize] | None = None,
    as_json: bool = False,
) -> int:
    """Show a job's events, forward its input, and return the exit code for the shell.

    An interrupt calls `cancel` and waits for the end; without one it only ends the showing. `at` is
    the terminal that its program has, while it runs, and what tells it a new size. With `as_json`
    standard output gets the events themselves, one JSON document a line.
    """
    loop = asyncio.get_running_loop()
    cancelling: list[asyncio.Future[object]] = []
    terminal = at[0] if at else None

    gaps: list[Gap] = []
    showing = asyncio.create_task(_show(events, gaps, terminal, raw=raw, as_json=as_json))

    def interrupted() -> None:
        if cancel is None or cancelling or (terminal is not None and terminal.unanswered):
            showing.cancel()  # the second time, do not wait for the rest of the output
        else:
            cancelling.append(asyncio.ensure_future(cancel()))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted)
    feeding = asyncio.create_task(_feed(*forward, terminal)) if forward else None
    sizing = asyncio.create_task(_keep_size(*at)) if at else None

    def not_fed(done: asyncio.Task[None]) -> None:
        if _failure(done) is not None:
            # Without its input the program could wait until its time limit.
            interrupted()
            if terminal is not None:
                interrupted()  # nobody could press Ctrl-C for the second time

    if feeding is not None:
        feeding.add_done_callback(not_fed)
    others = [task for task in (feeding, sizing) if task is not None]
    try:
        with terminal.kept(interrupted) if terminal else contextlib.nullcontext():
            end = await _seen(showing, interrupted)
    finally:
        for task in others:
            task.cancel()
        await asyncio.gather(*cancelling, *others, return_exceptions=True)
    failure = _failure(feeding) if feeding else None
    if failure is not None and (terminal is not None or not isinstance(end, int)):
        click.echo(f"streamer: the input could not be sent: {visible(str(failure))}", err=True)
        return EXIT_NOT_RUN
    code = end if isinstance(end, int) else _report(end)
    return code or EXIT_NOT_RUN if gaps else code


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
    except UnknownJob as error:
        click.echo(f"streamer: the service has lost the job: {visible(str(error))}", err=True)
        return EXIT_NOT_RUN
    except OSError as error:
        if error.filename not in NAMES.values():
            raise
        interrupted()
        if error.errno == errno.EPIPE:
            return EXIT_BROKEN_PIPE  # as SIGPIPE would, in `... | head -1`
        click.echo(f"streamer: {error.filename}: {error.strerror}", err=True)
        return EXIT_NOT_RUN


async def _show(
    events: AsyncIterator[Event],
    gaps: list[Gap],
    terminal: Terminal | None,
    *,
    raw: bool,
    as_json: bool = False,
) -> Complete | Error:
    """Write the output as it arrives and return how the job ended. Raises `OSError`, `UnknownJob`.

    What is not kept any more is told, and added to `gaps`.
    """
    outlets = {"stdout": Outlet(1, raw=raw), "stderr": Outlet(2, raw=raw)}
    modes = Modes()
    end: Complete | Error | None = None
    try:
        async for event in events:
            if as_json:
                await outlets["stdout"].write(_line(event))
            elif isinstance(event.data, Output):
                await _print(event.data, outlets[event.data.stream], modes)
            else:
                _tell(event.data, terminal)
            if isinstance(event.data, Gap):
                gaps.append(event.data)
            elif isinstance(event.data, Complete | Error):
                end = event.data
    finally:
        if raw and terminal is not None and (back := modes.reset()):
            await outlets["stdout"].write(back)
    for outlet in outlets.values():
        await outlet.end()
    if end is None:
        raise _not_a_service(204)
    return end


def _line(event: Event) -> bytes:
    """Return an event as one line: its number, its kind, and its data as it is sent over HTTP."""
    kind, data = encode(event.data)
    return b'{"id":%d,"event":"%s","data":%s}\n' % (event.id, kind.encode(), data)


def _tell(data: JobEvent, terminal: Terminal | None) -> None:
    """Say on standard error what is no output."""
    if isinstance(data, CaseEnd):
        _report_case(data)
    elif isinstance(data, Status):
        _take_status(data, terminal)
    elif isinstance(data, Gap):
        _report_gap(data)


def _take_status(status: Status, terminal: Terminal | None) -> None:
    if terminal is not None and status.state == "running":
        terminal.begin()
    if status.attempt is not None:
        again = f"streamer: {status.reason}: attempt {status.attempt} begins anew"
        click.echo(visible(again), err=True)


def _report(end: Complete | Error) -> int:
    if isinstance(end, Error):
        click.echo(visible(f"streamer: {end.code}: {end.message}"), err=True)
        return exit_code(end)
    if end.reason != "exited":
        name = f" by {end.signal}" if end.signal else ""
        click.echo(visible(f"streamer: ended: {end.reason}{name} ({end.phase})"), err=True)
    for failure in end.artifacts_failed:
        what = failure.name or failure.glob
        click.echo(visible(f"streamer: not kept: {what}: {failure.reason}"), err=True)
    return exit_code(end)


def _report_gap(gap: Gap) -> None:
    if gap.to is not None:  # else nothing of the job is kept, which is told when it is asked for
        what = f"events {gap.from_} to {gap.to} are no longer kept: output may be missing"
        click.echo(f"streamer: {what}", err=True)


def _report_case(end: CaseEnd) -> None:
    name = f" ({end.name})" if end.name else ""
    how = end.signal if end.signal and end.reason == "signaled" else end.reason
    code = f" {end.exit_code}" if end.reason == "exited" else ""
    click.echo(visible(f"case {end.index}{name}: {how}{code}, {end.duration_ms} ms"), err=True)


async def _print(output: Output, outlet: Outlet, modes: Modes) -> None:
    raw = output.encoding == "base64"
    try:
        data = base64.b64decode(output.data) if raw else output.data.encode()
    except ValueError:
        raise _not_a_service(200) from None
    modes.feed(data)
    await outlet.write(data)


def _not_a_service(status: int) -> Exception:
    # Only a remote service answers so, and its client takes as long to import as all the rest.
    from streamer.client.problem import not_a_service

    return not_a_service(status)


def _failure(feeding: asyncio.Task[None]) -> BaseException | None:
    return feeding.exception() if feeding.done() and not feeding.cancelled() else None


async def _keep_size(terminal: Terminal, resize: Resize) -> None:
    # It does not work before the job has come to its worker's side, or while nothing answers: the
    # next size is told again.
    while True:
        with contextlib.suppress(OSError, TimeoutError, StreamerError):
            await terminal.follow_size(resize)


async def _feed(source: Blocks, write: Write, terminal: Terminal | None) -> None:
    """Pass on standard input, block by block, as fast as the job reads it.

    On a terminal only what is typed once the program runs: until then Ctrl-C is for this command.
    """
    if terminal is not None:
        await terminal.begun.wait()
    data = b"-"
    while data:
        data = await source.block()
        if not await write(data):
            return
