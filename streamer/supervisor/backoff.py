"""How long to wait before something that has ended is started again."""

from __future__ import annotations

from typing import Final

__all__ = ["BackOff"]

PAUSES_S: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""The last one is used again and again."""

STEADY_S: Final = 60.0
"""What has run for so long begins with the first pause again."""


class BackOff:
    def __init__(self) -> None:
        self._ended = 0

    def pause_s(self, ran_s: float) -> float:
        """Return the pause after an end, for what has run for `ran_s`."""
        if ran_s >= STEADY_S:
            self._ended = 0
        pause = PAUSES_S[min(self._ended, len(PAUSES_S) - 1)]
        self._ended += 1
        return pause
