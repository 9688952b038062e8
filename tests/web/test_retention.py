"""How much of a log is kept, where, and when programs wait for readers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.engine.interface import Stats
from streamer.web.app import SERVICE, SESSIONS
from tests.conftest import Start
from tests.support import AnyClient, Received, follow, received, submit, text, verdict
from tests.web import SLEEPER, python, until_output, until_state

MIB = 1024 * 1024
FLOOD = """
import hashlib, sys
digest = hashlib.sha256()
for number in range(int(sys.argv[1])):
    line = f"{number:07} " + "abcdefgh" * 30 + "\\n"
    digest.update(line.encode())
    sys.stdout.write(line)
sys.stdout.flush()
sys.stderr.write(digest.hexdigest())
"""
"""A program that writes lines of 250 bytes, and their digest to standard error."""


def check(events: list[Received]) -> None:
    """Compare the output with the digest that the program printed."""
    assert hashlib.sha256(text(events).encode()).hexdigest() == text(events, "stderr")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder that other users may pass; pytest's own are private."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def test_old_events_go_to_disk_and_come_back_whole(start: Start, open_folder: Path) -> None:
    client = await start(
        streams={"log_memory_bytes": 100_000, "retention_bytes": 10 * MIB},
        server={"state_dir": str(open_folder)},
        limits={"default": {"output_bytes": 64 * MIB}},
    )
    job_id = await submit(client, **python(FLOOD, args=["60000"]))
    events = await follow(client, job_id)
    assert len(text(events)) == 60_000 * 249
    check(events)
    stats = await client.app[SERVICE].stats()
    assert stats.log_bytes < 400_000
    assert stats.disk_bytes > 14 * MIB
    # A late reader, one from the middle, and a download: all read from disk.
    assert await follow(client, job_id) == events
    middle = events[len(events) // 2].id
    assert await follow(client, job_id, after=middle) == events[middle:]
    async with client.get(f"/api/jobs/{job_id}/output/stdout") as response:
        assert (await response.read()).decode() == text(events)
    # The file on disk has no name, and its pages are freed with the job.
    assert not [
        path for path in open_folder.rglob("*") if path.is_file() and path.stat().st_size > MIB
    ]
    async with client.delete(f"/api/jobs/{job_id}?purge=1") as answer:
        assert answer.status == 204
    assert (await client.app[SERVICE].stats()).disk_bytes == 0


async def test_all_logs_together_stay_within_their_memory(start: Start) -> None:
    client = await start(streams={"retention_bytes": 2 * MIB, "log_memory_bytes": MIB})
    jobs = [await submit(client, **python(FLOOD, args=["8000"])) for _ in range(6)]
    for job_id in jobs:
        events = await follow(client, job_id)
        check(events)
        stats = await client.app[SERVICE].stats()
        # And what each running job is about to move to disk.
        assert stats.log_bytes <= 2 * MIB + stats.running * 128 * 1024
    for job_id in jobs:
        events = await follow(client, job_id)
        check(events)


async def test_without_a_disk_the_oldest_are_dropped_and_that_is_said(start: Start) -> None:
    client = await start(streams={"retention_bytes": 500_000, "disk_bytes": 0})
    job_id = await submit(client, **python(FLOOD, args=["20000"]))
    await until_state(client, job_id, "complete")
    (gap, *rest) = await follow(client, job_id)
    assert gap.kind == "gap"
    assert gap.data == {"from": 1, "to": gap.id, "reason": "retention"}
    assert [event.id for event in rest] == list(range(gap.id + 1, rest[-1].id + 1))
    assert verdict(rest)["outputBytes"] == 20_000 * 249 + 64


async def kept_bytes(client: AnyClient) -> int:
    """Return the size of all logs in memory and on disk."""
    stats: Stats = await client.app[SERVICE].stats()
    return stats.log_bytes + stats.disk_bytes


HOLDS = pytest.mark.memory_engine("only in one process can a program be held for its readers")


@HOLDS
async def test_a_program_waits_for_its_readers_where_nothing_may_be_lost(start: Start) -> None:
    client = await start(streams={"on_full": "wait", "log_bytes": 300_000})
    job_id = await submit(client, **python(FLOOD, args=["20000"]))
    service = client.app[SERVICE]
    async with service.job(job_id).follow() as log:
        async with asyncio.timeout(60):
            while await kept_bytes(client) < 300_000:
                await log.wait(log.last_id)
        held_at = log.last_id
        # Without readers it is held for as long as that lasts. Others run meanwhile.
        for _ in range(3):
            assert text(await follow(client, await submit(client, **python("print(1)")))) == "1\n"
        assert log.last_id - held_at < 200
        assert not log.done
        events = await follow(client, job_id)
        assert len(text(events)) == 20_000 * 249
        check(events)
        assert await kept_bytes(client) < 1_000_000


@HOLDS
async def test_a_job_that_is_held_can_be_cancelled_and_times_out(start: Start) -> None:
    client = await start(streams={"on_full": "wait", "log_bytes": 100_000})
    flood = "while True: print('x' * 100)"
    cancelled = await submit(client, **python(flood))
    async with client.app[SERVICE].job(cancelled).follow() as log:
        while await kept_bytes(client) < 100_000:
            await log.wait(log.last_id)
    async with client.delete(f"/api/jobs/{cancelled}") as answer:
        assert answer.status == 202
    assert verdict(await follow(client, cancelled))["reason"] == "cancelled"
    timed = await submit(client, **python(flood, limits={"wallTimeS": 0.5}))
    assert (await client.app[SERVICE].job(timed).result()).reason == "wall_time"


@HOLDS
@pytest.mark.parametrize(
    "target", ["/api/stream/{}", "/api/jobs/{}/output/stdout", "/api/jobs/{}/cast"]
)
async def test_a_stalled_reader_holds_a_waiting_program_only_for_its_time(
    start: Start, target: str
) -> None:
    client = await start(
        streams={"on_full": "wait", "log_bytes": 200_000, "write_timeout_s": 0.5},
        limits={"default": {"output_bytes": 64 * MIB}},
    )
    # More than the kernel buffers for the stalled client.
    job_id = await submit(client, **python(FLOOD, args=["60000"]))
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with stalled:
        stalled.connect((client.host, client.port))
        stalled.sendall(f"GET {target.format(job_id)} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        events = await follow(client, job_id)
    check(events)
    assert len(text(events)) == 60_000 * 249


async def sessions_gone(client: AnyClient) -> None:
    async with asyncio.timeout(20):
        while len(client.app[SESSIONS]):
            await asyncio.sleep(0)


async def test_a_job_that_nobody_watches_any_more_is_cancelled(start: Start) -> None:
    client = await start(
        streams={"on_disconnect": "cancel", "disconnect_delay_s": 0.05, "heartbeat_s": 0.05}
    )
    unread = await submit(client, **SLEEPER)
    job_id = await submit(client, **python("import time\nprint('up', flush=True)\ntime.sleep(60)"))
    async with client.get(f"/api/stream/{job_id}") as response:
        await until_output(received(response), "up\n")
        response.close()
    result = await client.app[SERVICE].job(job_id).result()
    assert result.reason == "cancelled"
    async with client.get(f"/api/jobs/{unread}") as response:
        assert (await response.json())["status"] in ("queued", "preparing", "running")


async def test_who_comes_back_in_time_keeps_it(start: Start) -> None:
    client = await start(
        streams={"on_disconnect": "cancel", "disconnect_delay_s": 30, "heartbeat_s": 0.05}
    )
    echo = "import sys\nprint('up', flush=True)\nfor line in sys.stdin: print(line, end='', flush=True)"
    job_id = await submit(client, **python(echo, interactive=True))
    async with client.get(f"/api/stream/{job_id}") as response:
        await until_output(received(response), "up\n")
        response.close()
    await sessions_gone(client)
    async with client.get(f"/api/stream/{job_id}") as response:
        async with client.post(f"/api/jobs/{job_id}/stdin?close=1", data=b"back\n"):
            pass
        events = [event async for event in received(response)]
    assert text(events) == "up\nback\n"
    assert verdict(events)["reason"] == "exited"


async def test_a_client_that_comes_and_goes_leaves_one_timer(start: Start) -> None:
    delay_s = 7200
    client = await start(
        streams={"on_disconnect": "cancel", "disconnect_delay_s": delay_s, "heartbeat_s": 0.05}
    )
    jobs = [await submit(client, **SLEEPER) for _ in range(2)]
    for _ in range(5):
        for job_id in jobs:
            async with client.get(f"/api/stream/{job_id}") as response:
                await anext(received(response))
                response.close()
        await sessions_gone(client)
    loop = asyncio.get_running_loop()
    now = loop.time()
    # Those of other tests may not be collected yet.
    timers = [
        one
        for one in gc.get_objects()
        if isinstance(one, asyncio.TimerHandle) and one._loop is loop  # type: ignore[attr-defined]
    ]
    waiting = [timer.when() - now for timer in timers if not timer.cancelled()]
    assert len([s for s in waiting if delay_s / 2 < s <= delay_s]) == len(jobs)


async def test_by_default_a_job_goes_on_without_readers(start: Start) -> None:
    client = await start(streams={"heartbeat_s": 0.05})
    echo = "import sys\nprint('up', flush=True)\nprint(sys.stdin.read(), flush=True)"
    job_id = await submit(client, **python(echo, interactive=True))
    async with client.get(f"/api/stream/{job_id}") as response:
        await until_output(received(response), "up\n")
        response.close()
    await sessions_gone(client)
    async with client.post(f"/api/jobs/{job_id}/stdin?close=1", data=b"alone"):
        pass
    assert text(await follow(client, job_id)) == "up\nalone\n"


async def test_the_sessions_of_a_job_tell_how_far_each_is(start: Start) -> None:
    client = await start(streams={"write_timeout_s": 60})
    heard: list[tuple[str, str]] = []
    client.app[SESSIONS].listen(lambda session, change: heard.append((*session.keys, change)))
    job_id = await submit(client, **python("print('x' * 12_000_000)\ninput()", interactive=True))
    behind = socket.socket()
    behind.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with behind:
        behind.connect((client.host, client.port))
        behind.sendall(f"GET /api/stream/{job_id} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        async with client.get(f"/api/stream/{job_id}") as response:
            events = received(response)
            await until_output(events, "\n")
            async with client.get(f"/api/jobs/{job_id}/sessions") as answer:
                sessions = (await answer.json())["sessions"]
            assert len(sessions) == 2
            assert sorted(s["lag"] > 0 for s in sessions) == [False, True]
            assert all(s["peer"] == "127.0.0.1" and s["since"].endswith("+00:00") for s in sessions)
            client.app[SESSIONS].close(job_id)
            with contextlib.suppress(StopAsyncIteration):
                await anext(events)  # the stream has ended, the job goes on
    assert heard[:2] == [(job_id, "opened")] * 2
    async with client.get(f"/api/jobs/{job_id}") as answer:
        assert (await answer.json())["status"] == "running"
    async with client.post(f"/api/jobs/{job_id}/stdin?close=1", data=b"\n"):
        pass
    assert verdict(await follow(client, job_id))["exitCode"] == 0
    assert heard.count((job_id, "closed")) >= 2
