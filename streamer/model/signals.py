"""The names of signals: those of signal(7), and for the others what ``kill -l`` shows."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from typing import Final

__all__ = ["NUMBERS", "signal_name", "signal_number"]


def _real_time() -> Mapping[int, str]:
    if sys.platform != "linux":  # a client elsewhere
        return {}
    # As in bash: the first half is counted from the lowest, the rest from the highest.
    low, high = int(signal.SIGRTMIN), int(signal.SIGRTMAX)
    middle = (low + high) // 2
    return {
        **{number: f"SIGRTMIN+{number - low}" for number in range(low + 1, middle + 1)},
        **{number: f"SIGRTMAX-{high - number}" for number in range(middle + 1, high)},
    }


NAMES: Final[Mapping[int, str]] = {
    **{number: f"SIG{number}" for number in range(1, signal.NSIG)},  # those of the C library
    **_real_time(),
    **{int(known): known.name for known in signal.Signals},
}
NUMBERS: Final[Mapping[str, int]] = {
    **{name: number for number, name in NAMES.items()},
    **{name: int(known) for name, known in signal.Signals.__members__.items()},  # SIGPOLL is SIGIO
}


def signal_name(number: int) -> str:
    """Return its name: ``SIGKILL``, ``SIGRTMIN+3``."""
    return NAMES.get(number, f"SIG{number}")


def signal_number(name: str) -> int | None:
    return NUMBERS.get(name)
