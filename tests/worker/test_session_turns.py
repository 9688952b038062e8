"""The turns in the sandbox of a session, with one that does what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from streamer.engine.sessions import AskedSession, SessionNews
from streamer.errors import SandboxFailure
from streamer.model.job import Limits
from streamer.model.session import (
    EndReason,
    Listed,
    ListFiles,
    Open,
    Refused,
    ResolvedSession,
    SessionAnswer,
    SessionRequest,
)
from streamer.sandbox.listing import Listing
from streamer.sandbox.pool import Pool
from streamer.worker.sessions import WorkerSession, WorkerSessions
from tests.engine.conftest import MemoryBench


class SlowSandbox:
    """It lists its files, and closes, once it may."""

    def __init__(self) -> None:
        self.listing = asyncio.Event()
        self.may_list = asyncio.Event()
        self.closing = asyncio.Event()
        self.may_close = asyncio.Event()
        self.is_free = True

    async def list_files(self) -> Listing:
        self.listing.set()
        await self.may_list.wait()
        return Listing((), complete=True)

    async def give_room(self, limits: Limits) -> None:
        pass

    async def close(self) -> None:
        self.closing.set()
        await self.may_close.wait()


class NoPool:
    async def lend_to_session(self, shape: object) -> SlowSandbox:
        raise SandboxFailure("there is none")


class SlowPool:
    def __init__(self) -> None:
        self.lent: list[SlowSandbox] = []

    async def lend_to_session(self, shape: object) -> SlowSandbox:
        self.lent.append(SlowSandbox())
        return self.lent[-1]


def a_session(session_id: str = "s1") -> ResolvedSession:
    return ResolvedSession(session_id, "", "bwrap", Limits(), idle_s=60.0, total_s=600.0)


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[WorkerSession, SlowSandbox, dict[int, SessionAnswer]]]:
    """Yield a session whose first request, a list, is being answered, and its answers."""
    pool, answers = SlowPool(), dict[int, SessionAnswer]()

    async def answer(number: int, said: SessionAnswer) -> None:
        answers[number] = said

    async def over(reason: str) -> None:
        pass

    bench = MemoryBench()
    blobs = (await bench.make()).blobs
    session = WorkerSession(a_session(), cast("Pool", pool), blobs, 1000, answer, over)
    running = asyncio.create_task(session.run())
    session.ask(AskedSession("s1", 1, ListFiles()))
    while not pool.lent:
        await asyncio.sleep(0)
    sandbox = pool.lent[0]
    await sandbox.listing.wait()
    try:
        yield session, sandbox, answers
    finally:
        session.close()
        sandbox.may_list.set()
        sandbox.may_close.set()
        await running
        await bench.close()


async def lent(session: WorkerSession) -> None:
    async with session.lent():
        pass


async def test_a_request_is_refused_while_a_job_waits_behind_it() -> None:
    async with serving() as (session, sandbox, answers):
        session.ask(AskedSession("s1", 2, ListFiles()))
        job = asyncio.create_task(lent(session))
        await asyncio.sleep(0)
        sandbox.may_list.set()
        await job
        session.ask(AskedSession("s1", 3, ListFiles()))
        while len(answers) < 3:
            await asyncio.sleep(0)
        kinds = [type(answers[number]) for number in (1, 2, 3)]
        assert kinds == [Listed, Refused, Listed]


@pytest.mark.parametrize("begun", ["waits", "comes later"])
async def test_no_job_waits_for_a_sandbox_that_is_being_closed(begun: str) -> None:
    async with serving() as (session, sandbox, _):
        job = asyncio.create_task(lent(session)) if begun == "waits" else None
        await asyncio.sleep(0)
        session.close()
        sandbox.may_list.set()
        await sandbox.closing.wait()
        with pytest.raises(SandboxFailure, match="has ended"):
            await (job or lent(session))
        assert not sandbox.may_close.is_set()


async def test_a_sandbox_that_is_being_closed_has_its_place() -> None:
    bench = MemoryBench()
    engine, pool, asked = await bench.make(max_sessions=2), SlowPool(), asyncio.Queue[str]()

    async def call(name: str, ask: Callable[[], Awaitable[Any]]) -> Any:
        asked.put_nowait(name)
        return await ask()

    async def opens(session_id: str, request: SessionRequest) -> None:
        await engine.sessions.open(a_session(session_id))
        await engine.sessions.ask(session_id, request)

    sessions = WorkerSessions("w", engine, 1, 1000, call)
    stopped: list[str] = []
    sessions.stop_jobs = stopped.append
    keeping = asyncio.create_task(sessions.keep(cast("Pool", pool), lambda: None))
    await opens("s1", Open())
    await engine.sessions.end("s1")
    await pool.lent[0].closing.wait()
    assert stopped == ["s1"]  # the engine may be far away, and its own request to stop them later
    second = asyncio.create_task(opens("s2", Open()))
    while asked.qsize():
        asked.get_nowait()
    for _ in range(2):  # it has asked what is new since then
        await asked.get()
    for _ in range(100):
        await asyncio.sleep(0)
    asked_often = asked.qsize()
    lent_before = len(pool.lent)
    pool.lent[0].may_close.set()
    await second
    pool.lent[1].may_close.set()
    await sessions.close(10.0)
    keeping.cancel()
    await bench.close()
    assert (lent_before, len(pool.lent)) == (1, 2)
    assert asked_often <= 1  # what is being closed is no news, for which it would ask at once again


@pytest.mark.parametrize("end", ["told", "of the engine"])
async def test_an_end_that_cannot_be_told_lets_nothing_be_asked_without_pause(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    bench = MemoryBench()
    engine = await bench.make()
    asked: list[Mapping[str, int]] = []
    opens = 0
    tries: asyncio.Queue[str] = asyncio.Queue()
    away = True
    news, over = engine.sessions.news, engine.sessions.over

    async def counted(worker: str, held: Mapping[str, int], *args: Any) -> SessionNews:
        nonlocal opens
        asked.append(held)
        told = await news(worker, held, *args)
        opens += len(told.opens)
        return told

    async def lost(worker: str, session_id: str, reason: EndReason) -> None:
        tries.put_nowait(session_id)
        if away:
            raise OSError("the engine is away")
        await over(worker, session_id, reason)

    async def call(_: str, ask: Callable[[], Awaitable[Any]]) -> Any:
        return await ask()

    monkeypatch.setattr(engine.sessions, "news", counted)
    monkeypatch.setattr(engine.sessions, "over", lost)
    monkeypatch.setattr("streamer.worker.sessions.RETRY_S", 0.01)
    sessions = WorkerSessions("w", engine, 1, 1000, call)
    keeping = asyncio.create_task(sessions.keep(cast("Pool", NoPool()), lambda: None))
    await engine.sessions.open(a_session())
    for _ in range(10):
        await tries.get()
    # To be told again would be news, for which nothing waits.
    assert (opens, asked[-1]) == (1, {"s1": 0})
    if end == "told":
        away = False
    else:
        await engine.sessions.end("s1")
    while len(sessions):
        await asyncio.sleep(0)
    view = await engine.sessions.find("s1")
    assert view is not None
    assert view.ended == ("sandbox_error" if end == "told" else "deleted")
    while asked[-1]:
        await asyncio.sleep(0)
    keeping.cancel()
    await bench.close()
