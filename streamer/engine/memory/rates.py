"""The rates of one process."""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from streamer.engine.rates import MOST_KEYS, Used

__all__ = ["MemoryRates"]


@dataclass(slots=True)
class _Window:
    """When the last ones were taken, the oldest first, and when none of them counts any more."""

    times: deque[float]
    until: float = 0.0


class MemoryRates:
    """See `streamer.engine.rates.Rates`."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, most_keys: int = MOST_KEYS
    ) -> None:
        self._clock = clock
        self._most_keys = most_keys
        self._kinds: defaultdict[str, OrderedDict[str, _Window]] = defaultdict(OrderedDict)
        """The windows of each kind, those that were used longest ago first."""

    async def take(self, kind: str, key: str, most: int, window_s: int) -> bool:
        now = self._clock()
        windows = self._kinds[kind]
        window = windows.get(key)
        if window is None:
            window = _Window(deque())
        times = window.times
        while times and now - times[0] >= window_s:
            times.popleft()
        if len(times) >= most:
            return False
        times.append(now)
        window.until = now + window_s
        windows[key] = window
        windows.move_to_end(key)
        self._forget(windows, now)
        return True

    async def used(self, kind: str, key: str, window_s: int) -> Used:
        now = self._clock()
        window = self._kinds[kind].get(key)
        times = () if window is None else window.times
        for over, at in enumerate(times):
            if now - at < window_s:
                return Used(len(times) - over, now - at)
        return Used(0, 0.0)

    def _forget(self, windows: OrderedDict[str, _Window], now: float) -> None:
        # Each call adds one at most, so two a call keep up.
        for _ in range(2):
            key, oldest = next(iter(windows.items()))
            if oldest.until > now and len(windows) <= self._most_keys:
                return
            del windows[key]
