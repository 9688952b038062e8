"""`Client.run` that is left early: its job's id is known, and the job is cancelled on request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import streamer
from streamer.model.events import Complete, Event
from tests.client.test_client import address, printed
from tests.client.test_retries import accepting
from tests.conftest import Start
from tests.support import in_cancelled_task
from tests.web import SLEEPER, python


async def running(run: AsyncIterator[Event]) -> None:
    async for event in run:
        if getattr(event.data, "state", "") == "running":
            return


async def end_of(client: streamer.Client, job_id: str | None) -> str:
    assert job_id is not None
    *_, last = [event async for event in client.events(job_id)]
    assert isinstance(last.data, Complete)
    return last.data.reason


async def test_a_run_that_is_closed_cancels_its_job_where_that_is_wanted(start: Start) -> None:
    server = await start()
    async with streamer.Client(address(server)) as client:
        async with client.run(**SLEEPER, cancel_on_close=True) as run:
            assert run.job_id is None
            await running(run)
        assert await end_of(client, run.job_id) == "cancelled"
        # A time limit of the caller's own.
        run = client.run(**SLEEPER, cancel_on_close=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as limit:
                async for event in run:
                    if getattr(event.data, "state", "") == "running":
                        limit.reschedule(asyncio.get_running_loop().time())
        assert await end_of(client, run.job_id) == "cancelled"
        # Left without a close, and no longer referenced.
        run = client.run(**SLEEPER, cancel_on_close=True)
        await running(run)
        job_id = run.job_id
        del run
        assert await end_of(client, job_id) == "cancelled"


async def test_a_run_that_is_closed_leaves_its_job_else_and_its_id_is_known(start: Start) -> None:
    server = await start()
    async with streamer.Client(address(server)) as client:
        async with client.run(**SLEEPER) as run:
            await running(run)
        assert run.job_id is not None
        assert (await client.job(run.job_id))["status"] == "running"
        assert await client.submit(**SLEEPER, idempotency_key=run.idempotency_key) == run.job_id
        await client.cancel(run.job_id)


async def test_a_run_that_is_over_has_nothing_to_cancel(start: Start) -> None:
    server = await start()
    async with streamer.Client(address(server)) as client:
        async with client.run(**python("print(1)"), cancel_on_close=True) as run:
            events = [event async for event in run]
        assert printed(events) == "1\n"
        assert getattr(events[0].data, "job_id", "") == run.job_id
        untouched = client.run(**SLEEPER, cancel_on_close=True)
        await untouched.aclose()
        assert untouched.job_id is None


async def test_a_run_is_closed_in_time_by_a_caller_who_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streamer.client.run.CANCEL_S", 0.1)
    over = asyncio.Event()

    async def execute(request: web.Request) -> web.Response:
        await request.read()
        return accepting()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'event: status\ndata: {"state":"running","t":1}\nid: 1\n\n')
        await over.wait()
        return response

    async def delete(request: web.Request) -> web.Response:
        await over.wait()
        return web.json_response({}, status=202)

    app = web.Application()
    app.add_routes(
        [
            web.post("/api/execute", execute),
            web.get("/api/stream/{id}", stream),
            web.delete("/api/jobs/{id}", delete),
        ]
    )
    async with TestServer(app) as server, streamer.Client(str(server.make_url("/"))) as client:
        run = client.run(**SLEEPER, cancel_on_close=True)
        await running(run)
        await in_cancelled_task(run.aclose)
        over.set()


async def test_a_run_cancelled_while_it_submits_cancels_what_was_accepted() -> None:
    """The caller gives up before the answer arrives, and the job must not run on."""
    asked, given_up = asyncio.Event(), asyncio.Event()
    cancelled: list[str] = []

    async def execute(request: web.Request) -> web.Response:
        await request.read()
        asked.set()
        await given_up.wait()
        return accepting()

    async def delete(request: web.Request) -> web.Response:
        cancelled.append(request.path)
        return web.json_response({}, status=202)

    app = web.Application()
    app.add_routes([web.post("/api/execute", execute), web.delete("/api/jobs/{id}", delete)])
    async with TestServer(app) as server, streamer.Client(str(server.make_url("/"))) as client:
        run = client.run(**SLEEPER, cancel_on_close=True)
        taking = asyncio.ensure_future(anext(run))
        await asked.wait()
        taking.cancel()
        asyncio.get_running_loop().call_soon(given_up.set)
        with pytest.raises(asyncio.CancelledError):
            await taking
        assert (run.job_id, cancelled) == ("a", ["/api/jobs/a"])
