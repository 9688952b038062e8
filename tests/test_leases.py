"""Real services that share a real Redis server, when one is killed, stopped, or cut off."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.redisserver import RedisServer, redis_server
from tests.support import Received, open_to_all, processes_with, received, text, verdict
from tests.test_process import Server, serving

LEASE = ("--set", "engine.lease_s=3")


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """Return a server that the test may stop."""
    with redis_server("--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


class Pair:
    """Two services with one engine; only the first takes jobs before the other is started."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._options = ("--set", f"engine.url={url}", *LEASE)
        self.held = contextlib.AsyncExitStack()

    async def another(self, *options: str) -> Server:
        return await self.held.enter_async_context(serving(self._folder, *self._options, *options))


@pytest.fixture
async def pair(tmp_path: Path, own_redis: RedisServer) -> AsyncIterator[Pair]:
    open_to_all(tmp_path)
    pair = Pair(tmp_path, own_redis.url())
    async with pair.held:
        yield pair


async def submit(server: Server, code: str, **fields: Any) -> str:
    job = {"language": "bash", "code": code, **fields}
    async with server.session.post("/api/execute", json=job) as response:
        body = await response.json()
        assert response.status == 202, body
        return str(body["jobId"])


async def until_up(mark: str, number: int = 1) -> None:
    while len(processes_with(mark)) < number:
        await asyncio.sleep(0.01)


def sleeper(mark: str) -> str:
    """Return a program that writes all the time, whose process bears a mark."""
    return f"echo up; exec -a {mark} bash -c 'while :; do echo tick; sleep 0.05; done'"


def attempts(events: list[Received]) -> list[int]:
    return [event.data["attempt"] for event in events if "attempt" in event.data]


async def test_the_jobs_of_a_worker_that_is_killed(pair: Pair) -> None:
    mark = secrets.token_hex(8)
    one = await pair.another()
    once = await submit(one, sleeper(mark))
    again = await submit(one, f"[ -e ../none ] || {sleeper(mark)}", retry=2)
    await until_up(mark, 2)
    other = await pair.another()
    reading = asyncio.create_task(other.events(once))
    async with other.session.get(f"/api/stream/{again}") as response:
        events = received(response)
        assert (await anext(events)).data["state"] == "queued"
        one.process.kill()
        async with asyncio.timeout(30):
            async for event in events:
                if "attempt" in event.data:
                    break
        assert event.data["reason"] == "worker_lost"
        async for event in events:
            if event.kind == "output":
                break
        response.close()
    assert verdict(await reading)["code"] == "worker_lost"
    async with other.session.delete(f"/api/jobs/{again}") as response:
        assert response.status == 202
    whole = await other.events(again)
    assert [event.id for event in whole] == list(range(1, len(whole) + 1))
    assert (verdict(whole)["reason"], verdict(whole)["attempts"]) == ("cancelled", 2)


async def test_a_worker_that_stands_still_runs_nothing_after_its_lease(pair: Pair) -> None:
    mark = secrets.token_hex(8)
    full = ("--set", "queue.concurrency=1")  # or the worker that stands still might take both
    one = await pair.another(*full)
    job_id = await submit(one, sleeper(mark), retry=1)
    await until_up(mark)
    before = set(processes_with(mark))
    other = await pair.another(*full)
    blocking = await submit(other, "sleep 600")
    async with other.session.get(f"/api/stream/{job_id}") as response:
        events = received(response)
        assert (await anext(events)).data["state"] == "queued"
        one.process.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(30):
            async for event in events:
                if "attempt" in event.data:
                    break
        # Nobody else may begin before, and the worker itself could not end it.
        assert not before & set(processes_with(mark))
        response.close()
    lost_at = event.id
    one.process.send_signal(signal.SIGCONT)
    async with other.session.delete(f"/api/jobs/{blocking}") as response:
        assert response.status == 202
    await until_up(mark)
    async with other.session.delete(f"/api/jobs/{job_id}") as response:
        assert response.status == 202
    whole = await other.events(job_id)
    assert [event.id for event in whole] == list(range(1, len(whole) + 1))
    assert attempts(whole) == [2]
    states = [event.data["state"] for event in whole[lost_at:] if event.kind == "status"]
    assert states == ["preparing", "running"], "nothing came from the attempt that was lost"
    assert verdict(whole)["attempts"] == 2
    assert text(whole[lost_at:]).startswith("up\n")


async def test_a_worker_that_is_cut_off_ends_its_jobs_before_others_may(
    pair: Pair, own_redis: RedisServer
) -> None:
    mark = secrets.token_hex(8)
    one = await pair.another()
    job_id = await submit(one, sleeper(mark))
    await until_up(mark)
    async with one.session.get(f"/api/stream/{job_id}") as response:
        events = received(response)
        async for event in events:
            if event.kind == "output":
                break
        own_redis.stop_answering()
        while processes_with(mark):
            await asyncio.sleep(0.01)
        async with one.session.post("/api/execute", json={"code": "1"}) as refused:
            assert refused.status == 503
            assert (await refused.json())["code"] == "engine_unavailable"
            assert int(refused.headers["Retry-After"]) >= 1
        own_redis.go_on()
        async with asyncio.timeout(30):
            rest = [event async for event in events]
    assert verdict(rest)["code"] == "worker_lost"
    assert [event.id for event in rest] == [event.id + n for n in range(1, len(rest) + 1)]


async def test_no_byte_is_lost_or_doubled_while_the_server_is_away_for_a_moment(
    tmp_path: Path, pair: Pair, own_redis: RedisServer
) -> None:
    one = await pair.another("--set", "engine.lease_s=30")
    code = "echo up; for ((n = 0; n < 200000; n++)); do echo $n; done; read line"
    job_id = await submit(one, code, interactive=True)
    reading = asyncio.create_task(one.events(job_id))
    async with one.session.get(f"/api/stream/{job_id}") as response:
        async for event in received(response):
            if event.kind == "output":
                break
        response.close()
    for _ in range(3):
        own_redis.kill()
        own_redis.start()
    assert not reading.done()
    status = 503
    while status == 503:
        async with one.session.post(f"/api/jobs/{job_id}/stdin?close=1", data=b"x\n") as answer:
            status = answer.status
    events = await reading
    assert verdict(events)["reason"] == "exited"
    assert text(events) == "up\n" + "".join(f"{n}\n" for n in range(200_000))


async def test_a_service_that_is_stopped_hands_its_jobs_over(pair: Pair) -> None:
    mark = secrets.token_hex(8)
    one = await pair.another("--set", "server.drain_s=0.2")
    again = await submit(one, sleeper(mark), retry=1)
    once = await submit(one, sleeper(mark))
    await until_up(mark, 2)
    other = await pair.another()
    one.process.terminate()
    assert await asyncio.wait_for(one.process.wait(), 45) == 0
    assert verdict(await other.events(once))["code"] == "shutting_down"
    await until_up(mark)
    async with other.session.delete(f"/api/jobs/{again}") as response:
        assert response.status == 202
    whole = await other.events(again)
    assert [event.data.get("reason") for event in whole if "attempt" in event.data] == [
        "shutting_down"
    ]
    assert (verdict(whole)["reason"], verdict(whole)["attempts"]) == ("cancelled", 2)
