"""The Redis engine when its server answers, and refuses: no memory left, no replica, no rights."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator

import pytest

from streamer.engine.interface import LeaseLost, Lost
from streamer.engine.redis import node as nodes
from streamer.engine.redis.engine import RedisEngine
from streamer.errors import Busy, EngineUnavailable, ServiceError
from streamer.model.job import ResolvedJob
from streamer.model.session import Open
from tests.redisserver import RedisServer, redis_server

from . import complete, follow, make_job, output, start, submit, texts
from .conftest import RedisBench
from .test_contract import capabilities
from .test_sessions import make_session


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    with redis_server("--dbfilename", "snapshot") as server:
        yield server


@pytest.fixture
async def bench(server: RedisServer) -> AsyncIterator[RedisBench]:
    bench = RedisBench(lambda: server.url(prefix="x"))
    yield bench
    await bench.close()


@pytest.fixture
async def engine(bench: RedisBench, monkeypatch: pytest.MonkeyPatch) -> RedisEngine:
    monkeypatch.setattr(nodes, "ALIVE_S", 0.01)
    return await bench.make_redis()


def memory(server: RedisServer, most: str) -> None:
    assert server.said("CONFIG", "SET", "maxmemory", most) == b"+OK\r\n"


async def test_nothing_of_a_job_without_memory_waits_for_the_garbage_collector(
    server: RedisServer, engine: RedisEngine
) -> None:
    memory(server, "1mb")
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(Busy):  # `pytest.raises` would keep it
            await engine.submit(make_job("refused"))
            raise AssertionError("it was not refused")
        await asyncio.sleep(0)  # the loop has what woke this until its next turn
        jobs = [one for one in gc.get_objects() if isinstance(one, ResolvedJob)]
        assert [one for one in jobs if one.job_id == "refused"] == []
    finally:
        gc.enable()


async def test_a_server_without_memory_lets_jobs_end_and_go(
    server: RedisServer, bench: RedisBench, engine: RedisEngine
) -> None:
    over = await start(engine)
    await over.finish([complete()])
    lease = await start(engine)
    await engine.sessions.open(make_session("session"))
    [waiting, next_one] = await submit(engine, "a", "b")
    job_id = lease.job.job_id
    async with engine.blobs.create("a", 100) as writer:
        memory(server, "1mb")
        with pytest.raises(Busy):
            await writer.write(b"more")
    for refused in (
        engine.submit(make_job()),
        engine.sessions.open(make_session("other")),
        engine.sessions.ask("session", Open()),
    ):
        with pytest.raises(Busy):
            await refused
    await lease.append([output("x")])
    assert await engine.heartbeat([lease]) == []
    assert await engine.cancel(waiting) == "cancelled"
    [another] = await engine.claim("worker", 1)
    assert another.job.job_id == next_one
    assert await lease.finish([complete()])
    assert texts(await follow(engine, job_id)) == "x"
    assert await engine.purge(job_id)
    await bench.pass_time(601.0)
    assert (await engine.stats()).logs == 1, "what has expired goes"
    assert await engine.ready()
    memory(server, "0")
    await submit(engine, "a")


async def test_a_server_that_takes_no_writes_for_a_while(
    server: RedisServer, engine: RedisEngine
) -> None:
    lease = await start(engine)
    server.said("CONFIG", "SET", "min-replicas-to-write", "1")
    for refused in (engine.stats(), engine.submit(make_job()), lease.append([output("x")])):
        with pytest.raises(EngineUnavailable, match="takes no writes"):
            await refused
    assert not await engine.ready()
    with pytest.raises(ServiceError, match="takes no writes"):
        await RedisBench(lambda: server.url(prefix="y")).make()
    server.said("CONFIG", "SET", "min-replicas-to-write", "0")
    await lease.append([output("x")])
    await lease.finish([complete()])
    assert texts(await follow(engine, lease.job.job_id)) == "x"
    await hears_itself(engine)


async def test_a_server_that_cannot_save_is_not_ready(
    server: RedisServer, engine: RedisEngine
) -> None:
    server.said("CONFIG", "SET", "save", "1000 1000")
    (server.socket.parent / "snapshot").mkdir()  # it cannot be replaced by a file
    server.said("BGSAVE")
    async with asyncio.timeout(20):
        while b"last_bgsave_status:err" not in server.said("INFO", "persistence"):
            await asyncio.sleep(0.01)
    assert not await engine.ready()
    with pytest.raises(EngineUnavailable, match="takes no writes"):
        await engine.stats()
    server.said("CONFIG", "SET", "save", "")
    assert await engine.ready()
    await hears_itself(engine)


async def test_a_user_who_loses_the_rights_and_gets_them_back(
    server: RedisServer, engine: RedisEngine, caplog: pytest.LogCaptureFixture
) -> None:
    server.said("ACL", "SETUSER", "default", "-fcall")
    async with asyncio.timeout(20):
        while "cannot say that it is there" not in caplog.text:
            await asyncio.sleep(0.001)
    server.said("ACL", "SETUSER", "default", "+fcall")
    await hears_itself(engine)
    server.said("ACL", "SETUSER", "default", "-fcall")
    await engine.close()
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert not {name for name in names if name.startswith("streamer-redis")}


async def test_a_server_that_is_emptied(server: RedisServer, engine: RedisEngine) -> None:
    await engine.publish("w", capabilities("plain"))
    lease = await start(engine)
    async with engine.follow(lease.job.job_id) as log:
        server.said("FLUSHALL")
        async with asyncio.timeout(20):
            [*_, last] = [event async for event in log.events()]
            assert last.kind == "gap"
            while not await engine.capabilities():
                await asyncio.sleep(0.001)
            assert [type(item) async for item in lease.control()] == [Lost]
    with pytest.raises(LeaseLost):
        await lease.append([output("x")])


async def hears_itself(engine: RedisEngine) -> None:
    """Wait until the node has said twice more that it is there, and has heard it."""
    heard = engine._heard
    async with asyncio.timeout(20):
        while engine._heard < heard + 2:
            await asyncio.sleep(0.001)
