"""Read a size: a number of bytes, or a number with a unit.

``B`` is bytes. A bare letter and ``KiB``, ``MiB``, ``GiB``, ``TiB`` are powers of 1024, as docker
and systemd have it; ``kB``, ``MB``, ``GB``, ``TB`` are powers of 1000. Capitals do not matter, and
digits may be grouped by single underscores, as in TOML. A fraction needs a unit above bytes, and
what is left of a byte is dropped.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["parse_size"]

MOST: Final = 2**63 - 1
LONGEST: Final = 40
SIZE: Final = re.compile(
    r"(?P<whole>[0-9]+(?:_[0-9]+)*)(?:\.(?P<part>[0-9]+))? ?(?P<unit>[kmgt]?(?:ib|b)?)",
    re.IGNORECASE | re.ASCII,
)


def parse_size(text: str) -> int:
    """Return the bytes. Raises `ValueError` that says what could be written."""
    # Short first: the answer repeats the text, and numbers cost the square of their length.
    match = SIZE.fullmatch(text.strip()) if len(text) <= LONGEST else None
    unit = match["unit"].lower() if match else ""
    if match is None or unit == "ib" or (match["part"] and unit in ("", "b")):
        shown = repr(text) if len(text) <= LONGEST else f"{text[:LONGEST]!r}..."
        raise ValueError(
            f'{shown} is not a size; write bytes, or a number and a unit, such as "256MiB" or "10m"'
        )
    base = 1000 if len(unit) == 2 else 1024
    factor = base ** (1 + "kmgt".index(unit[0])) if unit not in ("", "b") else 1
    part = match["part"] or ""
    size: int = int(match["whole"].replace("_", "") + part) * factor // 10 ** len(part)
    if size > MOST:
        raise ValueError(f"{text!r} is more than a size can be ({MOST} bytes)")
    return size
