"""What a template answers in time, late, and to whom."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable

import pytest

from streamer.errors import SandboxFailure
from streamer.sandbox.drivers.gated import Gated
from streamer.sandbox.pool import Pool
from tests.running import adopt_orphans, descendants
from tests.sandbox.templated import checked_pool, init_of, lent, pool_of, told


@pytest.fixture
async def pool(need: Callable[[str], str]) -> AsyncIterator[Pool]:
    need("bwrap")
    async with checked_pool("off") as opened:
        yield opened


async def test_the_time_limit_of_an_answer_ends_no_program(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lent(pool):
        pass
    monkeypatch.setattr("streamer.sandbox.drivers.template.ANSWER_TIMEOUT_S", 0.2)
    async with lent(pool) as sandbox:
        pids = pool.templates.pids
        assert (await told(sandbox, "import time; time.sleep(0.5); print(1)"))[1] == "1\n"
    async with lent(pool):
        assert pool.templates.pids == pids


async def test_a_request_that_could_not_be_sent_takes_nobodys_answer(pool: Pool) -> None:
    async with contextlib.AsyncExitStack() as held, lent(pool):
        (kept,) = pool.templates._kept.values()
        init = init_of(pool.templates.pids)
        os.kill(init, signal.SIGSTOP)
        asked: list[Gated] = []
        with pytest.raises(SandboxFailure, match="takes no job"):
            while True:  # until its socket is full
                asked.append(kept.template.sandbox(kept.template.plan, "", (), by_group=0))
                held.push_async_callback(asked[-1].close)
        os.kill(init, signal.SIGCONT)
        for gated in asked:
            await gated.come_up()
        last = kept.template.sandbox(kept.template.plan, "", (), by_group=0)
        held.push_async_callback(last.close)
        await last.come_up()


async def test_a_pool_that_is_left_without_a_close_leaves_no_template(
    need: Callable[[str], str],
) -> None:
    need("bwrap")
    adopt_orphans()
    before = descendants()
    with pool_of(cgroup="off") as pool:
        async with lent(pool):
            assert descendants() != before
    async with asyncio.timeout(20):
        while descendants() != before:
            await asyncio.sleep(0.01)
