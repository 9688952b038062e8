"""The promises of every engine: how often something may be done, by all processes together."""

from __future__ import annotations

import asyncio

import pytest

from streamer.engine.interface import Engine
from streamer.engine.memory.rates import MemoryRates
from streamer.engine.rates import Used

from .conftest import Bench


async def test_in_no_window_is_there_more_than_the_most(engine: Engine, bench: Bench) -> None:
    rates = engine.rates
    taken = []
    for _ in range(12):
        taken.append(await rates.take("tenant", "a", 3, 60))
        await bench.pass_time(10)
    # At 0, 10 and 20 s; each comes free 60 s later.
    assert taken == [*[True] * 3, *[False] * 3, *[True] * 3, *[False] * 3]


async def test_what_is_refused_does_not_count(engine: Engine, bench: Bench) -> None:
    rates = engine.rates
    assert await rates.take("tenant", "a", 1, 10)
    for _ in range(9):
        await bench.pass_time(1)
        assert not await rates.take("tenant", "a", 1, 10)
    await bench.pass_time(1)
    assert await rates.take("tenant", "a", 1, 10)


async def test_it_tells_how_many_and_how_long_ago_the_first_was(
    engine: Engine, bench: Bench
) -> None:
    rates = engine.rates
    assert await rates.used("tenant", "a", 60) == Used(0, 0.0)
    for _ in range(5):
        await rates.take("tenant", "a", 5, 60)
        await bench.pass_time(8)
    used = await rates.used("tenant", "a", 60)
    assert used.number == 5
    assert used.oldest_s == pytest.approx(40)
    await bench.pass_time(24)
    used = await rates.used("tenant", "a", 60)
    assert used.number == 4
    assert used.oldest_s == pytest.approx(56)
    await bench.pass_time(100)
    assert await rates.used("tenant", "a", 60) == Used(0, 0.0)


async def test_each_key_and_each_kind_has_its_own(engine: Engine) -> None:
    rates = engine.rates
    odd = ["a", "A", "", "a b", "ü\n", "x" * 5000, "tenant/a"]
    for kind in ("tenant", "address"):
        for key in odd:
            assert await rates.take(kind, key, 1, 60), key
            assert not await rates.take(kind, key, 1, 60), key


async def test_of_many_at_once_no_more_than_the_most_are_taken(engine: Engine) -> None:
    taken = await asyncio.gather(*(engine.rates.take("tenant", "a", 10, 60) for _ in range(50)))
    assert sum(taken) == 10


async def test_a_flood_of_addresses_displaces_only_the_oldest_of_them() -> None:
    now = [0.0]
    rates = MemoryRates(lambda: now[0], most_keys=100)
    assert await rates.take("tenant", "a", 1, 60)
    for number in range(1000):
        now[0] += 0.001
        assert await rates.take("address", str(number), 1, 60)
    assert not await rates.take("tenant", "a", 1, 60)
    assert [await rates.take("address", str(number), 1, 60) for number in (999, 900, 5)] == [
        *(False, False),
        True,
    ]
    assert len(rates._kinds["address"]) == 100
    now[0] += 60
    for number in range(60):
        assert await rates.take("address", f"late {number}", 1, 60)
    assert len(rates._kinds["address"]) == 60, "what no longer counts is forgotten"
