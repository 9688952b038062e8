"""POST /api/execute/batch: several submissions in one request, each as if it came alone."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from typing import Any

import pytest

from streamer.errors import Busy
from streamer.jobs.job import Job
from streamer.web.app import LIFETIME
from tests.conftest import Start
from tests.support import AnyClient, follow, parts_of, text, verdict
from tests.web import SLEEPER, problem, python, until_state

BATCH = "/api/execute/batch"


async def submitted(client: AnyClient, *jobs: Any, **headers: str) -> list[dict[str, Any]]:
    """Submit jobs at once, and return what came of each."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.post(BATCH, json=jobs, headers=sent) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "application/json"
        told: list[dict[str, Any]] = await response.json()
    assert len(told) == len(jobs)
    return told


async def test_each_is_accepted_in_its_place(start: Start) -> None:
    client = await start()
    told = await submitted(client, *(python(f"print({n})") for n in range(5)))
    for number, one in enumerate(told):
        assert one["status"] == "queued"
        assert one["links"]["job"] == f"/api/jobs/{one['jobId']}"
        assert text(await follow(client, one["jobId"])) == f"{number}\n"
    async with client.get("/api/jobs") as response:
        listed = [job["jobId"] for job in (await response.json())["jobs"]]
    assert listed == [one["jobId"] for one in reversed(told)]


async def test_what_one_is_answered_is_what_it_would_be_alone(start: Start) -> None:
    client = await start()
    wrong: list[Any] = [
        python("1", limits={"wallTimeS": -1}),
        {"language": "klingon", "code": ""},
        python("1", nonsense=1),
        {},
        python("1", network=True),
        python("1", sessionId="none"),
        None,
        [],
        5,
    ]
    jobs = [python("print(1)"), *wrong, python("print(2)")]
    first, *refused, last = await submitted(client, *jobs)
    assert text(await follow(client, first["jobId"])) == "1\n"
    assert text(await follow(client, last["jobId"])) == "2\n"
    for number, (job, told) in enumerate(zip(wrong, refused, strict=True), 1):
        async with client.post("/api/execute", data=json.dumps(job)) as response:
            alone = await response.json()
            assert response.status == told["status"]
        # A place is one in the body of the request.
        if "path" in alone:
            alone["path"] = alone["path"].replace("$", f"$[{number}]", 1)
        assert told == alone


async def test_what_is_no_such_array_is_refused_as_a_whole(start: Start) -> None:
    client = await start(server={"max_body_bytes": 20_000})
    for body, code in (
        (b"", "invalid_json"),
        (b'[{"language": "python"', "invalid_json"),
        (b"[{} {}]", "invalid_json"),
        (b"{}", "invalid_request"),
        (b"null", "invalid_request"),
        (json.dumps([python("1")] * 101).encode(), "invalid_request"),
    ):
        async with client.post(BATCH, data=body) as response:
            document = await problem(response, 400, code)
    assert document["detail"] == "too many jobs: 100 at most"
    assert document["path"] == "$"
    async with client.post(BATCH, json=[python("#" * 15_000)] * 2) as response:
        await problem(response, 413, "payload_too_large")
    async with client.post(f"{BATCH}?wait=1", json=[]) as response:
        await problem(response, 400, "invalid_request")
    async with client.get("/api/jobs") as response:
        assert (await response.json())["jobs"] == []
    assert await submitted(client) == []


async def test_ten_thousand_of_them_are_refused_at_the_first_too_many(start: Start) -> None:
    client = await start()
    body = gzip.compress(b"[" + b"{}," * 1_000_000 + b"{}]")
    headers = {"Content-Encoding": "gzip"}
    async with client.post(BATCH, data=body, headers=headers) as response:
        await problem(response, 400, "invalid_request")


async def test_invalid_text_in_one_does_not_refuse_the_others(start: Start) -> None:
    client = await start()
    body = b'[{"language":"python","code":"\xff"},{"language":"python","code":"print(1)"}]'
    async with client.post(BATCH, data=body) as response:
        assert response.status == 200
        wrong, right = await response.json()
    assert (wrong["status"], wrong["code"]) == (400, "invalid_json")
    assert verdict(await follow(client, right["jobId"]))["exitCode"] == 0


async def test_a_repeated_batch_returns_the_same_jobs(start: Start) -> None:
    client = await start()
    jobs = [python("print(1)"), python("print(1)")]
    first = await submitted(client, *jobs, Idempotency_Key="k")
    assert first[0]["jobId"] != first[1]["jobId"]
    for one in first:
        await follow(client, one["jobId"])
    again = await submitted(client, *jobs, Idempotency_Key="k")
    assert [one["jobId"] for one in again] == [one["jobId"] for one in first]
    assert [one["status"] for one in again] == ["complete"] * 2
    # Each has a key of its own.
    more = await submitted(client, jobs[0], python("print(2)"), jobs[0], Idempotency_Key="k")
    assert more[0]["jobId"] == first[0]["jobId"]
    assert (more[1]["status"], more[1]["code"]) == (409, "conflict")
    assert more[2]["jobId"] not in {one["jobId"] for one in first}
    for key in ("k", "k0"):
        headers = {"Idempotency-Key": key}
        async with client.post("/api/execute", json=jobs[0], headers=headers) as other:
            other_id = (await other.json())["jobId"]
        assert other_id not in {one["jobId"] for one in more[:1] + more[2:]}
    async with client.post(BATCH, json=jobs, headers={"Idempotency-Key": "k" * 256}) as response:
        await problem(response, 400, "invalid_request")


async def test_each_counts_in_the_queue_and_those_without_room_may_be_repeated(
    start: Start,
) -> None:
    client = await start(queue={"concurrency": 1, "max_waiting": 2})
    (running,) = await submitted(client, SLEEPER)
    await until_state(client, running["jobId"], "running")
    jobs = [SLEEPER, {"language": "klingon"}, SLEEPER, SLEEPER]
    key = {"Idempotency-Key": "k"}
    async with client.post(BATCH, json=jobs, headers=key) as response:
        assert response.status == 200
        assert int(response.headers["Retry-After"]) >= 1
        told = await response.json()
    assert [one["status"] for one in told] == ["queued", 400, "queued", 429]
    assert told[3]["code"] == "queue_full"
    async with client.delete(f"/api/jobs/{told[0]['jobId']}") as response:
        assert response.status == 202
    again = await submitted(client, *jobs, Idempotency_Key="k")
    assert [one["status"] for one in again] == ["complete", 400, "queued", "queued"]
    assert again[2]["jobId"] == told[2]["jobId"]


@pytest.mark.memory_engine("what is raised before it")
async def test_it_is_repeated_when_all_of_them_may_find_room(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await start()
    pauses = iter([9.0, 10.0, 5.0])

    async def full(*_: Any, **__: Any) -> Job:
        raise Busy("full", retry_after_s=next(pauses))

    monkeypatch.setattr(parts_of(client).jobs, "accept", full)
    async with client.post(BATCH, json=[python("1")] * 3) as response:
        assert response.headers["Retry-After"] == "10"


async def test_each_counts_as_its_tenants(start: Start) -> None:
    tokens = [
        {"tenant": name, "sha256": hashlib.sha256(name.encode()).hexdigest()} for name in "ab"
    ]
    client = await start(
        auth={"tokens": tokens}, queue={"concurrency": 1, "max_waiting": 9, "max_per_client": 2}
    )
    told = await submitted(client, *[SLEEPER] * 5, Authorization="Bearer a")
    refused = [one for one in told if "code" in one]
    assert {one["code"] for one in refused} == {"rate_limited"}
    assert 1 <= len(refused) < 5
    (other,) = await submitted(client, SLEEPER, Authorization="Bearer b")
    assert other["status"] == "queued"
    async with client.get(
        f"/api/jobs/{other['jobId']}", headers={"Authorization": "Bearer a"}
    ) as r:
        assert r.status == 404
    async with client.post(BATCH, json=[SLEEPER]) as response:
        await problem(response, 401, "unauthorized")


async def test_while_the_service_stops_each_is_told_so(start: Start) -> None:
    client = await start()
    (first,) = await submitted(client, python("print(1)"), Idempotency_Key="k")
    await follow(client, first["jobId"])
    await client.app[LIFETIME].drain(0)
    again, new = await submitted(client, python("print(1)"), python("2"), Idempotency_Key="k")
    assert again["jobId"] == first["jobId"]
    assert (new["status"], new["code"]) == (503, "shutting_down")


@pytest.mark.memory_engine("what is raised before it")
async def test_a_failure_of_ours_is_told_of_the_one_that_met_it(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = await start()
    jobs = parts_of(client).jobs
    accept = jobs.accept

    async def failing(spec: Any, **options: Any) -> Job:
        if spec.code == "fail":
            raise RuntimeError("a secret of the host")
        return await accept(spec, **options)

    monkeypatch.setattr(jobs, "accept", failing)
    wrong, right = await submitted(client, python("fail"), python("print(1)"))
    assert (wrong["status"], wrong["code"]) == (500, "internal")
    assert "secret" not in json.dumps(wrong)
    assert "a secret of the host" in caplog.text
    assert verdict(await follow(client, right["jobId"]))["exitCode"] == 0


@pytest.mark.memory_engine("the loop of the half that accepts jobs")
async def test_others_have_their_turn_between_two_submissions(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await start()
    jobs = parts_of(client).jobs
    accept = jobs.accept
    loop = asyncio.get_running_loop()
    turns = 0
    seen: list[int] = []

    def tick() -> None:
        nonlocal turns
        turns += 1
        if not over:
            loop.call_soon(tick)

    async def noting(spec: Any, **options: Any) -> Job:
        seen.append(turns)
        return await accept(spec, **options)

    over = False
    monkeypatch.setattr(jobs, "accept", noting)
    tick()
    await submitted(client, *[python("#" * 10_000)] * 20)
    over = True
    assert len({*seen}) == 20
