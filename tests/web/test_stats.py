"""GET /api/stream/{jobId}?stats=1: what a job uses, for whoever asks, and never again."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

import streamer
from streamer.events import Stats
from streamer.sandbox.sandbox import Sandbox
from tests.conftest import Start
from tests.support import AnyClient, Received, follow, parts_of, received, submit, text, verdict
from tests.web import SLEEPER, problem, python, until_state

MB = 1_000_000
USES = """
import os, signal, threading, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
kept = b"x" * 60_000_000
while time.process_time() < 0.4: pass
if not os.fork():
    signal.pause()
threading.Thread(target=threading.Event().wait, daemon=True).start()
os.write(1, b"ready\\n")
signal.sigwait([signal.SIGTERM])
"""
"""A program that uses 0.4 s, 60 MB and three processes and threads, until it gets SIGTERM."""


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure thirty times a second, so that no test waits for long."""
    monkeypatch.setattr("streamer.worker.usage.EVERY_S", 0.03)


async def stats_until(
    events: AsyncIterator[Received], holds: Callable[[dict[str, Any]], bool]
) -> list[Received]:
    """Return the events up to a ``stats`` for which something holds."""
    seen: list[Received] = []
    async with asyncio.timeout(30):
        async for event in events:
            seen.append(event)
            if event.kind == "stats" and holds(event.data):
                return seen
    raise AssertionError(f"the stream has ended before: {seen}")


def as_used(stats: dict[str, Any]) -> bool:
    return bool(
        stats["cpuTimeMs"] >= 400 and stats["memoryBytes"] >= 60 * MB and stats["processes"] >= 3
    )


async def terminate(client: AnyClient, job_id: str) -> None:
    async with client.post(f"/api/jobs/{job_id}/signal", json={"signal": "SIGTERM"}) as response:
        assert response.status == 202


@pytest.mark.parametrize("cgroup", ["auto", "off"])
async def test_what_a_program_uses_is_told_while_it_runs(
    start: Start, cgroup: str, backend: str
) -> None:
    client = await start(sandbox={"backend": backend, "cgroup": cgroup})
    job_id = await submit(client, **python(USES))
    async with client.get(f"/api/stream/{job_id}?stats=1") as response:
        events = received(response)
        seen = await stats_until(events, as_used)
        stats = seen[-1].data
        assert stats["memoryBytes"] < 200 * MB
        assert stats["processes"] == 3
        await terminate(client, job_id)
        rest = [event async for event in events]
    end = verdict(rest)
    told = [event.data for event in (*seen, *rest) if event.kind == "stats"]
    assert [*map(sorted, told)] == [["cpuTimeMs", "memoryBytes", "processes", "t"]] * len(told)
    assert [one["t"] for one in told] == sorted(one["t"] for one in told)
    cpu = [one["cpuTimeMs"] for one in told]
    assert cpu == sorted(cpu)
    assert cpu[-1] <= end["cpuTimeMs"] + 1
    assert max(one["t"] for one in told) <= end["durationMs"] + 60_000


async def test_it_has_no_id_and_is_never_sent_again(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python(USES))
    async with client.get(f"/api/stream/{job_id}?stats=1") as response:
        seen = await stats_until(received(response), as_used)
        response.close()
    numbers = [event.id for event in seen if event.kind != "stats"]
    assert numbers == list(range(1, len(numbers) + 1))
    # The id of a client is that of the last event of the log, and it goes on exactly after it.
    assert seen[-1].id == numbers[-1]
    await terminate(client, job_id)
    rest = await follow(client, job_id, after=seen[-1].id)
    assert [event.id for event in rest] == [*range(numbers[-1] + 1, rest[-1].id + 1)]
    assert verdict(rest)["reason"] == "exited"
    whole = await follow(client, job_id)
    assert [event.kind for event in whole if event.kind == "stats"] == []
    async with client.get(f"/api/stream/{job_id}?stats=1") as response:
        again = [event async for event in received(response)]
    assert again == whole


async def test_the_frame_is_an_event_without_an_id(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **SLEEPER)
    async with client.get(f"/api/stream/{job_id}?stats=1") as response:
        body = b""
        async with asyncio.timeout(30):
            while b"event: stats" not in body or not body.endswith(b"\n\n"):
                body += await response.content.readany()
        response.close()
    frames = [frame for frame in body.decode().split("\n\n") if "event: stats" in frame]
    for frame in frames:
        kind, data = frame.split("\n")
        assert kind == "event: stats"
        assert json.loads(data.removeprefix("data: "))["processes"] >= 1


async def test_who_does_not_ask_gets_none(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python(USES))
    async with AsyncExitStack() as stack:
        asking, other, refusing = [
            await stack.enter_async_context(client.get(f"/api/stream/{job_id}{query}"))
            for query in ("?stats=1", "", "?stats=0")
        ]
        await stats_until(received(asking), as_used)
        await terminate(client, job_id)
        for response in (other, refusing):
            events = [event async for event in received(response)]
            assert "stats" not in {event.kind for event in events}
            assert [event.id for event in events] == list(range(1, len(events) + 1))
    async with client.get(f"/api/stream/{job_id}?stats=2") as response:
        await problem(response, 400, "invalid_request")


class Counted:
    """How often what a program uses was measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        measure = Sandbox.use_of_run

        async def counting(sandbox: Sandbox) -> Any:
            self.count += 1
            return await measure(sandbox)

        monkeypatch.setattr(Sandbox, "use_of_run", counting)


async def test_nothing_is_measured_while_nobody_asks(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    client = await start()
    job_id = await submit(client, **python(USES))
    await until_state(client, job_id, "output")
    assert counted.count == 0
    async with client.get(f"/api/stream/{job_id}?stats=1") as response:
        await stats_until(received(response), as_used)
        response.close()
    async with asyncio.timeout(30):
        while len(parts_of(client).jobs.usage):
            await asyncio.sleep(0)
        (execution,) = parts_of(client).worker._running.values()
        while execution._requests.usage._due.is_set():
            await asyncio.sleep(0)
    count = counted.count
    await terminate(client, job_id)
    await follow(client, job_id)
    assert counted.count == count


async def test_many_readers_get_the_same_measurement(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python(USES))
    readers = 20
    had: Counter[int] = Counter()

    def had_by_all(stats: dict[str, Any]) -> bool:
        had[stats["t"]] += 1
        return readers in had.values()

    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(client.get(f"/api/stream/{job_id}?stats=1"))
            for _ in range(readers)
        ]
        await asyncio.gather(*(stats_until(received(one), had_by_all) for one in streams))
        await terminate(client, job_id)


async def test_the_cases_of_a_job_are_measured_together(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python(USES, cases=[{}, {}]))
    async with client.get(f"/api/stream/{job_id}?stats=1") as response:
        events = received(response)
        await stats_until(events, as_used)
        await terminate(client, job_id)
        async for event in events:
            if event.kind == "case":
                break
        first = event.data["cpuTimeMs"]
        await stats_until(events, lambda one: one["cpuTimeMs"] >= first + 400)
        await terminate(client, job_id)
        assert verdict([event async for event in events])["cpuTimeMs"] >= 800


async def test_a_job_of_a_session_is_measured_alone(start: Start) -> None:
    client = await start()
    async with client.post("/api/sessions", json={}) as response:
        session = (await response.json())["sessionId"]
    burn = python("import time\nwhile time.process_time() < 1: pass", sessionId=session)
    await follow(client, await submit(client, **burn))
    job_id = await submit(client, **python(USES, sessionId=session))
    async with client.get(f"/api/stream/{job_id}?stats=1") as response:
        events = received(response)
        seen = await stats_until(events, as_used)
        assert seen[-1].data["cpuTimeMs"] < 1000
        await terminate(client, job_id)
        assert verdict([event async for event in events])["exitCode"] == 0


@pytest.mark.parametrize("fork", [False, True], ids=["held", "forked"])
async def test_a_program_that_waited_for_its_job_is_measured(
    start: Start,
    need: Callable[[str], str],
    fork: bool,  # noqa: FBT001
) -> None:
    need("bwrap")
    client = await start(runtimes={"python": {"fork": fork}})
    for _ in range(2):  # a program may wait for the second one
        job_id = await submit(client, **python(USES))
        async with client.get(f"/api/stream/{job_id}?stats=1") as response:
            events = received(response)
            await stats_until(events, as_used)
            await terminate(client, job_id)
            assert verdict([event async for event in events])["exitCode"] == 0


async def test_a_compiler_is_measured_too(start: Start) -> None:
    slow = {"entry": "main.txt", "compile": ["sleep", "60"], "run": ["true"]}
    client = await start(runtimes={"slow": slow})
    job_id = await submit(client, language="slow", code="")
    async with client.get(f"/api/stream/{job_id}?stats=1") as response:
        events = received(response)
        seen = await stats_until(events, lambda one: one["processes"] >= 1)
        assert [e.data["state"] for e in seen if e.kind == "status"][-1] == "compiling"
        async with client.delete(f"/api/jobs/{job_id}") as answer:
            assert answer.status == 202
        assert verdict([event async for event in events])["reason"] == "cancelled"


async def test_a_job_that_waits_is_measured_once_it_runs(start: Start) -> None:
    client = await start(queue={"concurrency": 1})
    first = await submit(client, **SLEEPER)
    await until_state(client, first, "running")
    job_id = await submit(client, **python(USES))
    async with client.get(f"/api/stream/{job_id}?stats=1") as response:
        events = received(response)
        assert (await anext(events)).data["state"] == "queued"
        async with client.delete(f"/api/jobs/{first}") as answer:
            assert answer.status == 202
        await stats_until(events, as_used)
        await terminate(client, job_id)
        assert verdict([event async for event in events])["exitCode"] == 0


async def test_the_stream_of_a_submission_has_them_too(start: Start) -> None:
    client = await start()
    headers = {"Accept": "text/event-stream"}
    for query in ("?stats=1", "?stats=0"):
        async with client.post(
            f"/api/execute{query}", json=python(USES), headers=headers
        ) as response:
            assert response.status == 200
            events = received(response)
            kinds = set()
            if query == "?stats=1":
                await stats_until(events, as_used)
            async for event in events:
                kinds.add(event.kind)
                if query == "?stats=1" or event.kind == "output":
                    await terminate(client, response.headers["X-Job-Id"])
                    break
            kinds |= {event.kind async for event in events}
        assert "complete" in kinds
        assert query == "?stats=1" or "stats" not in kinds
    async with client.post("/api/execute?stats=x", json=python("1")) as response:
        await problem(response, 400, "invalid_request")


async def test_a_replay_has_none(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python("print(1)"))
    async with client.get(f"/api/stream/{job_id}?stats=1&speed=1000") as response:
        seen = [event async for event in received(response)]
    assert text(seen) == "1\n"
    assert "stats" not in {event.kind for event in seen}


async def test_it_reaches_a_client_of_python(start: Start) -> None:
    service = await start()
    async with streamer.Client(str(service.make_url("/"))) as client:
        run = client.run(language="python", code=USES, stats=True)
        ids = []
        async with asyncio.timeout(30), run:
            async for event in run:
                ids.append(event.id)
                if isinstance(event.data, Stats) and (event.data.processes or 0) >= 3:
                    assert run.job_id is not None
                    await client.signal(run.job_id, "SIGTERM")
        assert all(after - before in (0, 1) for before, after in itertools.pairwise(ids))
        assert run.job_id is not None
        kinds = {event.kind async for event in client.events(run.job_id, stats=True)}
        assert kinds == {"status", "output", "complete"}


async def test_it_reaches_a_host_application(start: Start) -> None:
    service = await start()
    jobs = parts_of(service).jobs
    job = await jobs.submit(streamer.JobSpec(language="python", code=USES))
    told: list[Stats] = []
    async with asyncio.timeout(30):
        async for stats in job.stats():
            told.append(stats)
            if (stats.processes or 0) >= 3:
                await job.signal("SIGTERM")
    assert told
    assert [one.t for one in told] == sorted(one.t for one in told)
    assert len(jobs.usage) == 0
    assert [one async for one in jobs.job(job.id).stats()] == []
