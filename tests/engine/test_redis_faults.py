"""The Redis engine when its connections break, go deaf, or lose answers, and its server stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import pytest

from streamer.engine.interface import (
    Cancel,
    Idempotency,
    Input,
    JobView,
    Lease,
    LeaseLost,
    Lost,
)
from streamer.engine.redis import link as links
from streamer.engine.redis import node as nodes
from streamer.engine.redis.engine import RedisEngine
from streamer.engine.sessions import AskedSession
from streamer.errors import Conflict, EngineUnavailable, UnknownJob
from streamer.model.session import Listed, ListFiles
from tests.redisserver import RedisServer, free_port, redis_server

from . import ACCEPTS, complete, events_of, follow, make_job, output, start, submit, texts
from .conftest import RedisBench
from .proxy import Proxy, proxied
from .test_sessions import news, opened

T = TypeVar("T")


@pytest.fixture
async def proxy(redis: RedisServer) -> AsyncIterator[Proxy]:
    async with proxied(redis.socket) as proxy:
        yield proxy


@pytest.fixture
async def bench(redis: RedisServer, proxy: Proxy) -> AsyncIterator[RedisBench]:
    """Return one whose engines share their keys; their connections lead through the proxy."""
    url = redis.url().replace(str(redis.socket), str(proxy.socket))
    bench = RedisBench(lambda: url)
    yield bench
    proxy.lose_answers = False
    await bench.close()


@pytest.fixture
async def engine(bench: RedisBench) -> RedisEngine:
    return await bench.make_redis()


async def again(say: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call until it is answered, as a worker does."""
    while True:
        try:
            return await say()
        except ConnectionError:
            await asyncio.sleep(0.01)


async def test_a_subscription_that_is_deaf_is_noticed(
    engine: RedisEngine, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "ALIVE_S", 0.05)
    lease = await start(engine)
    async with engine.follow(lease.job.job_id) as log:
        control = lease.control()
        waiting = asyncio.ensure_future(anext(control))
        proxy.deafen()
        await lease.append([output("unheard")])
        await engine.cancel(lease.job.job_id)
        async with asyncio.timeout(20):
            assert await log.wait(2), "what was missed is read once it hears again"
            assert await waiting == Cancel()
        await lease.append([output("heard")])
        async with asyncio.timeout(20):
            assert await log.wait(3)
    await lease.finish([complete("cancelled")])


async def test_connections_that_break_all_the_time(engine: RedisEngine, proxy: Proxy) -> None:
    lease = await start(engine)
    reading = asyncio.create_task(follow(engine, lease.job.job_id))
    for number in range(60):
        if number % 6 == 0:
            proxy.cut()
        await again(lambda number=number: lease.append([output(f"{number} ")]))  # type: ignore[misc]
    assert await again(lambda: lease.finish([complete()]))
    async with asyncio.timeout(20):
        events = await reading
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert texts(events) == "".join(f"{number} " for number in range(60))
    assert events == await events_of(engine, lease.job.job_id)


async def lost_once(proxy: Proxy, call: Callable[[], Awaitable[T]]) -> T:
    """Make a call whose first answer is lost, though it was done."""
    proxy.lose_answers = True
    before = proxy.connections
    calling = asyncio.ensure_future(call())
    while proxy.connections == before and not calling.done():
        await asyncio.sleep(0.001)
    proxy.lose_answers = False
    return await calling


async def test_what_was_done_before_its_answer_was_lost_is_done_once(
    engine: RedisEngine, proxy: Proxy
) -> None:
    heard: list[JobView] = []
    engine.listen(heard.append)
    job = make_job()
    key = Idempotency("key", b"digest")
    submitted = await lost_once(proxy, lambda: engine.submit(job, idempotency=key))
    assert (submitted.job_id, submitted.created) == (job.job_id, True)
    assert (await engine.stats()).waiting == 1
    leases: list[Lease] = []
    claimed = await lost_once(proxy, lambda: again(lambda: engine.claim("w", 1, ACCEPTS)))
    leases += claimed or await again(lambda: engine.claim("w", 1, ACCEPTS))
    [lease] = leases
    await lost_once(proxy, lambda: again(lambda: lease.state("running")))
    await lost_once(proxy, lambda: engine.send(job.job_id, Input(b"once")))
    inputs = lease.inputs()
    assert await again(lambda: anext(inputs)) == Input(b"once")
    await lost_once(proxy, lambda: again(lambda: lease.append([output("once")])))
    assert await lost_once(proxy, lambda: again(lambda: lease.finish([complete()])))
    assert [view.job.job_id for view in heard] == [job.job_id]
    assert texts(await events_of(engine, job.job_id)) == "once"
    assert [event.kind for event in await events_of(engine, job.job_id)].count("status") == 2
    waiting = await engine.submit(make_job())
    assert await lost_once(proxy, lambda: engine.cancel(waiting.job_id)) == "cancelled"
    assert [view.job.job_id for view in heard] == [job.job_id, waiting.job_id]
    assert await lost_once(proxy, lambda: engine.purge(waiting.job_id))
    with pytest.raises(UnknownJob):
        await engine.purge(waiting.job_id)


async def test_a_key_whose_answer_never_came_is_known_to_another_node(
    engine: RedisEngine, redis: RedisServer, proxy: Proxy
) -> None:
    """The node that had accepted the job has no answer, and so its caller asks another one."""
    prefix = engine._link.address.prefix
    bench = RedisBench(lambda: redis.url(prefix=prefix))
    other = await bench.make_redis()
    key = Idempotency("key", b"digest")
    first = make_job()
    proxy.lose_answers = True
    submitting = asyncio.create_task(engine.submit(first, tenant="a", idempotency=key))
    while not (await other.stats()).waiting:
        pass
    submitting.cancel()
    await asyncio.gather(submitting, return_exceptions=True)
    answers = await asyncio.gather(
        *(other.submit(make_job(), tenant="a", idempotency=key) for _ in range(5))
    )
    assert {(answer.job_id, answer.created) for answer in answers} == {(first.job_id, False)}
    with pytest.raises(Conflict):
        await other.submit(make_job(), tenant="a", idempotency=Idempotency("key", b"other"))
    assert (await other.stats()).waiting == 1
    await bench.close()


async def test_nothing_is_reaped_until_it_was_connected_for_a_lease(
    bench: RedisBench, engine: RedisEngine, proxy: Proxy
) -> None:
    lease = await start(engine)
    await bench.pass_time(14.0)
    proxy.cut()
    await again(engine.stats)
    await bench.pass_time(2.0)
    assert await again(engine.reap) == 0, "its worker could not renew the lease either"
    await again(lambda: engine.heartbeat([lease]))
    await bench.pass_time(14.0)
    await engine.heartbeat([lease])
    assert await engine.reap() == 0
    await bench.pass_time(15.0)
    assert await engine.reap() == 1


async def test_a_server_that_stops_and_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with redis_server() as server:
        bench = RedisBench(lambda: server.url(prefix="x"))
        engine = await bench.make_redis()
        lease = await start(engine)
        async with engine.follow(lease.job.job_id) as log:
            server.kill()
            server.start()
            # Without persistence it has lost the job, and says so once it is there again.
            async with asyncio.timeout(20):
                [*_, last] = [event async for event in log.events()]
            assert last.kind == "gap"
        assert await again(engine.ready)
        await again(lambda: engine.submit(make_job()))
        monkeypatch.setattr(links, "PATIENCE_S", 0.1)
        server.kill()
        with pytest.raises(EngineUnavailable):
            await engine.stats()
        assert not await engine.ready()
        await bench.close()


async def test_a_server_that_starts_again_from_an_older_state() -> None:
    with redis_server() as server:
        bench = RedisBench(lambda: server.url(prefix="x"))
        engine = await bench.make_redis()
        lease = await start(engine)
        server.said("SAVE")
        for text in "forgotten":
            await lease.append([output(text)])
        job_id = lease.job.job_id
        async with engine.follow(job_id) as log:
            server.kill()
            server.start()
            # New events have the numbers of those that this reader has.
            assert await again(lambda: lease.finish([complete()]))
            async with asyncio.timeout(20):
                [*_, last] = [event async for event in log.events()]
            assert last.kind == "gap"
        assert [event.kind for event in await follow(engine, job_id)][-1] == "complete"
        await bench.close()


async def test_a_job_that_waits_again_in_an_older_state_has_one_worker() -> None:
    with redis_server() as server:
        bench = RedisBench(lambda: server.url(prefix="x"))
        here, there = await bench.make_redis(), await bench.make_redis()
        [job_id] = await submit(here, "a")
        server.said("SAVE")
        [before] = await here.claim("w", 1)
        await before.append([output("before ")])
        server.kill()
        server.start()
        claimed: Sequence[Lease] = ()
        while not claimed:
            claimed = await again(lambda: there.claim("v", 1))
        assert await again(lambda: here.heartbeat([before])) == [(before, Lost())]
        with pytest.raises(LeaseLost):
            await before.append([output("too late ")])
        await claimed[0].append([output("after")])
        assert await claimed[0].finish([complete()])
        assert texts(await follow(here, job_id)) == "after"
        await bench.close()


async def test_a_job_is_followed_when_the_subscriptions_have_just_broken(
    engine: RedisEngine,
) -> None:
    lease = await start(engine)
    connection = engine._listener._connection
    connection._writer.transport.abort()  # type: ignore[union-attr]
    reading = asyncio.create_task(follow(engine, lease.job.job_id))
    await again(lambda: lease.append([output("x")]))
    await again(lambda: lease.finish([complete()]))
    async with asyncio.timeout(20):
        assert texts(await reading) == "x"


async def test_a_subscription_is_not_confirmed_by_the_answer_to_an_earlier_one(
    engine: RedisEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def keep_silent(*_: object) -> None:
        """Send nothing: the test answers."""

    listener = engine._listener
    monkeypatch.setattr(listener, "_send", keep_silent)
    name = listener._root + b"log:x"
    first = asyncio.create_task(listener.subscribe("log:x", print))
    await asyncio.sleep(0)
    first.cancel()
    leaving = asyncio.create_task(listener.unsubscribe("log:x"))
    second = asyncio.create_task(listener.subscribe("log:x", print))
    await asyncio.sleep(0)
    listener._take(b"ssubscribe", name, b"1")
    listener._take(b"sunsubscribe", name, b"0")
    await leaving
    assert not second.done()
    listener._take(b"ssubscribe", name, b"1")
    await second


async def test_requests_to_a_session_whose_callers_are_lost(
    bench: RedisBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise EngineUnavailable("the connection was lost")

    engine, other = await bench.make_redis(lease_s=600.0), await bench.make_redis(lease_s=600.0)
    session_id = await opened(engine)
    monkeypatch.setattr(other.sessions, "_leave", away)
    asked = [asyncio.create_task(other.sessions.ask(session_id, ListFiles())) for _ in range(16)]
    requests: tuple[AskedSession, ...] = ()
    while len(requests) < len(asked):
        requests = (await news(engine, held={session_id: 1})).asked
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    for one in requests:
        await engine.sessions.answer("w", session_id, one.number, Listed((), complete=True))
    again_asked = asyncio.create_task(engine.sessions.ask(session_id, ListFiles()))
    while not (found := (await news(engine, held={session_id: 17})).asked):
        assert not again_asked.done()
    await engine.sessions.answer("w", session_id, found[0].number, Listed((), complete=True))
    assert await again_asked == Listed((), complete=True)
    await bench.pass_time(61.0)
    view = await engine.sessions.find(session_id)
    assert view is not None
    assert view.ended == "idle"


async def test_an_answer_that_nobody_has_asked_for(engine: RedisEngine, proxy: Proxy) -> None:
    lease = await start(engine)
    async with engine.follow(lease.job.job_id) as log:
        before = proxy.connections
        proxy.say(b"-ERR the proxy will be back soon\r\n")
        async with asyncio.timeout(20):
            while proxy.connections < before + 2:
                await asyncio.sleep(0.001)
        await again(lambda: lease.append([output("x")]))
        async with asyncio.timeout(20):
            assert await log.wait(2)
        await again(lambda: lease.finish([complete()]))


async def test_input_whose_first_call_comes_last_is_sent_once(engine: RedisEngine) -> None:
    lease = await start(engine)
    words = (lease.job.job_id, "input", b"once", "", "", "12345678")
    for _ in range(2):  # the first is on its way still when the call is repeated
        assert await engine._scripts.ask("send", *words) == [b"accepted"]
    inputs = lease.inputs()
    assert await anext(inputs) == Input(b"once")
    await engine.send(lease.job.job_id, Input(b"more"))
    assert await anext(inputs) == Input(b"more")


async def test_a_node_that_may_not_hear_any_more_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with redis_server() as server:
        bench = RedisBench(lambda: server.url(prefix="x"))
        engine = await bench.make_redis()
        server.said("ACL", "SETUSER", "default", "-ssubscribe")
        server.said("CLIENT", "KILL", "TYPE", "pubsub")
        async with asyncio.timeout(20):
            while "cannot be reached" not in caplog.text:
                await asyncio.sleep(0.01)
        server.said("ACL", "SETUSER", "default", "+ssubscribe")
        lease = await start(engine)
        async with asyncio.timeout(20):
            await engine._listener.up.wait()
        assert await engine.cancel(lease.job.job_id) == "requested"
        assert await anext(lease.control()) == Cancel()
        await bench.close()


def clustered() -> tuple[str, ...]:
    bus, port = free_port(), free_port()
    return ("--port", str(port), "--cluster-enabled", "yes", "--cluster-port", str(bus))


async def test_a_cluster_in_which_one_node_has_the_keys() -> None:
    options = [clustered(), clustered()]
    ports = [one[1] for one in options]
    with redis_server(*options[0]) as one, redis_server(*options[1]) as other:
        one.said("CLUSTER", "ADDSLOTSRANGE", "0", "8191")
        other.said("CLUSTER", "ADDSLOTSRANGE", "8192", "16383")
        one.said("CLUSTER", "MEET", "127.0.0.1", ports[1], options[1][-1])
        async with asyncio.timeout(60):
            for server in (one, other):
                while b"cluster_state:ok" not in server.said("CLUSTER", "INFO"):
                    await asyncio.sleep(0.02)
        benches = [RedisBench(lambda port=port: f"redis://127.0.0.1:{port}") for port in ports]  # type: ignore[misc]
        here, there = [await bench.make_redis() for bench in benches]
        lease = await start(here)
        reading = asyncio.create_task(follow(there, lease.job.job_id))
        await again(lambda: lease.append([output("x")]))
        assert await there.cancel(lease.job.job_id) == "requested"
        async with asyncio.timeout(20):
            assert await anext(lease.control()) == Cancel()
            assert await lease.finish([complete("cancelled")])
            assert texts(await reading) == "x"
        for bench in benches:
            await bench.close()


async def test_a_server_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    with redis_server() as server:
        bench = RedisBench(lambda: server.url(prefix="x"))
        engine = await bench.make_redis()
        lease = await start(engine)
        async with engine.follow(lease.job.job_id) as log:
            # From here on: a busy machine may be slow to answer, too.
            monkeypatch.setattr(links, "SILENCE_S", 0.1)
            monkeypatch.setattr(links, "PATIENCE_S", 0.1)
            server.stop_answering()
            with pytest.raises(EngineUnavailable):
                await engine.stats()
            server.go_on()
            monkeypatch.undo()
            await again(lambda: lease.append([output("x")]))
            async with asyncio.timeout(20):
                assert await log.wait(2)
        await again(lambda: lease.finish([complete()]))
        await bench.close()
