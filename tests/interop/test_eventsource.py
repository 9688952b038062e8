"""How the EventSource of Chromium and of Node.js react to the service's answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from streamer.web.app import LIFETIME
from tests.browser.chromium import Browser
from tests.interop.clients import chromium_page, node
from tests.interop.cutter import Cutter
from tests.interop.hostile import PROGRAM
from tests.support import AnyClient, follow, submit
from tests.web import SLEEPER, python

# A client that never closes: only the service's answers can stop it.
STUBBORN = """new Promise((resolve) => {
  const source = new EventSource(ADDRESS);
  const seen = [];
  for (const kind of ["open", "status", "output", "complete", "error", "message"]) {
    source.addEventListener(kind, (event) => {
      seen.push([kind, event.lastEventId ?? null, typeof event.data, source.readyState]);
      if (source.readyState === EventSource.CLOSED) resolve(seen);
    });
  }
})"""

Watch = Callable[[str], Coroutine[Any, Any, list[list[Any]]]]


@pytest.fixture(params=["chromium", "node"])
def watch(request: pytest.FixtureRequest) -> Watch:
    """Return a function that follows a stream until the EventSource gives up by itself.

    Each event is [kind, id, type of its data, readyState].
    """
    if request.param == "chromium":
        browser: Browser = request.getfixturevalue("browser")

        async def in_chromium(url: str) -> list[list[Any]]:
            page = await chromium_page(browser, url)
            seen: list[list[Any]] = await page.evaluate(
                STUBBORN.replace("ADDRESS", json.dumps(url))
            )
            return seen

        return in_chromium

    async def in_node(url: str) -> list[list[Any]]:
        # The process ends by itself, so no reconnection is pending in it.
        program = 'import { EventSource } from "eventsource";\nconsole.log(JSON.stringify(await '
        program += STUBBORN.replace("ADDRESS", "process.argv[2]") + "));"
        printed, _ = await node(program, url)
        seen: list[list[Any]] = json.loads(printed)
        return seen

    return in_node


async def test_it_comes_back_by_itself_and_204_stops_it(
    client: AnyClient, cutter: Cutter, watch: Watch
) -> None:
    job_id = await submit(client, **python(PROGRAM))
    count = len(await follow(client, job_id))
    cutter.events = 6
    seen = await watch(f"{cutter.address}/api/stream/{job_id}")
    own = [(kind, int(number)) for kind, number, data, _ in seen if data == "string"]
    assert [number for _, number in own] == list(range(1, count + 1))
    assert {kind for kind, _ in own} == {"status", "output", "complete"}
    assert [kind for kind, _ in own].index("complete") == count - 1
    # It reconnected after the last event, got a 204, and did not reconnect again.
    assert seen[-1] == ["error", None, "undefined", 2]
    assert cutter.streams[-1].last_event_id == str(count)
    asked = [int(request.last_event_id or 0) for request in cutter.streams]
    assert asked == sorted(asked)
    assert asked.count(count) == 1


async def test_an_unknown_job_stops_it(cutter: Cutter, watch: Watch) -> None:
    seen = await watch(f"{cutter.address}/api/stream/nosuchjob")
    assert seen == [["error", None, "undefined", 2]]
    assert len(cutter.streams) == 1


async def test_the_error_of_the_service_is_told_from_a_lost_connection(
    client: AnyClient, cutter: Cutter, watch: Watch
) -> None:
    job_id = await submit(client, **SLEEPER)
    cutter.events = 2
    watching = asyncio.create_task(watch(f"{cutter.address}/api/stream/{job_id}"))
    await cutter.until_streams(2)
    server = client.server
    await server.app[LIFETIME].drain(0)  # type: ignore[attr-defined]  # a server of a web application
    seen = await watching
    errors = [(data, state) for kind, _, data, state in seen if kind == "error"]
    # The cut; the service's own, which closes nothing; the next cut; the 204.
    assert errors[0] == ("undefined", 0)
    assert ("string", 1) in errors
    assert errors[-1] == ("undefined", 2)
    assert [data for data, _ in errors].count("string") == 1
