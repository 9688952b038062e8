"""Only of the Redis engine: its address, its start, and what may be lost on the way."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamer.engine.blobs import JobFile
from streamer.engine.endings import WORKER_LOST
from streamer.engine.interface import (
    Eof,
    Idempotency,
    Input,
    LeaseLost,
    Measure,
    Resize,
    Signal,
)
from streamer.engine.limits import TenantLimits
from streamer.engine.redis import link as links
from streamer.engine.redis.address import parse_address
from streamer.engine.redis.link import Word
from streamer.engine.redis.wire import accepted
from streamer.errors import ConfigError, ServiceError
from streamer.model.capabilities import NOTHING
from streamer.model.events import Error, Gap, Status, encode
from streamer.model.job import JobProject, Limits, TerminalSize
from streamer.model.session import ResolvedSession
from tests.redisserver import RedisServer, free_port, redis_server
from tests.tools import tool

from . import ACCEPTS, claim_one, complete, events_of, follow, make_job, output, start, submit
from .conftest import RedisBench


@pytest.fixture
async def bench(redis: RedisServer) -> Any:
    bench = RedisBench(redis.url)
    yield bench
    await bench.close()


# -- its address ------------------------------------------------------------------------------


def test_an_address() -> None:
    plain = parse_address("redis://example.org")
    assert (plain.host, plain.port, plain.database, plain.encrypted) == (
        "example.org",
        6379,
        0,
        False,
    )
    assert plain.root == "{streamer}:1:"
    full = parse_address("rediss://me:p%40ss@example.org:7000/3?prefix=blue&ca_certs=/ca.pem")
    assert (full.host, full.port, full.database, full.encrypted) == ("example.org", 7000, 3, True)
    assert full.login == {"username": "me", "password": "p@ss"}
    assert full.tls == {"ssl_ca_certs": "/ca.pem"}
    assert full.root == "{blue}:1:"
    assert "p@ss" not in f"{full!r} {full}"
    local = parse_address("redis+unix:///run/redis.sock?db=2")
    assert (local.path, local.database, str(local)) == ("/run/redis.sock", 2, "/run/redis.sock")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://", "no host"),
        ("redis://:secret@example.org:port", "not a URL"),
        ("redis://:secret@example.org/nine", "the database is a number"),
        ("redis://:secret@example.org?prefix={x}", "prefix may have"),
        ("redis://:secret@example.org?timeout=1", "unknown option 'timeout'; known: prefix$"),
        ("redis://:secret@example.org?ca_certs=x", "only rediss://"),
        ("redis://me:1?secret@example.org", "write # and .* as %23 and %3F"),
        ("redis://me:1#secret@example.org", "write # and .* as %23 and %3F"),
        ("redis+unix://run/redis.sock", "redis.unix:///PATH"),
    ],
)
def test_an_address_that_is_none(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refusal:
        parse_address(url)
    assert "secret" not in str(refusal.value)


# -- its start --------------------------------------------------------------------------------


async def connected(url: str) -> None:
    bench = RedisBench(lambda: url)
    try:
        await bench.make()
    finally:
        await bench.close()


async def test_a_server_that_is_away_at_the_start() -> None:
    with pytest.raises(ServiceError, match=r"no answer from /nowhere/redis\.sock"):
        await connected("redis+unix:///nowhere/redis.sock")


async def test_a_wrong_password() -> None:
    with redis_server("--requirepass", "secret") as server:
        for login in ("", ":wrong@"):
            with pytest.raises(ServiceError, match="check the user and the password") as refusal:
                await connected(server.url().replace("://", f"://{login}"))
            assert "wrong@" not in str(refusal.value)
        await connected(server.url().replace("://", "://:secret@"))


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Return the files of a key and its certificate."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        (
            *(tool("openssl"), "req", "-x509", "-nodes", "-subj", "/CN=test"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ),
        check=True,
        capture_output=True,
    )
    return key, certificate


async def test_an_encrypted_connection(tmp_path: Path) -> None:
    key, certificate = self_signed(tmp_path)
    port = free_port()
    options = (
        *("--tls-port", str(port), "--tls-auth-clients", "no", "--tls-key-file", str(key)),
        *("--tls-cert-file", str(certificate), "--tls-ca-cert-file", str(certificate)),
    )
    with redis_server(*options):
        bench = RedisBench(lambda: f"rediss://127.0.0.1:{port}?ca_certs={certificate}")
        lease = await start(await bench.make(), "a")
        assert await lease.finish([complete()])
        await bench.close()
        with pytest.raises(ServiceError, match="certificate verify failed"):
            await connected(f"rediss://127.0.0.1:{port}")


async def test_a_user_with_the_rights_of_the_documentation(redis: RedisServer) -> None:
    page = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
    (rights,) = re.findall("user streamer on >PASSWORD (.*)", page)
    mine = rights.replace("{streamer}", "{mine}").split()
    redis.said("ACL", "SETUSER", "limited", "on", ">secret", *mine)
    url = redis.url(prefix="mine").replace("://", "://limited:secret@")
    bench = RedisBench(lambda: url)
    engine = await bench.make_redis()
    engine._scripts._clock = None  # it asks for the time of the server
    lease = await start(engine, "a")
    await lease.append([output("x")])
    await lease.finish([complete()])
    assert len(await follow(engine, lease.job.job_id)) == 4
    await bench.close()
    with pytest.raises(ServiceError, match=r"may not use .*docs/redis\.md"):
        await connected(url.replace("prefix=mine", "prefix=other"))


async def test_a_server_that_is_too_old() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if line.strip() in (b"INFO", b"SETINFO"):
                body = b"redis_version:6.2.14\r\n"
                writer.write(b"$%d\r\n%b\r\n" % (len(body), body))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(ServiceError, match=r"is Redis 6\.2\.14; the engine needs Redis 7"):
            await connected(f"redis://127.0.0.1:{port}")


# -- what may be lost -------------------------------------------------------------------------


async def test_what_comes_while_a_log_is_read_for_the_first_time(
    bench: RedisBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await bench.make_redis()
    lease = await start(engine)
    call = engine._scripts.call

    async def slow(op: str, *words: Word, **how: Any) -> Any:
        answer = await call(op, *words, **how)
        if op == "read" and lease.job.job_id in engine._leases:
            await lease.finish([output("x"), complete()])
            sent = engine._sent
            await engine._say_alive()  # comes after the message about the log
            while engine._heard <= sent:
                await asyncio.sleep(0.001)
        return answer

    monkeypatch.setattr(engine._scripts, "call", slow)
    async with asyncio.timeout(10):
        events = await follow(engine, lease.job.job_id)
    assert [event.kind for event in events][-2:] == ["output", "complete"]


async def test_any_number_of_readers_share_two_copies_of_a_log(bench: RedisBench) -> None:
    engine = await bench.make_redis()
    lease = await start(engine)
    job_id = lease.job.job_id
    for number in range(3, 61):
        await lease.append([output(f"{number} ")])
    places = [50, 50, 50, *range(59, 30, -1), 0, 100]
    async with contextlib.AsyncExitStack() as stack:
        following = (stack.enter_async_context(engine.follow(job_id, after)) for after in places)
        logs = await asyncio.gather(*following)
        assert len({id(log) for log in logs}) <= 2
        await lease.append([output("61 ")])
        await lease.finish([complete()])
        for after, log in zip(places, logs, strict=True):
            begin = after if after <= 60 else 0
            ids = [event.id async for event in log.events(begin)]
            assert ids == list(range(begin + 1, 63))
    assert not engine._mirrors._of


async def test_a_place_is_told_as_every_engine_encodes_it(bench: RedisBench) -> None:
    engine = await bench.make()
    [job_id] = await submit(engine, "a")
    async with engine.follow(job_id) as log:
        data, _ = await log.read(0)
    kind, text = encode(Status("queued", t=0, position=1, estimated_wait_ms=0, job_id=job_id))
    assert b"event: %b\ndata: %b\n" % (kind.encode(), text) in data
    assert len(await events_of(engine, job_id)) == 1


async def test_waiting_jobs_are_not_left_to_nodes_that_drain(redis: RedisServer) -> None:
    bench = RedisBench(lambda: redis.url(prefix="draining"))
    one, other = await bench.make_redis(), await bench.make_redis()
    running = await start(one, "a")
    await one.sessions.open(ResolvedSession("s", "", "bwrap", Limits(), 60.0, 600.0))
    [waiting] = await submit(one, "a")
    await one.drain()
    await one._say_alive()
    assert len(await events_of(other, waiting)) == 1, "the other takes it"
    await other.drain()
    assert (await events_of(one, waiting))[-1].kind == "error"
    await other.close()
    assert (await one.stats()).sessions == 1, "it may still be in use here"
    assert await running.finish([complete()])
    await bench.close()


async def test_a_claim_that_comes_after_the_next_one_gets_nothing(bench: RedisBench) -> None:
    engine = await bench.make_redis()
    await submit(engine, "a", "b")
    words = (engine._node, 1, b"\x80", 0)
    assert len(await engine._scripts.ask("claim", "w", 2, *words)) == 1
    assert await engine._scripts.ask("claim", "w", 1, *words) == []
    assert (await engine.stats()).waiting == 1


async def test_a_session_ends_with_any_number_of_waiting_jobs(
    bench: RedisBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "SILENCE_S", 60.0)  # to send so many jobs at once takes seconds
    engine = await bench.make_redis(max_waiting=10_000, max_waiting_per_client=10_000)
    heard: list[str] = []
    engine.listen(lambda view: heard.append(view.job.job_id))
    await engine.sessions.open(ResolvedSession("s", "", "bwrap", Limits(), 60.0, 600.0))
    jobs = [replace(make_job(), session_id="s") for _ in range(8100)]
    await asyncio.gather(*map(engine.submit, jobs))
    ending = asyncio.create_task(engine.sessions.end("s"))
    while not heard:
        await asyncio.sleep(0)
    other = await asyncio.wait_for(engine.submit(make_job()), 30)
    assert len(heard) < len(jobs), "others are answered in between"
    assert await ending
    assert sorted(heard) == sorted(job.job_id for job in jobs)
    await engine.cancel(other.job_id)


async def test_waiting_jobs_end_though_who_has_ended_their_session_is_gone(
    bench: RedisBench,
) -> None:
    engine = await bench.make_redis()
    await engine.sessions.open(ResolvedSession("s", "", "bwrap", Limits(), 60.0, 600.0))
    jobs = [replace(make_job(), session_id="s") for _ in range(250)]
    for job in jobs:
        await engine.submit(job)
    assert await engine._scripts.ask("session_end", "s") == 1
    async with asyncio.timeout(30):
        assert (await follow(engine, jobs[-1].job_id))[-1].kind == "complete"


async def test_the_end_of_a_job_is_told_though_the_answer_of_the_reaper_was_lost(
    bench: RedisBench,
) -> None:
    engine = await bench.make_redis()
    heard: list[str] = []
    engine.listen(lambda view: heard.append(view.job.job_id))
    [first] = await submit(engine, "")
    await claim_one(engine)
    await bench.pass_time(15.1)
    words = (*encode(WORKER_LOST), engine._node, engine._reaps, 0)
    engine._scripts.hear = lambda _: None
    assert await engine._scripts.ask("reap", *words) == 1
    [second] = await submit(engine, "")
    await claim_one(engine)
    await bench.pass_time(15.1)
    assert await engine._scripts.ask("reap", *words) == 1, "this answer is lost, too"
    engine._scripts.hear = lambda view: heard.append(view.job.job_id)
    [third] = await submit(engine, "")
    await claim_one(engine)
    await bench.pass_time(15.1)
    assert await engine.reap() == 1
    assert sorted(heard) == sorted([first, second, third])
    assert await engine.reap() == 0
    assert len(heard) == 3


async def test_a_job_that_cannot_be_read_takes_no_other_with_it(bench: RedisBench) -> None:
    engine = await bench.make_redis()
    unreadable, readable = await submit(engine, "a", "b")
    root = engine._link.address.root
    await engine._link.call("SET", f"{root}spec:{unreadable}", b"of another version")
    [lease] = await engine.claim("w", 2)
    assert lease.job.job_id == readable
    async with asyncio.timeout(20):
        events = await follow(engine, unreadable)
    assert isinstance(events[-1].data, Error)
    assert events[-1].data.code == "internal"
    assert await lease.finish([complete()])


async def test_a_wait_is_that_for_the_places_of_all_workers(bench: RedisBench) -> None:
    engine = await bench.make_redis(lease_s=1000.0)
    for worker, places in (("one", 2), ("two", 3)):
        await engine.publish(worker, replace(NOTHING, places=places))
    await submit(engine, *"bbbbb")
    leases = [*await engine.claim("one", 2), *await engine.claim("two", 3)]
    assert len(leases) == 5
    await bench.pass_time(10.0)
    urgent = replace(make_job(), priority=1)
    waiting = [*await submit(engine, *"aaaa"), (await engine.submit(urgent, tenant="a")).job_id]
    order = [waiting[-1], *waiting[:-1]]
    waits = [view.estimated_wait_s for one in order if (view := await engine.summary(one))]
    assert waits == [2, 4, 6, 8, 10]
    await engine.publish("two", None)
    view = await engine.summary(order[1])
    assert view is not None
    assert view.estimated_wait_s == 10, "two of them go on at two places"


async def test_a_tenant_leaves_one_place_of_all_workers_to_others(redis: RedisServer) -> None:
    """Whatever the workers know of tenants, and however few places one of them has."""
    url = redis.url()
    bench = RedisBench(lambda: url)
    own = {"own": TenantLimits(running=1), "waits": TenantLimits(waiting=9)}
    api = await bench.make_redis(places=2, max_running_per_client=1, by_places=True, tenants=own)
    workers = await bench.make_redis(places=3, max_running_per_client=None)
    assert (await api.own_queue("a")).most_running == 1
    for worker in ("one", "two"):
        await workers.publish(worker, replace(NOTHING, places=3))
    for tenant, most in (("a", 5), ("waits", 5), ("own", 1)):
        await submit(api, *[tenant] * 8)
        assert (await api.own_queue(tenant)).most_running == most
        leases = [*await workers.claim("one", 3), *await workers.claim("two", 3)]
        assert len(leases) == most
        for lease in leases:
            await lease.finish([complete()])
        for job in (await api.own_queue(tenant)).jobs:
            await api.cancel(job.job_id)
    await workers.publish("two", None)
    await workers.publish("one", replace(NOTHING, places=1))
    assert (await api.own_queue("a")).most_running == 1, "of one place it is that"
    await bench.close()


async def test_a_tenant_that_has_no_limits_of_its_own_any_more(redis: RedisServer) -> None:
    url = redis.url()
    bench = RedisBench(lambda: url)
    before = await bench.make_redis(tenants={"a": TenantLimits(running=1)})
    after = await bench.make_redis(max_running_per_client=2)
    await submit(before, *"aaa")
    await submit(after, "a")
    assert len(await after.claim("worker", 4)) == 2
    await bench.close()


async def test_what_a_worker_cannot_run_costs_its_claims_nothing(
    bench: RedisBench, redis: RedisServer
) -> None:
    def commands() -> int:
        """Return how many the server has run, also within operations."""
        said = redis.said("INFO", "commandstats")
        return sum(map(int, re.findall(rb"cmdstat_(?!fcall)[^:]*:calls=(\d+)", said)))

    engine = await bench.make_redis(max_waiting=2000)
    jobs = [replace(make_job(), backend="other", priority=n % 21 - 10) for n in range(1000)]
    for number, job in enumerate(jobs):
        await engine.submit(job, tenant=f"tenant{number % 300}")
    [runnable] = await submit(engine, "last")
    accepts = accepted(ACCEPTS)
    before = commands()
    [lease] = await engine._scripts.ask("claim", "w", 1, engine._node, 4, accepts, 0)
    assert lease[0].decode() == runnable
    assert await engine._scripts.ask("claim", "w", 2, engine._node, 4, accepts, 0) == []
    assert commands() - before < 200, "a thousand wait"


# -- what is kept -----------------------------------------------------------------------------


async def test_nothing_is_left_of_what_was_deleted(redis: RedisServer, tmp_path: Path) -> None:
    bench = RedisBench(lambda: redis.url(prefix="left"))
    engine = await bench.make(retention_s=10.0)
    await engine.start(tmp_path)
    async with engine.blobs.create("a", 100, keep_s=60.0) as writer:
        await writer.write(b"x")
        blob = await writer.commit()
    await engine.blobs.make_evictable(blob.id)
    project = JobProject(blob.id, 1, 1)
    session = ResolvedSession("s", "a", "bwrap", Limits(), 60.0, 600.0, project=project)
    await engine.sessions.open(session)
    job = replace(make_job(terminal=TerminalSize(80, 24)), project=project)
    await engine.submit(job, tenant="a", idempotency=Idempotency("key", b"digest"))
    for item in (Input(b"x"), Signal(2), Resize(10, 10), Measure(), Eof()):
        await engine.send(job.job_id, item)
    lease = await claim_one(engine)
    await lease.append([output("x")])
    await lease.finish([complete()], [JobFile("a", blob, 7)])
    await submit(engine, "b")
    await engine.drain()
    await engine.sessions.end("s")
    await bench.pass_time(601.0)
    await engine.reap()
    assert (await engine.stats()).blob_bytes == 0
    keys = {key.rpartition(b":")[2] for key in redis.said("KEYS", "{left}*").split() if b":" in key}
    assert keys <= {b"sum", b"runs", b"claims", b"nodes"}
    await bench.close()


async def test_finished_jobs_take_no_more_memory_than_is_counted() -> None:
    with redis_server() as server:
        bench = RedisBench(lambda: server.url(prefix="x"))
        engine = await bench.make()

        async def run() -> None:
            lease = await start(engine, "a")
            await lease.append([output("x" * 10)] * 4)
            await lease.finish([complete()])

        def used() -> int:
            [line] = re.findall(rb"used_memory:(\d+)", server.said("INFO", "memory"))
            return int(line)

        await run()
        before, stats = used(), await engine.stats()
        for _ in range(500):
            await run()
        now = await engine.stats()
        counted = now.record_bytes + now.log_bytes - stats.record_bytes - stats.log_bytes
        assert 0.7 * counted < used() - before < 1.1 * counted
        await bench.close()


async def test_a_log_that_is_too_large_loses_its_oldest_events(redis: RedisServer) -> None:
    bench = RedisBench(redis.url)
    engine = await bench.make(retention_bytes=100_000)
    lease = await start(engine)
    for number in range(100):
        await lease.append([output(f"{number} " + "x" * 4000)])
    assert (await engine.stats()).log_bytes < 110_000
    await lease.finish([complete()])
    async with engine.follow(lease.job.job_id) as log:
        gap, *rest = [event async for event in log.entries()]
        assert gap.data == Gap(1, gap.id)
        assert [event.id for event in rest] == list(range(gap.id + 1, 104))
        assert log.done
    await bench.close()


async def test_the_jobs_of_a_process_that_is_known_to_be_gone_end_at_once(
    redis: RedisServer,
) -> None:
    url = redis.url()
    bench = RedisBench(lambda: url)
    gone, other = await bench.make_redis(), await bench.make_redis()
    lost = await start(gone, "a")
    again = await gone.submit(replace(make_job(), retry=1))
    assert len(await gone.claim("its worker", 1)) == 1
    await submit(other, "b")
    [kept] = await other.claim("another worker", 1)
    assert gone.node != other.node
    for _ in range(2):  # its answer may be lost
        await other.node_gone(gone.node)
    events = await events_of(other, lost.job.job_id)
    assert isinstance(events[-1].data, Error)
    assert events[-1].data.code == "worker_lost"
    with pytest.raises(LeaseLost):
        await lost.append([output("x")])
    view = await other.summary(again.job_id)
    assert view is not None
    assert view.state == "queued", "it may be run again"
    await kept.append([output("x")])
    assert await kept.finish([complete()])
    await bench.close()
