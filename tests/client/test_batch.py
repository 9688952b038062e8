"""`Client.batch`: several jobs with one request, and what of them is sent again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import streamer
from streamer import JobSpec, ServiceProblem
from tests.conftest import Start
from tests.support import AnyClient
from tests.web import SLEEPER

pytestmark = pytest.mark.memory_engine("what is sent does not depend on it")

PRINTS = JobSpec(language="python", code="print(1)")


def address(client: AnyClient) -> str:
    return str(client.make_url("/"))


@asynccontextmanager
async def answering(answer: Callable[[list[Any]], web.Response]) -> AsyncIterator[str]:
    """Serve batches with what a function makes of them."""

    async def handle(request: web.Request) -> web.Response:
        return answer(await request.json())

    app = web.Application()
    app.router.add_post("/api/execute/batch", handle)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


async def test_each_has_its_id_or_its_reason(start: Start) -> None:
    service = await start()
    async with streamer.Client(address(service)) as client:
        first, wrong, last = await client.batch(
            [
                PRINTS,
                {"language": "klingon", "code": ""},
                {"language": "python", "code": "print(3)"},
            ]
        )
        assert isinstance(wrong, ServiceProblem)
        assert (wrong.status, wrong.code, wrong.path) == (400, "unknown_language", "$[1].language")
        printed = []
        for job_id in (first, last):
            assert isinstance(job_id, str)
            end = [event async for event in client.events(job_id)][-1]
            assert end.kind == "complete"
            printed.append((await client.job(job_id))["result"]["stdout"])
        assert printed == ["1\n", "3\n"]
        assert await client.batch([]) == []


async def test_the_same_key_means_the_same_jobs(start: Start) -> None:
    service = await start()
    async with streamer.Client(address(service)) as client:
        first = await client.batch([PRINTS, PRINTS], idempotency_key="k")
        assert await client.batch([PRINTS, PRINTS], idempotency_key="k") == first
        assert await client.batch([PRINTS, PRINTS]) != first
        assert len({*first}) == 2


async def test_what_found_no_place_is_submitted_again(start: Start) -> None:
    service = await start(queue={"concurrency": 1, "max_waiting": 1})
    async with streamer.Client(address(service), retries=50) as client:
        (running,) = await client.batch([SLEEPER])
        assert isinstance(running, str)
        async for event in client.events(running):
            if getattr(event.data, "state", "") == "running":
                break
        batch = asyncio.create_task(client.batch([PRINTS, PRINTS]))
        while len([job async for job in client.jobs()]) < 2:
            pass
        await client.cancel(running)
        ids = await batch
        assert all(isinstance(one, str) for one in ids)
        assert len([job async for job in client.jobs()]) == 3


async def test_it_gives_up_after_its_retries() -> None:
    asked: list[int] = []

    def full(jobs: list[Any]) -> web.Response:
        asked.append(len(jobs))
        refusal = {"status": 429, "code": "queue_full", "title": "Busy", "detail": "full"}
        accepted = {"jobId": "one", "status": "queued", "links": {}}
        return web.json_response([accepted, refusal], headers={"Retry-After": "0"})

    async with answering(full) as url, streamer.Client(url, retries=1) as client:
        accepted, refused = await client.batch([PRINTS, PRINTS])
    assert asked == [2, 2]
    assert accepted == "one"
    assert isinstance(refused, ServiceProblem)
    assert (refused.code, refused.retry_after) == ("queue_full", 0)


@pytest.mark.parametrize(
    ("status", "code", "pause"),
    [(503, "sandbox_unavailable", "0"), (429, "queue_full", "61"), (400, "invalid_request", "0")],
)
async def test_what_would_be_refused_again_is_not_submitted_again(
    status: int, code: str, pause: str
) -> None:
    asked = []

    def refuse(jobs: list[Any]) -> web.Response:
        asked.append(len(jobs))
        refusal = {"status": status, "code": code, "title": "No", "detail": "no"}
        return web.json_response([refusal], headers={"Retry-After": pause})

    async with answering(refuse) as url, streamer.Client(url, retries=1) as client:
        (refused,) = await client.batch([PRINTS])
    assert asked == [1]
    assert isinstance(refused, ServiceProblem)
    assert refused.code == code


async def test_what_is_known_remains_if_it_cannot_be_submitted_again() -> None:
    accepted = {"jobId": "one", "status": "queued", "links": {}}
    refusal = {"status": 429, "code": "queue_full", "title": "Busy", "detail": "full"}
    gone = {"status": 410, "code": "gone", "title": "Gone", "detail": "no longer kept"}
    for later in (
        web.json_response([gone, refusal], headers={"Retry-After": "0"}),
        web.Response(status=502),
        web.Response(text="not of the service"),
    ):
        told = [web.json_response([accepted, refusal], headers={"Retry-After": "0"}), later]

        def answer(_: list[Any], told: list[web.Response] = told) -> web.Response:
            return told.pop(0) if told else web.Response(status=502)

        async with answering(answer) as url, streamer.Client(url, retries=1) as client:
            first, second = await client.batch([PRINTS, PRINTS])
        assert first == "one"
        assert isinstance(second, ServiceProblem)
        assert second.code == "queue_full"


@pytest.mark.parametrize("told", ["{}", "[]", "[1]", "[{}]", "nonsense"])
async def test_what_no_service_answers_is_no_batch(told: str) -> None:
    async with (
        answering(lambda _: web.Response(text=told)) as url,
        streamer.Client(url, retries=0) as client,
    ):
        with pytest.raises(ServiceProblem, match="not from the service"):
            await client.batch([PRINTS])
