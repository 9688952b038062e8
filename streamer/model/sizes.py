"""Read a size: a number of bytes, or a number with a unit.

``B`` is bytes. A single letter and ``KiB``, ``MiB``, ``GiB``, ``TiB`` are powers of 1024, as in
docker and systemd; ``kB``, ``MB``, ``GB``, ``TB`` are powers of 1000. Case does not matter, and
digits may be grouped by single underscores, as in TOML. A fraction needs a unit above bytes and
is rounded down to whole bytes.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["MOST_SIZE", "parse_size"]

MOST_SIZE: Final = 2**63 - 1
LONGEST: Final = 40
SIZE: Final = re.compile(
    r"(?P<whole>[0-9]+(?:_[0-9]+)*)(?:\.(?P<part>[0-9]+))? ?(?P<unit>[kmgt]?(?:ib|b)?)",
    re.IGNORECASE | re.ASCII,
)


def parse_size(text: str) -> int:
    """Return the number of bytes. Raises `ValueError` with a message that says what to write."""
    # Length first: the message repeats the text, and parsing a number takes quadratic time.
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
    if size > MOST_SIZE:
        raise ValueError(f"{text!r} is more than the largest size ({MOST_SIZE} bytes)")
    return size
