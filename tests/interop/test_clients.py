"""Every client of docs/clients.md gets every byte once, whatever is cut or forged."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from streamer.model.events import Complete, JobEvent, Output, Stats, Status, encode
from tests.browser.chromium import Browser
from tests.conftest import Start
from tests.interop.clients import FOLLOWERS, Follower, Transcript
from tests.interop.clients import python as run_python
from tests.interop.cutter import Cutter
from tests.interop.hostile import EXPECTED, FORGED, PROGRAM
from tests.interop.nginx import proxied
from tests.support import AnyClient, follow, submit, text, verdict
from tests.web import python


@asynccontextmanager
async def direct(port: int, _: Path) -> AsyncIterator[str]:
    yield f"http://127.0.0.1:{port}"


@pytest.fixture(params=FOLLOWERS, ids=lambda follower: follower.__name__)
def follower(request: pytest.FixtureRequest) -> Follower:
    found: Follower = request.param
    return found


@pytest.fixture
def own_browser(request: pytest.FixtureRequest, follower: Follower) -> Browser | None:
    """Return Chromium for those that live in it; the others must not need it."""
    if "chromium" not in follower.__name__:
        return None
    found: Browser = request.getfixturevalue("browser")
    return found


@pytest.fixture
async def hostile_job(client: AnyClient) -> tuple[str, int]:
    """Run the program and return the job's id and the number of its events."""
    job_id = await submit(client, **python(PROGRAM))
    events = await follow(client, job_id)
    assert verdict(events)["exitCode"] == 0
    assert Transcript(text(events), text(events, "stderr")) == EXPECTED
    return job_id, len(events)


@pytest.mark.parametrize("way", [direct, proxied], ids=["direct", "nginx"])
async def test_a_cut_after_every_event_and_forged_frames(
    follower: Follower,
    way: object,
    hostile_job: tuple[str, int],
    cutter: Cutter,
    own_browser: Browser | None,
    tmp_path: Path,
) -> None:
    job_id, count = hostile_job
    assert count > len(FORGED)
    # Each connection brings one event and a part of the next: of its name, its data, its id.
    surplus = itertools.cycle((0, 3, 12, 41, 50))
    cutter.events, cutter.surplus = 1, lambda: next(surplus)
    cutter.refused = frozenset((3, 7, 8))
    assert callable(way)
    async with way(cutter.port, tmp_path) as address:
        seen = await follower(f"{address}/api/stream/{job_id}", tmp_path, own_browser)
    assert seen == EXPECTED
    resumed = [asked.last_event_id or asked.target.partition("=")[2] for asked in cutter.streams]
    # After a 502, of course, and where a browser throws away what it had not handed over when
    # the connection broke, the same is asked for again.
    resumed = [number for number, _ in itertools.groupby(resumed)]
    assert resumed == ["", *map(str, range(1, count))]


async def test_live_with_comments_in_between(
    follower: Follower, start: Start, own_browser: Browser | None, tmp_path: Path
) -> None:
    client = await start(streams={"heartbeat_s": 0.005})
    job_id = await submit(client, **python(PROGRAM))
    url = f"http://127.0.0.1:{client.port}/api/stream/{job_id}"
    assert await follower(url, tmp_path, own_browser) == EXPECTED


async def test_an_event_without_an_id_moves_no_client(
    follower: Follower, own_browser: Browser | None, tmp_path: Path
) -> None:
    asked: list[str] = []
    stats = _frame(Stats(cpu_time_ms=1, memory_bytes=1, processes=1, t=1))
    answers = [
        _frame(Status("queued", t=0, job_id="x"), 1) + _frame(_printed("before\n"), 2),
        stats,
        None,  # a 502, after which a new EventSource is opened
        stats,
        stats + _frame(_printed("after\n"), 3) + _frame(END, 4),
    ]

    async def stream(request: web.Request) -> web.Response:
        asked.append(request.headers.get("Last-Event-ID") or request.query.get("lastEventId", ""))
        assert len(asked) <= len(answers), asked
        body = answers[len(asked) - 1]
        if body is None:
            return web.Response(status=502)
        return web.Response(body=b"retry: 10\n" + body, content_type="text/event-stream")

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="a page")

    app = web.Application()
    app.add_routes([web.get("/api/stream/{job}", stream), web.get("/healthz", page)])
    async with TestServer(app) as server:
        url = str(server.make_url("/api/stream/x?stats=1"))
        assert await follower(url, tmp_path, own_browser) == Transcript("before\nafter\n", "")
    assert asked == ["", "2", "2", "2", "2"]


END = Complete(
    reason="exited",
    exit_code=0,
    signal=None,
    duration_ms=1,
    cpu_time_ms=1,
    peak_memory_bytes=1,
    timed_out=False,
    oom_killed=False,
    output_bytes=13,
    output_truncated=False,
    sandbox="bwrap",
    phase="run",
)


def _printed(text: str) -> Output:
    return Output("stdout", text, t=1, phase="run")


def _frame(event: JobEvent, number: int | None = None) -> bytes:
    kind, data = encode(event)
    made = b"event: %b\ndata: %b\n" % (kind.encode(), data)
    return made + (b"\n" if number is None else b"id: %d\n\n" % number)


async def test_a_job_that_python_gives_up_on_is_cancelled(
    client: AnyClient, tmp_path: Path
) -> None:
    address = str(client.make_url("/"))
    ran = await run_python("Python: giving up on a job", address, tmp_path)
    *kinds, last = ran.stdout.splitlines()
    assert "status" in kinds
    said, job_id = last.rsplit(" ", 1)
    assert said == "gave up on"
    assert verdict(await follow(client, job_id))["reason"] == "cancelled"


async def test_a_terminal_in_python(client: AnyClient, tmp_path: Path) -> None:
    ran = await run_python("Python: a terminal", str(client.make_url("/")), tmp_path)
    assert ran.stdout.splitlines() == ["name? Zo", "hello Zo"]


async def test_files_in_python(client: AnyClient, tmp_path: Path) -> None:
    ran = await run_python("Python: files", str(client.make_url("/")), tmp_path)
    assert ran.stdout.splitlines() == ["squares.csv 21", "0,0", "1,1", "2,4", "3,9", "4,16"]


async def test_python_without_async(client: AnyClient, tmp_path: Path) -> None:
    ran = await run_python("Python: without async", str(client.make_url("/")), tmp_path)
    assert ran.stdout.splitlines() == ["hello", "exited", "42", "Zo"]


async def test_cases_in_python(client: AnyClient, tmp_path: Path) -> None:
    ran = await run_python("Python: cases", str(client.make_url("/")), tmp_path)
    assert ran.stdout.splitlines() == ["1 2 True 3", "3 4 True 7"]
