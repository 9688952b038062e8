"""Requests for a job reach it, whenever they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import cast

from streamer.engine.interface import Control, Lease, Signal
from streamer.sandbox.sandbox import Sandbox
from streamer.worker.requests import JobRequests


class Asking:
    """A lease that passes on the requests of a test."""

    job = SimpleNamespace(interactive=False)

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Control] = asyncio.Queue()

    async def control(self) -> AsyncIterator[Control]:
        while True:
            yield await self.queue.get()
            self.queue.task_done()


class Signalled:
    """A sandbox that records its signals."""

    def __init__(self) -> None:
        self.got: list[int] = []

    def signal(self, number: int) -> None:
        self.got.append(number)


async def test_signals_wait_for_a_program_and_come_in_their_order() -> None:
    lease, first, second = Asking(), Signalled(), Signalled()
    requests = JobRequests(cast("Lease", lease), lambda _: None)
    (channel,) = requests.channels()
    listening = asyncio.create_task(channel)

    async def ask(*numbers: int) -> None:
        for number in numbers:
            lease.queue.put_nowait(Signal(number))
        while lease.queue.qsize() or lease.queue._unfinished_tasks:  # type: ignore[attr-defined]
            await asyncio.sleep(0)

    await ask(10, 12)
    requests.program_runs_in(cast("Sandbox", first))
    await ask(15)
    requests.program_runs_in(None)
    await ask(1, 2, 1, 2, 1)  # whoever repeats them fills no list
    requests.program_runs_in(cast("Sandbox", second))
    assert (first.got, second.got) == ([10, 12, 15], [1, 2])
    listening.cancel()
    await asyncio.wait({listening})
