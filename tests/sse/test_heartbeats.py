"""An idle stream sends heartbeats at the configured interval."""

from __future__ import annotations

import asyncio
import time

import pytest

from streamer.sse import EventLog
from streamer.web.app import SESSIONS
from tests.conftest import Start
from tests.sse.peer import Dialer, quick_map, serving, settle
from tests.sse.test_sessions import following
from tests.support import submit
from tests.web import SLEEPER


async def test_a_stream_gets_one_once_it_has_been_silent_for_so_long() -> None:
    """With the test's clock: nothing waits, and a slow machine makes no difference."""
    sessions, events = quick_map(heartbeat_s=60), EventLog()
    async with serving(following(sessions, events)) as port, Dialer(port) as dial:
        peer = await dial()
        [session] = sessions.of("k")
        for turn, (silent_s, expected) in enumerate([(50, 0), (61, 1), (50, 1), (61, 2)]):
            await settle(lambda: session._waiter is not None)  # it has written the earlier events
            session.active_at = time.monotonic() - silent_s
            sessions._beat()
            # What comes after it on the same connection shows whether it came.
            session.comment(f"turn {turn}")
            await peer.until(f"turn {turn}\n".encode())
            assert peer.body.count(b":\n") == expected, turn


async def test_it_is_looked_for_often_enough() -> None:
    sessions, events = quick_map(heartbeat_s=60, write_timeout_s=3600), EventLog()
    async with serving(following(sessions, events)) as port, Dialer(port) as dial:
        await dial()
        assert sessions._pulse is not None
        # A silent stream is one pulse late at most.
        assert 0 < sessions._pulse.when() - asyncio.get_running_loop().time() <= 60 / 4


@pytest.mark.parametrize("seconds", [0.05, 30.0])
async def test_the_service_sends_them_as_configured(start: Start, seconds: float) -> None:
    client = await start(streams={"heartbeat_s": seconds})
    assert client.app[SESSIONS].options.heartbeat_s == seconds
    if seconds < 1:
        job_id = await submit(client, **SLEEPER)
        async with client.get(f"/api/stream/{job_id}") as response:
            while await response.content.readline() != b":\n":
                assert not response.content.at_eof()
