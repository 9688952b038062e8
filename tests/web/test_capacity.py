"""Many jobs, too many jobs, and jobs while the service shuts down."""

from __future__ import annotations

import asyncio
from typing import Never

import pytest

from streamer.errors import EngineUnavailable
from streamer.web.app import LIFETIME
from tests.conftest import Start
from tests.support import AnyClient, follow, parts_of, received, run, submit, text, verdict
from tests.web import SLEEPER, problem, python, until_state


async def test_a_full_queue_refuses_and_says_when_to_try_again(start: Start) -> None:
    client = await start(queue={"concurrency": 1, "max_waiting": 2})
    running = await submit(client, **SLEEPER)
    await until_state(client, running, "running")
    waiting = [await submit(client, **SLEEPER) for _ in range(2)]
    for headers in ({}, {"Accept": "text/event-stream"}, {"Prefer": "wait=5"}):
        async with client.post("/api/execute", json=SLEEPER, headers=headers) as response:
            await problem(response, 429, "queue_full")
            assert 1 <= int(response.headers["Retry-After"]) <= 60
    # A full queue does not make the service unready: a load balancer would drop its streams.
    async with client.get("/readyz") as response:
        assert response.status == 200, "that many wait is no fault of the service"
    async with client.delete(f"/api/jobs/{waiting[0]}") as response:
        assert response.status == 202
    await submit(client, **SLEEPER)


async def test_strangers_do_not_fill_the_log_while_the_engine_is_away(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = await start()

    async def away() -> Never:
        raise EngineUnavailable("there is no connection", retry_after_s=1.0)

    with monkeypatch.context() as patch:
        patch.setattr(parts_of(client).jobs, "capabilities", away)
        for _ in range(3):
            async with client.get("/readyz") as response:
                assert response.status == 503
                assert not (await response.json())["checks"]["engine"]
    assert caplog.text.count("did not answer a readiness check") == 1
    async with client.get("/readyz") as response:
        assert response.status == 200


async def test_a_service_that_drains_takes_no_jobs_and_goes_on_answering(start: Start) -> None:
    client = await start(queue={"concurrency": 1})
    code = "import sys; print('up', flush=True); print(sys.stdin.read())"
    running = await submit(client, **python(code, interactive=True))
    await until_state(client, running, "running")
    queued = await submit(client, **SLEEPER)
    draining = asyncio.create_task(client.app[LIFETIME].drain(60))
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
    # The running job is not affected: it still takes input, and ends by itself.
    async with client.post(f"/api/jobs/{running}/stdin?close=1", data=b"in") as response:
        assert response.status == 202
    events = await follow(client, running)
    assert text(events) == "up\nin\n"
    assert verdict(events)["exitCode"] == 0
    await draining


async def test_what_a_drain_does_not_wait_for_has_its_end_too(start: Start) -> None:
    client = await start(streams={"grace_s": 600})  # cut off too
    job_id = await submit(client, **SLEEPER)
    await until_state(client, job_id, "running")
    async with client.get(f"/api/stream/{job_id}") as response:
        await client.app[LIFETIME].drain(0)
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
    async with client.post("/api/sessions") as response:
        assert response.status == 201
    await metrics_of(client, finished=2)
    async with client.get("/metrics") as response:
        assert response.content_type == "text/plain"
        lines = (await response.text()).splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    finished = "streamer_jobs_finished_total"
    assert values[f'{finished}{{outcome="exited"}}'] == "1"
    assert values[f'{finished}{{outcome="wall_time"}}'] == "1"
    assert values["streamer_jobs_running"] == "0"
    assert values["streamer_sessions_open"] == "1"


async def metrics_of(client: AnyClient, *, finished: int) -> dict[str, float]:
    """Return the metrics once they count this many jobs: readers may see an end before."""
    async with asyncio.timeout(20):
        while True:
            async with client.get("/metrics") as response:
                lines = (await response.text()).splitlines()
            pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
            values = {name: float(value) for name, value in pairs}
            ended = (n for name, n in values.items() if name.startswith("streamer_jobs_finished_"))
            if sum(ended) == finished:
                return values


async def test_jobs_that_never_ran_are_counted(start: Start) -> None:
    client = await start(queue={"concurrency": 1})
    running = await submit(client, **SLEEPER)
    await until_state(client, running, "running")
    for _ in range(3):
        async with client.delete(f"/api/jobs/{await submit(client, **SLEEPER)}") as response:
            assert response.status == 202
    values = await metrics_of(client, finished=3)
    assert values['streamer_jobs_finished_total{outcome="cancelled"}'] == 3
    waited = [name for name in values if name.startswith("streamer_job_wait_seconds")]
    assert waited == [], "they never had a worker"
    assert values["streamer_waiting_bytes"] == 0 < values["streamer_record_bytes"]


async def test_the_metrics_tell_how_long_jobs_wait_and_run(start: Start) -> None:
    client = await start(queue={"concurrency": 1})
    code = "import sys\nsys.stdin.read()\nprint('out')"
    first = await submit(client, **python(code, interactive=True))
    await until_state(client, first, "running")
    second = await submit(client, command=["true"])
    await asyncio.sleep(0.3)  # each takes at least this long
    async with client.post(f"/api/jobs/{first}/stdin?close=1"):
        pass
    await follow(client, first)
    await follow(client, second)
    values = await metrics_of(client, finished=2)
    for part, labels in (
        ("wait", 'language="command",tenant=""'),
        ("run", 'language="python",reason="exited"'),
        ("first_output", 'language="python"'),
    ):
        name = f"streamer_job_{part}_seconds"
        buckets = [
            value for key, value in values.items() if key.startswith(f"{name}_bucket{{{labels}")
        ]
        assert buckets == sorted(buckets), "each holds those before it"
        assert values[f"{name}_count{{{labels}}}"] == buckets[-1] == 1
        assert values[f'{name}_bucket{{{labels},le="0.25"}}'] == 0
        assert values[f"{name}_sum{{{labels}}}"] >= 0.3


async def test_metrics_that_are_off_are_not_there(start: Start) -> None:
    client = await start(metrics={"enabled": False})
    async with client.get("/metrics") as response:
        await problem(response, 404, "not_found")
