"""Jobs that are run again: what a reader gets, and what is left of the lost attempt."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conftest import Start
from tests.redisserver import RedisServer
from tests.support import AnyClient, follow, parts_of, received, submit, text, verdict
from tests.web import SLEEPER, lose_worker, problem, python, until_output, until_state
from tests.web.conftest import InRedis

pytestmark = pytest.mark.memory_engine("its engines are its own")

ASKS = "print('asks', flush=True)\nimport sys\nsys.exit(len(input()))"


async def answer(client: AnyClient, job_id: str, line: bytes) -> None:
    async with client.post(f"/api/jobs/{job_id}/stdin?close=1", data=line) as response:
        assert response.status == 202


async def document(client: AnyClient, job_id: str) -> dict[str, Any]:
    async with client.get(f"/api/jobs/{job_id}") as response:
        found: dict[str, Any] = await response.json()
        return found


async def test_a_job_is_run_again_from_the_start(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python(ASKS, interactive=True, retry=1))
    async with client.get(f"/api/stream/{job_id}") as response:
        events = received(response)
        await until_output(events, "asks\n")
        await lose_worker(client, job_id)
        async for event in events:
            if "attempt" in event.data:
                break
        assert event.kind == "status"
        assert event.data.items() >= {"state": "queued", "attempt": 2}.items()
        assert event.data["reason"] == "worker_lost"
        await until_output(events, "asks\n")
        response.close()
    assert (await document(client, job_id))["stdout"] == "asks\n"
    await answer(client, job_id, b"four\n")
    whole = await follow(client, job_id)
    assert [one.id for one in whole] == list(range(1, len(whole) + 1))
    assert await follow(client, job_id, after=event.id) == whole[event.id :]
    assert text(whole) == "asks\nasks\n"
    end = verdict(whole)
    assert (end["exitCode"], end["attempts"], end["outputBytes"]) == (4, 2, 5)
    result = (await document(client, job_id))["result"]
    assert (result["stdout"], result["attempts"]) == ("asks\n", 2)
    async with client.get(f"/api/jobs/{job_id}/output/stdout") as response:
        assert await response.text() == "asks\nasks\n"


async def test_a_long_output_of_the_lost_attempt_is_not_the_result(start: Start) -> None:
    client = await start(streams={"result_text_bytes": 1000})
    code = "print('x' * 5000, flush=True)\nprint(len(input()))"
    job_id = await submit(client, **python(code, interactive=True, retry=1))
    async with client.get(f"/api/stream/{job_id}") as response:
        await until_output(received(response), "xxx\n")
        response.close()
    assert (await document(client, job_id))["stdoutTruncated"]
    await lose_worker(client, job_id)
    assert (await document(client, job_id))["stdout"] == ""
    await answer(client, job_id, b"four\n")
    await follow(client, job_id)
    result = (await document(client, job_id))["result"]
    assert (len(result["stdout"]), result["stdoutTruncated"]) == (1000, True)


async def test_cases_and_files_are_those_of_the_last_attempt(start: Start) -> None:
    client = await start()
    cases = [{"stdin": "1"}, {"stdin": "60"}]
    code = "import time\ntime.sleep(int(input()) - 1)\nprint('case')"
    job_id = await submit(client, **python(code, cases=cases, retry=1))
    async with client.get(f"/api/stream/{job_id}") as response:
        events = received(response)
        async for event in events:
            if event.kind == "case":
                break
        await lose_worker(client, job_id)
        async for event in events:
            if event.kind == "case":
                break
        response.close()
    async with client.delete(f"/api/jobs/{job_id}") as response:
        assert response.status == 202
    end = verdict(await follow(client, job_id))
    assert end["attempts"] == 2
    assert [case["index"] for case in end["cases"]] == [0, 1]
    [first, second] = (await document(client, job_id))["result"]["cases"]
    assert (first["stdout"], second["stdout"]) == ("case\n", "")


async def test_a_job_without_retry_is_not_run_again(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **SLEEPER)
    await until_state(client, job_id, "running")
    await lose_worker(client, job_id)
    assert verdict(await follow(client, job_id))["code"] == "worker_lost"


async def test_no_session_is_run_again_elsewhere(start: Start) -> None:
    client = await start()
    async with client.post("/api/sessions", json={}) as response:
        session_id = (await response.json())["sessionId"]
    job = {**SLEEPER, "sessionId": session_id, "retry": 1}
    async with client.post("/api/execute", json=job) as response:
        assert (await problem(response, 400, "invalid_request"))["path"] == "$.retry"


async def test_a_service_that_stops_gives_back_what_it_may(
    start: Start, redis: RedisServer
) -> None:
    shared = InRedis(redis.url())
    one = await start(plugins=(shared,))
    once, again = await submit(one, **SLEEPER), await submit(one, **SLEEPER, retry=1)
    for job_id in (once, again):
        await until_state(one, job_id, "running")
    stuck = asyncio.Event()

    async def lend(*_: object, **__: object) -> None:
        stuck.set()
        await asyncio.Event().wait()

    pool = parts_of(one).worker.pool
    assert pool is not None
    pool.lend = lend  # type: ignore[method-assign, assignment]
    unbegun = await submit(one, **python("print('elsewhere')"))
    await stuck.wait()
    other = await start(plugins=(shared,))
    await one.server.close()
    assert verdict(await follow(other, once))["code"] == "shutting_down"
    told = await follow(other, unbegun)
    assert text(told) == "elsewhere\n"
    given_back = [event for event in told if event.data.get("reason") == "shutting_down"]
    assert [event.data.get("attempt") for event in given_back] == [None]
    assert "attempts" not in verdict(told)
    await until_state(other, again, "running")
    async with other.delete(f"/api/jobs/{again}") as response:
        assert response.status == 202
    end = verdict(await follow(other, again))
    assert (end["reason"], end["attempts"]) == ("cancelled", 2)
