"""nginx with its default settings holds nothing back, and a restart behind it is survived."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

import streamer
from streamer.model.events import Output
from tests.browser.chromium import Browser
from tests.interop.clients import chromium_page, snippet
from tests.interop.cutter import Cutter
from tests.interop.nginx import GZIP, proxied
from tests.support import AnyClient, Received, received, submit
from tests.web import python

LINES = 10
ECHO = f"""
import os
for number in range({LINES}):
    os.write(1, b"line %d\\n" % number)  # in one piece, which print is not
    input()
"""
"""A program that writes a line only when the previous one was received and answered."""


async def next_output(events: AsyncIterator[Received]) -> Received:
    async with asyncio.timeout(30):
        async for event in events:
            if event.kind == "output":
                return event
    raise AssertionError("the stream ended early")


@pytest.mark.parametrize("more", ["", GZIP], ids=["default", "gzip"])
async def test_every_line_arrives_before_the_next_is_written(
    client: AnyClient, tmp_path: Path, more: str
) -> None:
    async with (
        proxied(int(client.port or 0), tmp_path, more) as address,
        ClientSession(address) as session,
    ):
        job = python(ECHO, interactive=True)
        async with session.post("/api/execute", json=job) as response:
            accepted = await response.json()
        # Like a browser, so that nginx may compress.
        headers = {"Accept-Encoding": "gzip, deflate, br"}
        async with session.get(accepted["links"]["stream"], headers=headers) as response:
            assert response.content_type == "text/event-stream"
            # nginx ignores no-transform; when it compresses, it flushes at every event.
            assert response.headers.get("Content-Encoding") == ("gzip" if more else None)
            events = received(response)
            for number in range(LINES):
                assert (await next_output(events)).data["data"] == f"line {number}\n"
                async with session.post(accepted["links"]["stdin"], data=b"\n") as written:
                    assert written.status == 202
            assert [event.kind async for event in events] == ["complete"]


async def test_one_round_trip_is_live_as_well(client: AnyClient, tmp_path: Path) -> None:
    async with (
        proxied(int(client.port or 0), tmp_path) as address,
        ClientSession(address) as session,
        session.post(
            "/api/execute",
            json=python(ECHO, interactive=True),
            headers={"Accept": "text/event-stream"},
        ) as response,
    ):
        assert response.content_type == "text/event-stream"
        events = received(response)
        stdin = f"/api/jobs/{response.headers['X-Job-Id']}/stdin"
        for number in range(LINES):
            assert (await next_output(events)).data["data"] == f"line {number}\n"
            async with session.post(stdin, data=b"\n") as written:
                assert written.status == 202


async def test_resuming_and_the_end(client: AnyClient, tmp_path: Path) -> None:
    job_id = await submit(client, **python(ECHO, interactive=True))
    target = f"/api/stream/{job_id}"
    async with (
        proxied(int(client.port or 0), tmp_path) as address,
        ClientSession(address) as session,
    ):
        last = 0
        for number in range(LINES):
            # A connection for every line, each ended while the program waits.
            async with session.get(target, headers={"Last-Event-ID": str(last)}) as response:
                event = await next_output(received(response))
                assert event.data["data"] == f"line {number}\n"
                last = event.id
                response.close()
            async with session.post(f"/api/jobs/{job_id}/stdin", data=b"\n") as written:
                assert written.status == 202
        async with session.get(target, headers={"Last-Event-ID": str(last)}) as response:
            rest = [event async for event in received(response)]
        assert [(event.kind, event.id) for event in rest] == [("complete", last + 1)]
        async with session.get(target, params={"lastEventId": str(last + 1)}) as response:
            assert (response.status, await response.read()) == (204, b"")


async def test_a_service_that_is_away_for_a_while(
    client: AnyClient, cutter: Cutter, tmp_path: Path, browser: Browser
) -> None:
    job_id = await submit(client, **python(ECHO, interactive=True))

    async def answer() -> None:
        async with client.post(f"/api/jobs/{job_id}/stdin", data=b"\n") as written:
            assert written.status == 202

    async with proxied(cutter.port, tmp_path) as address:
        stream = f"{address}/api/stream/{job_id}"
        page = await chromium_page(browser, stream)
        await page.evaluate(f"""{{
            {snippet("Browser: EventSource")}
            window.seen = [];
            window.end = null;
            follow({json.dumps(stream)}, (kind, data) => {{
                if (kind === "output") window.seen.push(data.data);
                if (kind === "complete") window.end = data.reason;
            }});
        }}""")
        await page.until("seen.length === 1")

        async with streamer.Client(address) as ours:
            events = ours.events(job_id)
            got = []
            for number in range(LINES):
                while not isinstance((event := await anext(events)).data, Output):
                    pass
                got.append(event.data.data)
                await page.until(f"seen.length === {number + 1}")
                if number == 3:
                    await cutter.down()
                    # nginx says 502 now, which ends an EventSource for good.
                    async with ClientSession() as session, session.get(stream) as response:
                        assert response.status == 502
                    await answer()  # past nginx: the program writes while nobody can read
                    await cutter.up()
                else:
                    await answer()
            assert [event.kind async for event in events] == ["complete"]
        lines = [f"line {number}\n" for number in range(LINES)]
        assert got == lines
        assert await page.until("end") == "exited"
        assert await page.evaluate("seen") == lines
