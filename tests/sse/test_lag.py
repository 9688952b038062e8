"""How late events are at their readers: a sample of the writes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from streamer.eventlog.log import EventLog
from streamer.sse.response import StreamOptions
from streamer.sse.session import LAG_EVERY, Session
from streamer.sse.sources import LogSource


class Client:
    """A response whose client takes what it is sent, as long as it is to."""

    heartbeat = b":\n"
    lingers = False
    unsent_bytes = 0
    gone = False

    def __init__(self) -> None:
        self.takes = asyncio.Event()
        self.takes.set()
        self.offered: asyncio.Queue[bytes] = asyncio.Queue()

    def opening(self, _: StreamOptions) -> bytes:
        return b"retry: 1\n"

    async def prepare(self, request: web.BaseRequest) -> object:
        return None

    async def write(self, data: bytes) -> None:
        self.offered.put_nowait(data)
        await self.takes.wait()

    def write_now(self, data: bytes) -> int | None:
        return None  # it has to wait

    def abort(self) -> None: ...

    def cut(self) -> None: ...

    def is_connected(self) -> bool:
        return False

    def stop_streaming(self) -> None: ...


@asynccontextmanager
async def reading(log: EventLog, client: Client, lags: list[float]) -> AsyncIterator[None]:
    """Let a client read a log from its beginning, up to its end."""
    with log.cursor() as cursor:
        session = Session(("k",), client, "", LogSource(cursor), on_lag=lags.append)
        running = asyncio.create_task(session.run(StreamOptions(grace_s=0)))
        yield
        log.append([("end", b"")], end=True)
        client.takes.set()
        await running


def event() -> list[tuple[str, bytes]]:
    return [("x", b"1")]


async def test_one_of_many_writes_is_told() -> None:
    log, client, lags = EventLog(), Client(), list[float]()
    async with reading(log, client, lags):
        await client.offered.get()  # the opening
        for _ in range(3 * LAG_EVERY):
            log.append(event())
            await client.offered.get()
        assert len(lags) == 3
    assert all(lag >= 0 for lag in lags)


async def test_an_event_that_waits_for_its_reader_is_as_late_as_it_comes() -> None:
    log, client, lags = EventLog(), Client(), list[float]()
    async with reading(log, client, lags):
        await client.offered.get()
        client.takes.clear()
        log.append(event())
        await client.offered.get()  # the client takes nothing from here on
        before = time.monotonic()
        log.append(event())
        after = time.monotonic()
        assert lags == []
        released = time.monotonic()
        client.takes.set()
        await client.offered.get()
    assert released - after <= lags[0] <= time.monotonic() - before


async def test_what_was_there_before_the_reader_is_not_late() -> None:
    log, client, lags = EventLog(), Client(), list[float]()
    log.append(event())
    async with reading(log, client, lags):
        assert b"data: 1" in await client.offered.get()
        assert lags == []
        log.append(event())
        await client.offered.get()
    assert len(lags) == 1
