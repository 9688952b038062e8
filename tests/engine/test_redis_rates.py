"""Rates in a server: of all nodes together, once though an answer is lost, and never open."""

from __future__ import annotations

import asyncio

import pytest

from streamer.engine.redis import link as links
from streamer.engine.redis.engine import RedisEngine
from streamer.errors import EngineUnavailable
from tests.redisserver import RedisServer, redis_server

from .conftest import RedisBench
from .proxy import proxied


async def test_all_nodes_have_one_rate_together(redis: RedisServer) -> None:
    url = redis.url()
    bench = RedisBench(lambda: url)
    nodes: list[RedisEngine] = [await bench.make_redis() for _ in range(3)]
    taken = await asyncio.gather(
        *(node.rates.take("tenant", "a", 10, 60) for node in nodes for _ in range(10))
    )
    assert sum(taken) == 10
    assert [(await node.rates.used("tenant", "a", 60)).number for node in nodes] == [10] * 3
    await bench.close()


async def test_what_was_taken_before_its_answer_was_lost_is_taken_once(redis: RedisServer) -> None:
    async with proxied(redis.socket) as proxy:
        url = redis.url().replace(str(redis.socket), str(proxy.socket))
        bench = RedisBench(lambda: url)
        engine = await bench.make_redis()
        proxy.lose_answers = True
        before = proxy.connections
        taking = asyncio.ensure_future(engine.rates.take("tenant", "a", 2, 60))
        while proxy.connections == before and not taking.done():
            await asyncio.sleep(0.001)
        proxy.lose_answers = False
        assert await taking
        assert (await engine.rates.used("tenant", "a", 60)).number == 1
        await bench.close()


async def test_without_the_server_nothing_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "PATIENCE_S", 0.1)
    with redis_server() as server:
        bench = RedisBench(lambda: server.url(prefix="x"))
        engine = await bench.make_redis()
        assert await engine.rates.take("tenant", "a", 10, 60)
        server.kill()
        with pytest.raises(EngineUnavailable):
            await engine.rates.take("tenant", "a", 10, 60)
        await bench.close()


async def test_nothing_of_a_rate_stays_for_ever(redis: RedisServer) -> None:
    bench = RedisBench(lambda: redis.url(prefix="gone"))
    engine = await bench.make_redis()
    await engine.rates.take("tenant", "a", 10, 60)
    await engine.rates.take("tenant", "\ud800", 10, 3600)
    names = [key for key in redis.said("KEYS", "{gone}*rate*").split() if b"rate" in key]
    assert len(names) == 3
    for name in names:
        assert 0 < int(redis.said("TTL", name.decode()).strip().lstrip(b":")) <= 3600
    await bench.close()
