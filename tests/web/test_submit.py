"""POST /api/execute: answers at once, with a stream, or after a wait; one job for one key."""

from __future__ import annotations

import asyncio
import gc
import time
from datetime import datetime

import pytest

from streamer.model.job import JobSpec
from tests.conftest import Start
from tests.support import follow, received, run, submit, text, verdict
from tests.web import SLEEPER, problem, python, until_state


async def test_answers_202_with_the_id_and_where_to_look(start: Start) -> None:
    client = await start()
    async with client.post("/api/execute", json=python("print(1)")) as response:
        body = await response.json()
        assert response.status == 202
        assert response.headers["Location"] == f"/api/jobs/{body['jobId']}"
        assert response.headers["X-Job-Id"] == body["jobId"]
    job_id = body["jobId"]
    assert body == {
        "jobId": job_id,
        "status": "queued",
        "links": {
            "job": f"/api/jobs/{job_id}",
            "stream": f"/api/stream/{job_id}",
            "stdin": f"/api/jobs/{job_id}/stdin",
            "signal": f"/api/jobs/{job_id}/signal",
            "cancel": f"/api/jobs/{job_id}",
            "output": f"/api/jobs/{job_id}/output/stdout",
            "cast": f"/api/jobs/{job_id}/cast",
            "files": f"/api/jobs/{job_id}/files",
        },
    }
    assert text(await follow(client, job_id)) == "1\n"


async def test_answers_at_once_behind_a_queue_of_sleepers(start: Start) -> None:
    client = await start(queue={"concurrency": 1})
    jobs = [await submit(client, **SLEEPER)]
    await until_state(client, jobs[0], "running")
    took = []
    for _ in range(20):
        began = time.perf_counter()
        jobs.append(await submit(client, **SLEEPER))
        took.append(time.perf_counter() - began)
    # If it waited for a job to end, not one of these requests would be answered.
    assert sorted(took)[10] < 1
    async with client.get("/api/queue") as response:
        queue = await response.json()
    assert (queue["running"], queue["waiting"], queue["capacity"]) == (1, 20, 1)
    async with client.get(f"/api/jobs/{jobs[-1]}") as response:
        assert (await response.json())["status"] == "queued"


async def test_a_waiting_job_tells_its_place(start: Start) -> None:
    client = await start(queue={"concurrency": 1})
    await until_state(client, await submit(client, **SLEEPER), "running")
    for place in (1, 2, 3):
        job_id = await submit(client, **SLEEPER)
        async with client.get(f"/api/stream/{job_id}") as response:
            first = await anext(received(response))
        assert first.kind == "status"
        assert first.data["state"] == "queued"
        assert first.data["position"] == place
        assert first.data["jobId"] == job_id


async def test_accept_event_stream_answers_with_the_stream_itself(start: Start) -> None:
    client = await start()
    headers = {"Accept": "text/event-stream"}
    async with client.post("/api/execute", json=python("print(1)"), headers=headers) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        events = [event async for event in received(response)]
    assert events[0].data["jobId"] == response.headers["X-Job-Id"]
    assert text(events) == "1\n"
    assert verdict(events)["exitCode"] == 0
    # It is the same log that all other readers get.
    assert await follow(client, response.headers["X-Job-Id"]) == events


async def test_a_refusal_stays_a_problem_when_a_stream_was_asked_for(start: Start) -> None:
    client = await start()
    headers = {"Accept": "text/event-stream"}
    async with client.post("/api/execute", json={}, headers=headers) as response:
        await problem(response, 400, "invalid_request")


async def test_the_job_goes_on_when_the_client_of_its_post_leaves(start: Start) -> None:
    client = await start()
    code = "import sys\nprint('ready', flush=True)\nprint('got', sys.stdin.read())"
    async with client.post(
        "/api/execute",
        json=python(code, interactive=True),
        headers={"Accept": "text/event-stream"},
    ) as response:
        job_id = response.headers["X-Job-Id"]
        async for event in received(response):
            if event.kind == "output":
                break
        response.close()
    async with client.post(f"/api/jobs/{job_id}/stdin?close=1", data=b"it") as answer:
        assert answer.status == 202
    assert text(await follow(client, job_id)) == "ready\ngot it\n"


async def test_prefer_wait_answers_with_the_result(start: Start) -> None:
    client = await start()
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    headers = {"Prefer": "respond-async, wait=60"}
    job = python(code, metadata={"k": "v"}, interactive=True, limits={"wallTimeS": 7})
    async with client.post("/api/execute", json=job, headers=headers) as response:
        assert response.status == 200
        document = await response.json()
        assert response.headers["Location"] == document["links"]["job"]
    assert document["status"] == "complete"
    assert document["metadata"] == {"k": "v"}
    assert document["result"]["exitCode"] == 3
    assert (document["result"]["stdout"], document["result"]["stderr"]) == ("out\n", "err\n")
    assert not document["result"]["stdoutTruncated"]
    assert document["createdAt"] <= document["startedAt"] <= document["finishedAt"]
    kept = datetime.fromisoformat(document["expiresAt"]) - datetime.fromisoformat(
        document["finishedAt"]
    )
    assert kept.total_seconds() == 600
    assert (document["interactive"], document["terminal"]) == (True, None)
    assert document["limits"].items() >= {"wallTimeS": 7, "memoryBytes": 256 * 2**20}.items()
    assert not {"stdout", "stderr"} & document.keys(), "the text is there once, in the result"
    async with client.get(document["links"]["job"]) as response:
        assert await response.json() == document


async def test_prefer_wait_answers_202_when_the_job_is_not_over(start: Start) -> None:
    client = await start()
    for wait in ("wait=0", "wait=1"):
        async with client.post("/api/execute", json=SLEEPER, headers={"Prefer": wait}) as response:
            assert response.status == 202
            assert (await response.json())["status"] == "queued"


async def test_a_long_text_is_cut_in_the_result_and_flagged(start: Start) -> None:
    client = await start(streams={"result_text_bytes": 10})
    job = python("print('é' * 100, end='')")
    async with client.post("/api/execute", json=job, headers={"Prefer": "wait=60"}) as response:
        result = (await response.json())["result"]
    assert result["stdout"] == "é" * 5
    assert result["stdoutTruncated"]
    assert not result["stderrTruncated"]
    assert result["outputBytes"] == 200


async def test_a_repeated_idempotency_key_is_the_first_job(start: Start) -> None:
    client = await start()

    async def post(key: str, code: str) -> str:
        headers = {"Idempotency-Key": key}
        async with client.post("/api/execute", json=python(code), headers=headers) as response:
            assert response.status == 202
            return str((await response.json())["jobId"])

    first = await post("a", "print(1)")
    assert {await post("a", "print(1)") for _ in range(3)} == {first}
    together = await asyncio.gather(*(post("c", "print(3)") for _ in range(10)))
    assert len(set(together)) == 1
    await follow(client, first)
    assert await post("a", "print(1)") == first  # over, and still the same
    assert await post("b", "print(1)") != first
    headers = {"Idempotency-Key": "a"}
    async with client.post("/api/execute", json=python("print(2)"), headers=headers) as response:
        await problem(response, 409, "conflict")
    for key in ("", "x" * 256):
        headers = {"Idempotency-Key": key}
        async with client.post("/api/execute", json=python("1"), headers=headers) as response:
            await problem(response, 400, "invalid_request")


async def test_a_job_gets_what_its_submission_says(start: Start) -> None:
    client = await start()
    code = (
        "import os, sys\n"
        "print(sys.argv[1:], os.environ['A'], os.environ.get('HTTP_PROXY'))\n"
        "print(open('data/x.bin', 'rb').read(), oct(os.stat('run.sh').st_mode & 0o777))\n"
        "print(sys.stdin.read())\n"
    )
    events = await run(
        client,
        language="python",
        entry="src/start.py",
        files=[
            {"name": "src/start.py", "content": code},
            {"name": "data/x.bin", "content": "AAH/", "encoding": "base64"},
            {"name": "run.sh", "content": "echo", "mode": "0755"},
        ],
        args=["--x", "two words", ""],
        env={"A": "b c"},
        stdin="given",
    )
    assert text(events, "stderr") == ""
    assert text(events).splitlines() == [
        "['--x', 'two words', ''] b c None",
        r"b'\x00\x01\xff' 0o755",
        "given",
    ]


async def test_lists_the_jobs_newest_first_page_by_page(start: Start) -> None:
    client = await start()
    jobs = [await submit(client, command=["true"]) for _ in range(5)]
    for job_id in jobs:
        await follow(client, job_id)
    found: list[str] = []
    cursor = ""
    while True:
        query = {"limit": "2", "status": "complete"} | ({"cursor": cursor} if cursor else {})
        async with client.get("/api/jobs", params=query) as response:
            page = await response.json()
        found += [job["jobId"] for job in page["jobs"]]
        if page["nextCursor"] is None:
            break
        cursor = page["nextCursor"]
    assert found == jobs[::-1]
    async with client.get("/api/jobs?status=running") as response:
        assert (await response.json())["jobs"] == []
    for query in ({"limit": "0"}, {"limit": "-1"}, {"limit": "1e3"}, {"status": "gone"}):
        async with client.get("/api/jobs", params=query) as response:
            assert (await problem(response, 400, "invalid_request"))[
                "path"
            ] == f"?{next(iter(query))}"


async def test_a_size_in_a_request_may_have_a_unit(start: Start) -> None:
    client = await start()
    program = "import resource\nprint(resource.getrlimit(resource.RLIMIT_FSIZE)[0])"
    for size, expected in (("1.5MiB", 3 * 2**19), ("2MB", 2_000_000), (4096, 4096)):
        events = await run(client, **python(program, limits={"fileBytes": size}))
        assert int(text(events)) == expected


async def test_who_waits_is_told_what_each_case_has_written(start: Start) -> None:
    client = await start()
    code = "import sys; n = input(); print('got', n); sys.exit(f'no {n}' if n == '2' else 0)"
    body = {"language": "python", "code": code, "cases": [{"stdin": n} for n in "123"]}
    async with client.post("/api/execute", json=body, headers={"Prefer": "wait=60"}) as response:
        result = (await response.json())["result"]
    assert result["stdout"] == "got 1\ngot 2\ngot 3\n"
    told = [(case["stdout"], case["stderr"], case["exitCode"]) for case in result["cases"]]
    assert told == [("got 1\n", "", 0), ("got 2\n", "no 2\n", 1), ("got 3\n", "", 0)]


@pytest.mark.memory_engine("what is found out before it, and what it refuses itself")
@pytest.mark.parametrize("batch", [False, True], ids=["alone", "batch"])
async def test_nothing_of_a_refused_job_waits_for_the_garbage_collector(
    start: Start,
    batch: bool,  # noqa: FBT001
) -> None:
    client = await start(queue={"concurrency": 1, "max_waiting": 1})
    await until_state(client, await submit(client, **SLEEPER), "running")
    await submit(client, **SLEEPER)
    refused = [
        {"language": "klingon", "code": ""},
        {**python("1"), "metadata": {str(number): "" for number in range(1000)}},
        {**python("1"), "projectId": "a" * 26},
        {**python("1"), "sessionId": "a" * 26},
        SLEEPER,
    ]
    gc.collect()
    gc.disable()
    try:
        before = _described()
        for job in refused:
            for headers in ({}, {"Idempotency-Key": "k"}):
                path, body = ("/api/execute/batch", [job] * 2) if batch else ("/api/execute", job)
                async with client.post(path, json=body, headers=headers) as response:
                    told = await response.json()
                for one in told if batch else [told]:
                    assert one["status"] in (400, 404, 429), one
        assert _described() == before
    finally:
        gc.enable()


def _described() -> int:
    return sum(isinstance(one, JobSpec) for one in gc.get_objects())
