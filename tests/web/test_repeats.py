"""A submission repeated with its idempotency key: a retry, a reconnect, or too late."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import ClientResponse

from streamer.web.app import LIFETIME, SERVICE
from tests.conftest import Start
from tests.support import AnyClient, Received, follow, received, submit, text
from tests.web import SLEEPER, problem, python, until_state

STREAM = {"Accept": "text/event-stream"}


def post(client: AnyClient, job: dict[str, Any], key: str, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/api/execute", json=job, headers={"Idempotency-Key": key, **named})


async def stream(response: ClientResponse) -> list[Received]:
    assert response.status == 200, await response.text()
    return [event async for event in received(response)]


async def test_a_repeated_submission_tells_how_far_the_first_is(start: Start) -> None:
    client = await start(queue={"concurrency": 1})
    answers = []

    async def again(job: dict[str, Any], key: str) -> dict[str, Any]:
        async with post(client, job, key) as response:
            assert response.status == 202
            answers.append(response.headers.get("Idempotency-Replayed"))
            document: dict[str, Any] = await response.json()
            return document

    first = await again(SLEEPER, "a")
    await until_state(client, first["jobId"], "running")
    second = await again(SLEEPER, "b")
    assert [(await again(SLEEPER, key))["status"] for key in "ab"] == ["running", "queued"]
    for job in (second, first):
        async with client.delete(job["links"]["cancel"]) as response:
            assert response.status == 202
        await follow(client, job["jobId"])
    assert await again(SLEEPER, "a") == {**first, "status": "complete"}
    assert answers == [None, None, "true", "true", "true"]


async def test_a_repeated_submission_is_answered_while_the_service_drains(start: Start) -> None:
    client = await start()
    async with post(client, SLEEPER, "a") as response:
        first = (await response.json())["jobId"]
    await until_state(client, first, "running")
    draining = asyncio.create_task(client.app[LIFETIME].drain(60))
    async with post(client, SLEEPER, "b") as response:
        await problem(response, 503, "shutting_down")
    async with post(client, SLEEPER, "a") as response:
        assert response.status == 202
        assert (await response.json()) | {"links": {}} == {
            "jobId": first,
            "status": "running",
            "links": {},
        }
    async with client.delete(f"/api/jobs/{first}") as response:
        assert response.status == 202
    await draining


async def test_no_new_job_is_taken_once_the_service_stops_though_its_engine_does_not(
    start: Start,
) -> None:
    client = await start()
    async with post(client, SLEEPER, "a") as response:
        first = (await response.json())["jobId"]
    client.app[SERVICE].draining.set()  # as before the engine is told to drain
    async with post(client, SLEEPER, "b") as response:
        await problem(response, 503, "shutting_down")
    async with post(client, SLEEPER, "a") as response:
        assert (response.status, (await response.json())["jobId"]) == (202, first)


async def test_a_repeated_streaming_submission_resumes_as_a_get_does(start: Start) -> None:
    client = await start()
    job = {"language": "bash", "code": "echo 1; echo 2"}
    async with post(client, job, "k1", **STREAM) as response:
        assert "Idempotency-Replayed" not in response.headers
        whole = await stream(response)
        job_id = response.headers["X-Job-Id"]
    assert text(whole) == "1\n2\n"
    for after in (0, 1, 2, len(whole) - 1, 10**9, "x"):
        async with post(client, job, "k1", **STREAM, Last_Event_ID=str(after)) as response:
            assert response.headers["X-Job-Id"] == job_id
            assert response.headers["Idempotency-Replayed"] == "true"
            rest = await stream(response)
        assert rest == (whole[after:] if isinstance(after, int) and after < 10**9 else whole)
    async with post(client, job, "k1", **STREAM, Last_Event_ID=str(len(whole))) as response:
        assert response.status == 204
        assert response.headers["X-Job-Id"] == job_id


async def test_a_submission_that_comes_again_too_late_does_not_run_again(start: Start) -> None:
    client = await start()
    job = python("print(1)")
    async with post(client, job, "k") as response:
        job_id = (await response.json())["jobId"]
    await follow(client, job_id)
    async with client.delete(f"/api/jobs/{job_id}?purge=1") as response:
        assert response.status == 204
    for headers in ({}, STREAM):
        async with post(client, job, "k", **headers) as response:
            await problem(response, 410, "gone")
    async with post(client, python("print(2)"), "k") as response:
        await problem(response, 409, "conflict")
    async with client.get("/api/jobs") as response:
        assert (await response.json())["jobs"] == []


async def test_a_streaming_client_that_is_cut_and_comes_back_misses_nothing(start: Start) -> None:
    client = await start()
    job = python("import sys\nfor line in sys.stdin: print(line, end='', flush=True)")
    job["interactive"] = True
    seen: list[Received] = []
    async with post(client, job, "k", **STREAM) as response:
        job_id = response.headers["X-Job-Id"]
        async with client.post(f"/api/jobs/{job_id}/stdin", data=b"one\n"):
            pass
        async for event in received(response):
            seen.append(event)
            if event.kind == "output":
                break
        response.close()
    async with client.post(f"/api/jobs/{job_id}/stdin?close=1", data=b"two\n"):
        pass
    async with post(client, job, "k", **STREAM, Last_Event_ID=str(seen[-1].id)) as response:
        seen += await stream(response)
    assert [event.id for event in seen] == list(range(1, len(seen) + 1))
    assert text(seen) == "one\ntwo\n"


async def test_a_first_submission_is_told_from_its_beginning(start: Start) -> None:
    # The id is of another job, whose key or record is gone.
    client = await start()
    async with post(client, python("print(1)"), "k", **STREAM, Last_Event_ID="1") as response:
        assert text(await stream(response)) == "1\n"


async def test_where_no_stream_can_be_opened_no_job_is_left_behind(start: Start) -> None:
    client = await start(streams={"max_readers": 1})
    open_one = await submit(client, **SLEEPER)
    async with client.get(f"/api/stream/{open_one}") as response:
        await anext(received(response))
        for _ in range(3):
            async with client.post("/api/execute", json=SLEEPER, headers=STREAM) as refused:
                await problem(refused, 429, "rate_limited")
                assert int(refused.headers["Retry-After"]) >= 1
    async with client.get("/api/jobs") as response:
        assert [job["jobId"] for job in (await response.json())["jobs"]] == [open_one]


async def test_a_job_that_was_accepted_is_named_though_it_cannot_be_followed(start: Start) -> None:
    client = await start(streams={"max_readers_per_job": 1})
    async with post(client, SLEEPER, "k", **STREAM) as response:
        job_id = response.headers["X-Job-Id"]
        await anext(received(response))
        async with post(client, SLEEPER, "k", **STREAM) as second:
            assert second.status == 202
            assert second.headers["X-Job-Id"] == job_id
            assert second.headers["Location"] == f"/api/jobs/{job_id}"
            assert (await second.json())["jobId"] == job_id
