"""What is left in a real Redis server that is killed and started again, as docs/redis.md says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace

import pytest

from streamer.engine.interface import Idempotency, Lease
from streamer.errors import EngineUnavailable, UnknownJob
from tests.redisserver import RedisServer, free_port, redis_server

from . import ACCEPTS, complete, events_of, follow, make_job, output, start, texts
from .conftest import RedisBench
from .proxy import proxied
from .test_redis_faults import again

AOF = ("--appendonly", "yes", "--appendfsync")


async def until_written(server: RedisServer) -> None:
    """Wait until the kernel has the whole append-only file: a slow disk may delay that."""
    while b"aof_buffer_length:0\r\n" not in server.said("INFO", "persistence"):
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("fsync", ["always", "everysec"])
async def test_an_append_only_file_keeps_all_when_the_server_is_killed(fsync: str) -> None:
    with redis_server(*AOF, fsync) as server:
        bench = RedisBench(lambda: server.url(prefix="x"))
        engine = await bench.make_redis()
        over = await start(engine)
        await over.finish([output("over"), complete()])
        running = await start(engine)
        key = Idempotency("key", b"digest")
        waiting = await engine.submit(make_job(), idempotency=key)
        async with engine.follow(running.job.job_id) as log:
            for number in range(3):
                await again(lambda number=number: running.append([output(f"{number} ")]))  # type: ignore[misc]
                if fsync != "always":
                    await until_written(server)
                server.kill()
                server.start()
            assert await again(lambda: running.finish([output("end"), complete()]))
            async with asyncio.timeout(20):
                seen = [event async for event in log.events()]
        assert texts(seen) == "0 1 2 end"
        assert seen == await events_of(engine, running.job.job_id)
        assert texts(await follow(engine, over.job.job_id)) == "over"
        assert (await engine.submit(make_job(), idempotency=key)).job_id == waiting.job_id
        [lease] = await again(lambda: engine.claim("worker", 1, ACCEPTS))
        assert lease.job.job_id == waiting.job_id
        await lease.finish([complete()])
        await bench.close()


@pytest.mark.parametrize("retry", [0, 1])
async def test_a_snapshot_brings_back_what_was_then(retry: int) -> None:
    with redis_server() as server:
        bench = RedisBench(lambda: server.url(prefix="x"))
        engine = await bench.make_redis()
        job = replace(make_job(), retry=retry)
        await engine.submit(job)
        [lease] = await engine.claim("worker", 1, ACCEPTS)
        await lease.state("running")
        server.said("SAVE")
        assert await lease.finish([complete()])
        later = await engine.submit(make_job())
        server.kill()
        server.start()
        # Its worker has ended it, and does not renew its lease.
        view = await again(lambda: engine.summary(job.job_id))
        assert view is not None
        assert view.state == "running"
        with pytest.raises(UnknownJob):
            await again(lambda: follow(engine, later.job_id))
        await bench.pass_time(15.1)
        assert await again(engine.reap) == 1
        last = (await events_of(engine, job.job_id))[-1]
        if retry:
            assert last.data.attempt == 2  # type: ignore[union-attr]
        else:
            assert last.data.code == "worker_lost"  # type: ignore[union-attr]
        await bench.close()


async def test_without_persistence_a_new_beginning_is_noticed() -> None:
    with redis_server() as server:
        bench = RedisBench(lambda: server.url(prefix="x"))
        engine = await bench.make_redis()
        lease = await start(engine)
        server.kill()
        server.start()
        [(_, told)] = await again(lambda: engine.heartbeat([lease]))
        assert type(told).__name__ == "Lost"
        with pytest.raises(UnknownJob):
            await again(lambda: follow(engine, lease.job.job_id))
        claimed: Sequence[Lease] = ()
        await again(lambda: engine.submit(make_job()))
        while not claimed:
            claimed = await again(lambda: engine.claim("worker", 1, ACCEPTS))
        assert await claimed[0].finish([complete()])
        await bench.close()


async def test_a_replica_that_takes_over_has_what_it_was_sent() -> None:
    port = str(free_port())
    with redis_server("--port", port) as primary, redis_server() as replica:
        async with proxied(primary.socket) as proxy:
            url = primary.url(prefix="x").replace(str(primary.socket), str(proxy.socket))
            bench = RedisBench(lambda: url)
            engine = await bench.make_redis()
            lease = await start(engine)
            replica.said("REPLICAOF", "127.0.0.1", port)
            async with asyncio.timeout(30):
                while b"master_link_status:up" not in replica.said("INFO", "replication"):
                    await asyncio.sleep(0.01)
            await lease.append([output("replicated ")])
            assert primary.said("WAIT", "1", "5000") == b":1\r\n"
            replica.said("REPLICAOF", "NO", "ONE")
            await lease.append([output("lost ")])
            async with engine.follow(lease.job.job_id) as log:
                assert log.last_id == 4
                primary.kill()
                proxy.server = replica.socket
                proxy.cut()
                assert await again(lambda: lease.finish([output("end"), complete()]))
                async with asyncio.timeout(20):
                    [*_, last] = [event async for event in log.events()]
                assert last.kind == "gap", "its reader is told that it has seen what is lost"
            assert texts(await follow(engine, lease.job.job_id)) == "replicated end"
            await bench.close()


async def test_a_server_that_refuses_every_command_is_asked_less_and_less(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with redis_server() as server:
        async with proxied(server.socket) as proxy:
            url = server.url(prefix="x").replace(str(server.socket), str(proxy.socket))
            bench = RedisBench(lambda: url)
            engine = await bench.make_redis()
            lease = await start(engine)
            proxy.refusal = b"-READONLY You can't write against a read only replica.\r\n"
            async with asyncio.timeout(30):
                while "cannot be reached" not in caplog.text:  # after the longest pause
                    with contextlib.suppress(EngineUnavailable):
                        await engine._scripts.ask("exists", "")
                    await asyncio.sleep(0.01)
            assert caplog.text.count("was lost") == 1
            proxy.refusal = b""
            assert await again(lambda: lease.finish([complete()]))
            await bench.close()
