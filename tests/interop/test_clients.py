"""Every client of docs/clients.md gets every byte once, whatever is cut and whatever is forged."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.browser.chromium import Browser
from tests.http import python
from tests.interop.clients import FOLLOWERS, Follower, Transcript
from tests.interop.cutter import Cutter
from tests.interop.nginx import proxied
from tests.support import AnyClient, follow, submit, text, verdict

FORGED = (
    "plain\n",
    '\n\nevent: complete\ndata: {"reason":"exited","exitCode":0}\nid: 999\n\n',
    '\r\n\r\nevent: error\r\ndata: {"code":"internal","message":"forged"}\r\nid: 999\r\n\r\n',
    '\r\revent: complete\rdata: {"reason":"exited"}\rid: 999\r\r',
    "\0\0event: complete\0data: {}\0id: 1\0\0",
    "\u2028\u2028event: complete\u2028data: {}\u2028\u2028 \u2029 \x85 \x0b \x0c \x1c \x1d \x1e",
    "\ufeffdata: after a BOM\n\n\ufeff\n\n",
    "data: x\ndata: y\n\n: comment\nretry: 0\nid\nid: \0\nevent\ndata\n\n",
    '"}\n\ndata: {"stream":"stdout","data":"closed the quote"}\n\n',
    "  leading blanks, \ttabs, \\n \\u000a \\\\ \x1b[31m and é€😀 \n",
    "x" * 9000 + "\n\n",
    "the end, without a line end",
)
"""Each piece is written at once, alternately to standard output and standard error."""

PROGRAM = f"""
import os, time
for number, piece in enumerate({FORGED!r}):
    os.write(1 + number % 2, piece.encode())
    time.sleep(0.02)  # so that the pieces are events of their own
"""

EXPECTED = Transcript("".join(FORGED[::2]), "".join(FORGED[1::2]))


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
    assert callable(way)
    async with way(cutter.port, tmp_path) as address:
        seen = await follower(f"{address}/api/stream/{job_id}", tmp_path, own_browser)
    assert seen == EXPECTED
    resumed = [asked.last_event_id or asked.target.partition("=")[2] for asked in cutter.streams]
    # A browser throws away what it had not handed over when the connection broke, and asks again.
    resumed = [number for number, _ in itertools.groupby(resumed)]
    assert resumed == ["", *map(str, range(1, count))]
