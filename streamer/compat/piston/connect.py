"""The WebSocket of Piston: a program whose output arrives as it comes, and that can be typed to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec
from aiohttp import WSMsgType, web

import streamer
from streamer.compat.piston.request import Request
from streamer.compat.piston.result import exit_of
from streamer.compat.piston.runtimes import Runtime
from streamer.errors import Busy, CallerError, CapacityError, InvalidRequest
from streamer.events import Complete, Error, Output, Status

__all__ = ["SpecOf", "connect"]

SpecOf = Callable[[Request], tuple[streamer.JobSpec, Runtime]]
"""Returns the job of an ``init``, or raises `InvalidRequest`."""

INIT_S: Final = 1.0
"""How long a client may take to say what it wants."""
LEAST_BYTES: Final = 64 * 1024
"""The largest message is at least so large."""
AGAIN_S: Final = 0.05
"""How long to wait before input is sent again that the program had no room for."""

DONE: Final = (4999, b"Job Completed")
INITIALIZED: Final = (4000, b"Already Initialized")
LATE: Final = (4001, b"Initialization Timeout")
NOTIFIED: Final = (4002, b"Notified Error")
NOT_YET: Final = (4003, b"Not yet initialized")
ONLY_STDIN: Final = (4004, b"Can only write to stdin")
NO_SIGNAL: Final = (4005, b"Invalid signal")

_messages: Final = msgspec.json.Decoder(dict[str, Any])


class _Closing(Exception):
    def __init__(self, why: tuple[int, bytes]) -> None:
        self.code, self.message = why


class _Failed(Exception):
    """The job could not be run."""


async def connect(caller: streamer.Caller, spec_of: SpecOf) -> web.StreamResponse:
    """Answer a WebSocket, up to the end of its job or until the client leaves.

    A job whose client has left is cancelled: nobody else knows of it.
    """
    config = caller.service.config
    write_s = config.streams.write_timeout_s
    with caller.place():
        # All messages that are being received fit into the room for bodies.
        most = max(config.server.bodies_bytes // config.compat.max_waiting, LEAST_BYTES)
        socket = web.WebSocketResponse(
            heartbeat=config.streams.heartbeat_s, max_msg_size=most, compress=False
        )
        await socket.prepare(caller.request)
        try:
            await _converse(caller, socket, spec_of, write_s)
        except _Closing as why:
            await socket.close(code=why.code, message=why.message)
        except (CallerError, CapacityError, _Failed) as error:
            with contextlib.suppress(ConnectionError):
                await _send(socket, {"type": "error", "message": str(error)}, write_s)
            await socket.close(code=NOTIFIED[0], message=NOTIFIED[1])
        except ConnectionError:
            if caller.request.transport is not None:
                caller.request.transport.abort()
        return socket


async def _converse(
    caller: streamer.Caller, socket: web.WebSocketResponse, spec_of: SpecOf, write_s: float
) -> None:
    messages = _received(socket)
    try:
        async with asyncio.timeout(INIT_S):
            first = await anext(messages, None)
    except TimeoutError:
        raise _Closing(LATE) from None
    if first is None:
        return
    if first.get("type") != "init":
        raise _Closing(NOT_YET)
    spec, runtime = spec_of(msgspec.convert(first, Request))
    job = await caller.submit(spec)
    try:
        told = {"type": "runtime", "language": runtime.language, "version": runtime.shown}
        await _send(socket, told, write_s)
        telling = asyncio.create_task(_tell(job, socket, runtime, write_s))
        hearing = asyncio.create_task(_hear(job, messages))
        try:
            done, _ = await asyncio.wait((telling, hearing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (telling, hearing):
                task.cancel()
            await asyncio.gather(telling, hearing, return_exceptions=True)
        for task in done:
            task.result()
    finally:
        # It is over, or nobody listens any more.
        await asyncio.shield(job.cancel())


async def _received(socket: web.WebSocketResponse) -> AsyncIterator[dict[str, Any]]:
    """Yield the messages of the client, until it leaves."""
    async for message in socket:
        if message.type is not WSMsgType.TEXT and message.type is not WSMsgType.BINARY:
            return
        try:
            yield _messages.decode(message.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequest(f"the message is not valid JSON: {error}") from None


async def _hear(job: streamer.Job, messages: AsyncIterator[dict[str, Any]]) -> None:
    """Pass on what the client types and the signals that it sends, until it leaves."""
    async for message in messages:
        match message.get("type"):
            case "init":
                raise _Closing(INITIALIZED)
            case "data":
                data = message.get("data")
                if message.get("stream") != "stdin" or not isinstance(data, str):
                    raise _Closing(ONLY_STDIN)
                await _type(job, data)
            case "signal":
                try:
                    await job.signal(str(message.get("signal")))
                except ValueError:
                    raise _Closing(NO_SIGNAL) from None
            case _:
                pass  # as Piston


async def _type(job: streamer.Job, data: str) -> None:
    """Send input; while there is no room for it, nothing more of the client's is read."""
    while True:
        try:
            await job.write(data.encode("utf-8", "replace"))
        except Busy:
            await asyncio.sleep(AGAIN_S)
        else:
            return


async def _tell(
    job: streamer.Job, socket: web.WebSocketResponse, runtime: Runtime, write_s: float
) -> None:
    """Tell the client of each stage, of output, and of the end. Raises `_Closing` at the end."""
    stage = ""
    async for event in job.events():
        match event.data:
            case Status(state="compiling"):
                stage = await _stage(socket, stage, "compile", write_s)
            case Status(state="running"):
                if runtime.compiled and not stage:  # it was compiled before
                    stage = await _stage(socket, stage, "compile", write_s)
                stage = await _stage(socket, stage, "run", write_s)
            case Output() as output:
                told = {"type": "data", "stream": output.stream, "data": output.data}
                await _send(socket, told, write_s)
            case Complete() as end:
                stage = await _stage(socket, stage, end.phase, write_s)
                code, signal = exit_of(end)
                await _exit(socket, end.phase, code, signal, write_s)
                raise _Closing(DONE)
            case Error() as error:
                raise _Failed(error.message)
            case _:
                pass


async def _stage(socket: web.WebSocketResponse, before: str, now: str, write_s: float) -> str:
    """Tell that a stage begins, and that the compiler before it has succeeded."""
    if before != now:
        if before == "compile":
            await _exit(socket, "compile", 0, None, write_s)
        await _send(socket, {"type": "stage", "stage": now}, write_s)
    return now


async def _exit(
    socket: web.WebSocketResponse, stage: str, code: int | None, signal: str | None, write_s: float
) -> None:
    await _send(socket, {"type": "exit", "stage": stage, "code": code, "signal": signal}, write_s)


async def _send(socket: web.WebSocketResponse, message: dict[str, Any], write_s: float) -> None:
    """Send a message; a client that does not take it in time is left. Raises `ConnectionError`."""
    try:
        async with asyncio.timeout(write_s):
            await socket.send_str(msgspec.json.encode(message).decode())
    except TimeoutError:
        raise ConnectionResetError("the client does not read") from None
