"""Many jobs, too many jobs, and jobs when the service is about to stop."""

from __future__ import annotations

import asyncio
import gc
import os
from collections import Counter
from pathlib import Path

import pytest
from aiohttp import ClientSession, TCPConnector

from streamer.app import SERVICE
from tests.conftest import Start
from tests.http import SLEEPER, problem, python, until_state
from tests.support import follow, received, run, submit, text, verdict


async def test_a_full_queue_refuses_and_says_when_to_try_again(start: Start) -> None:
    client = await start(queue={"concurrency": 1, "max_waiting": 2})
    running = await submit(client, **SLEEPER)
    await until_state(client, running, "running")
    waiting = [await submit(client, **SLEEPER) for _ in range(2)]
    for headers in ({}, {"Accept": "text/event-stream"}, {"Prefer": "wait=5"}):
        async with client.post("/api/execute", json=SLEEPER, headers=headers) as response:
            await problem(response, 429, "queue_full")
            assert 1 <= int(response.headers["Retry-After"]) <= 60
    async with client.get("/readyz") as response:
        assert response.status == 503
    async with client.delete(f"/api/jobs/{waiting[0]}") as response:
        assert response.status == 202
    await submit(client, **SLEEPER)


async def test_a_service_that_drains_takes_no_jobs_and_goes_on_answering(start: Start) -> None:
    client = await start(queue={"concurrency": 1})
    code = "import sys; print('up', flush=True); print(sys.stdin.read())"
    running = await submit(client, **python(code, interactive=True))
    await until_state(client, running, "running")
    queued = await submit(client, **SLEEPER)
    draining = asyncio.create_task(client.app[SERVICE].drain(60))
    events = await follow(client, queued)
    assert events[-1].kind == "error"
    assert verdict(events)["code"] == "shutting_down"
    async with client.post("/api/execute", json=SLEEPER) as response:
        await problem(response, 503, "shutting_down")
        assert int(response.headers["Retry-After"]) >= 1
    async with client.get("/readyz") as response:
        assert response.status == 503
    async with client.get("/healthz") as response:
        assert response.status == 200
    # The running one is not disturbed: it still takes its input and ends as it likes.
    async with client.post(f"/api/jobs/{running}/stdin?close=1", data=b"in") as response:
        assert response.status == 202
    events = await follow(client, running)
    assert text(events) == "up\nin\n"
    assert verdict(events)["exitCode"] == 0
    await draining


async def test_what_a_drain_does_not_wait_for_has_its_end_too(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **SLEEPER)
    await until_state(client, job_id, "running")
    async with client.get(f"/api/stream/{job_id}") as response:
        await client.app[SERVICE].drain(0)
        events = [event async for event in received(response)]
    assert verdict(events)["code"] == "shutting_down"


async def test_no_more_jobs_run_at_once_than_configured(start: Start) -> None:
    client = await start(queue={"concurrency": 3})
    jobs = [await submit(client, command=["sleep", "0.05"]) for _ in range(12)]
    most = 0
    while True:
        async with client.get("/api/queue") as response:
            queue = await response.json()
        most = max(most, queue["running"])
        if not queue["running"] + queue["waiting"]:
            break
    assert most == 3
    for job_id in jobs:
        assert verdict(await follow(client, job_id))["exitCode"] == 0


async def test_the_metrics_count_what_happened(start: Start) -> None:
    client = await start()
    await run(client, command=["true"])
    await run(client, command=["sleep", "9"], limits={"wallTimeS": 0.1})
    async with client.get("/metrics") as response:
        assert response.content_type == "text/plain"
        lines = (await response.text()).splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    ended = {name: float(value) for name, value in values.items() if "reason=" in name}
    assert sorted(ended.values()) == [1.0, 1.0]
    assert any("wall_time" in name for name in ended)


@pytest.mark.slow
async def test_two_hundred_jobs_at_once_and_each_reader_sees_its_own(start: Start) -> None:
    client = await start(queue={"concurrency": 8})
    code = """
import sys
mark = sys.argv[1]
for turn in range(40):
    print(mark, turn, "€" * 20, flush=turn % 10 == 0)
print(mark, "to stderr", file=sys.stderr)
"""

    async def one(session: ClientSession, number: int) -> None:
        mark = f"job-{number}-{number:x}"
        url = client.make_url("/api/execute")
        headers = {"Accept": "text/event-stream"}
        async with session.post(url, json=python(code, args=[mark]), headers=headers) as response:
            events = [event async for event in received(response)]
        assert text(events) == "".join(f"{mark} {turn} {'€' * 20}\n" for turn in range(40))
        assert text(events, "stderr") == f"{mark} to stderr\n"
        assert verdict(events)["exitCode"] == 0
        assert [event.id for event in events] == list(range(1, len(events) + 1))

    async with ClientSession(connector=TCPConnector(limit=0)) as session:
        await asyncio.gather(*(one(session, number) for number in range(200)))


def resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def child_count() -> int:
    tasks = Path("/proc/self/task").glob("*/children")
    return sum(len(task.read_text().split()) for task in tasks)


def open_files() -> Counter[str]:
    """Return how many descriptors of each kind are open: ``pipe``, ``socket``, a path."""
    found: Counter[str] = Counter()
    for entry in os.scandir("/proc/self/fd"):
        try:
            found[os.readlink(entry.path).partition(":")[0]] += 1
        except OSError:
            continue  # the one that lists
    return found


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_thousand_jobs_leave_nothing_behind(start: Start) -> None:
    # What is kept of finished jobs is bounded to little, so that growth is a leak.
    client = await start(streams={"retention_bytes": 200_000, "grace_s": 0})
    files, children, resident = open_files(), child_count(), 0
    for number in range(1, 1001):
        events = await run(client, command=["echo", str(number)])
        assert text(events) == f"{number}\n"
        if number == 200:
            files, children, resident = open_files(), child_count(), resident_bytes()
    assert open_files() <= files
    assert child_count() <= children
    assert resident_bytes() - resident < 8_000_000  # 10 kB a job would be seen
