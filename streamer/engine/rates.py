"""Define the rates of an engine: how often something was done lately, by all processes together.

What holds for every engine, and is tested for each by ``tests/engine/test_rates.py``:

- In any `window_s` seconds at most `most` are taken for one key, whoever asks for them.
- What is refused does not count.
- Keys of one kind do not displace those of another; of one kind some 100,000 are remembered at
  least, and those that were used longest ago are forgotten first.

Without a connection `EngineUnavailable` is raised, and nothing may be done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

__all__ = ["MOST_KEYS", "Rates", "Used"]

MOST_KEYS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Used:
    """How many were taken in the window that ends now, and how long ago the first of them was."""

    number: int
    oldest_s: float


class Rates(Protocol):
    async def take(self, kind: str, key: str, most: int, window_s: int) -> bool:
        """Take one more, if there is room for it in the window that ends now."""

    async def used(self, kind: str, key: str, window_s: int) -> Used:
        """Return what was taken in the window that ends now."""
