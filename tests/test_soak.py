"""A short run of `benchmarks/soak.py`, which in full takes minutes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from benchmarks.soak import soak
from sandboxes.bwrap import Bwrap


@pytest.mark.slow
def test_nothing_is_left_of_sixty_attacks(need: Callable[[str], str]) -> None:
    need("bwrap")
    before, after, ends = asyncio.run(soak(Bwrap, 60, seed=7))
    assert sum(ends.values()) >= 80
    assert [end for end in ends if end.startswith("broken")] == []
    assert after.more_than(before) == []
