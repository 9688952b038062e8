"""What keeps an engine up, while the engine fails."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from streamer.engine.interface import Engine
from streamer.engine.lifetime import kept_up


@pytest.mark.parametrize("error", [ConnectionError("away"), TimeoutError(), KeyError("x")])
async def test_an_engine_that_is_away_is_logged_once_and_without_a_traceback(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    asked = asyncio.Event()

    class Away:
        heartbeat_s = 0.01

        async def reap(self) -> int:
            if caplog.records:
                asked.set()
            raise error

    async with kept_up(cast("Engine", Away())):
        await asked.wait()
    [record] = caplog.records
    assert record.getMessage().startswith("the jobs of lost workers cannot be ended: ")
    assert bool(record.exc_info) == isinstance(error, KeyError), "only a fault of ours is traced"
