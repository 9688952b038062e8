"""How a worker renews its leases: in time, and counted from when it asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from streamer.engine.interface import Cancel, Engine, Lease, Lost
from streamer.sandbox.lifeline import Lifeline
from streamer.worker import leases as module
from streamer.worker.leases import BEATS, LEASED, Leases
from tests.engine import make_job
from tests.worker.test_worker import Shared

LEASE_S: Final = 1.5
BEAT_S: Final = LEASE_S / BEATS


async def call(_: str, ask: Callable[[], Awaitable[Any]], _timeout_s: float) -> Any:
    """Return the engine's answer, as `Worker._call` does."""
    try:
        return await ask()
    except ConnectionError:
        return None


def of(engine: Engine) -> Leases:
    return Leases(engine, call, tuple)


class Noted(Lifeline):
    """A lifeline that notes until when programs may run."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[int] = []

    def extend(self, until_us: int) -> None:
        self.ends.append(until_us)
        super().extend(until_us)


@asynccontextmanager
async def kept(leases: Leases, lifeline: Lifeline) -> AsyncIterator[None]:
    keeping = asyncio.create_task(leases.keep(lifeline))
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})


async def test_a_renewal_counts_from_when_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine may have renewed the leases then: it answers late."""
    engine, lifeline = Shared(lease_s=LEASE_S), Noted()
    leases = of(engine)
    asked: list[tuple[float, int]] = []
    answered = asyncio.Event()

    async def slowly(_: Sequence[Lease]) -> Sequence[tuple[Lease, Cancel | Lost]]:
        assert not leases.cut_off, "it asks before the fence, from the beginning"
        asked.append((asyncio.get_running_loop().time(), Lifeline.now_us()))
        await asyncio.sleep(BEAT_S / 2)
        answered.set()
        return ()

    monkeypatch.setattr(engine, "heartbeat", slowly)
    async with asyncio.timeout(20), kept(leases, lifeline):
        await answered.wait()
        while len(lifeline.ends) < 2:
            await asyncio.sleep(0)
        assert leases._fence is not None
        at, at_us = asked[0]
        assert leases._fence.when() <= at + (BEATS - 1) * BEAT_S
        assert lifeline.ends[1] <= at_us + int(BEATS * LEASED * BEAT_S * 1e6)
    await engine.close()


async def test_what_was_claimed_waits_for_a_renewal_after_a_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, lifeline = Shared(lease_s=LEASE_S), Noted()
    for _ in range(2):
        await engine.submit(make_job())
    claimed = await engine.claim("w", 2)
    leases = of(engine)
    renewed: list[Sequence[Lease]] = []

    async def heartbeat(asked: Sequence[Lease]) -> Sequence[tuple[Lease, Cancel | Lost]]:
        if asked:  # not the regular one, of a worker that runs nothing
            renewed.append(asked)
        if len(renewed) < 3:
            raise ConnectionError("the engine is away")
        return [(claimed[0], Lost())]

    assert await leases.lost_of(claimed) == (), "nothing is asked while leases are renewed in time"
    monkeypatch.setattr(engine, "heartbeat", heartbeat)
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    async with asyncio.timeout(20), kept(leases, lifeline):
        while not lifeline.ends:
            await asyncio.sleep(0)
        leases._end_all()
        assert await leases.lost_of(claimed) == [claimed[0]]
        assert [[*each] for each in renewed] == [[*claimed]] * 3
        assert not leases.cut_off
    await engine.close()
