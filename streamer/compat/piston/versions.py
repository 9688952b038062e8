"""Which version a client asks for: the ranges of npm, as far as anybody asks for a language.

``3.10.0``, ``3.10``, ``3.x``, ``*``, ``^3.1``, ``~3.10``, ``>=3.8 <4``, ``1.2 - 2``, and several
with ``||`` between them (https://github.com/npm/node-semver#ranges). A pre-release is none.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["Version", "satisfies", "version_of"]

Version = tuple[int, int, int]

NUMBER: Final = r"(0|[1-9][0-9]{0,8}|[xX*])"
PARTIAL: Final = re.compile(
    rf"(?P<how>[<>]=?|=|\^|~>?)?\s*[v=]?{NUMBER}(?:\.{NUMBER}(?:\.{NUMBER})?)?"
)
SPACE: Final = re.compile(r"([<>=^~])\s+")
HYPHEN: Final = re.compile(r"\s+-\s+")
LEADING: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9}){0,2}")
LONGEST: Final = 256
"""A longer text is none, as for npm."""

LOWEST: Final[Version] = (0, 0, 0)
HIGHEST: Final[Version] = (10**9, 0, 0)
"""Above all that the ranges can name."""


def version_of(text: str | None) -> Version:
    """Return the version of a tool in three numbers; what it does not say is 0."""
    found = LEADING.search(text or "")
    numbers = [int(one) for one in found[0].split(".")] if found else []
    major, minor, patch, *_ = (*numbers, 0, 0, 0)
    return major, minor, patch


def satisfies(version: Version, wanted: str) -> bool:
    """Tell whether a version is in a range; none is in what is no range."""
    if len(wanted) > LONGEST:
        return False
    return any(_in_all(version, part.strip()) for part in wanted.split("||"))


def _in_all(version: Version, text: str) -> bool:
    ends = HYPHEN.split(text)
    if len(ends) == 2:
        low, high = _bounds(ends[0]), _bounds(ends[1])
        return low is not None and high is not None and low[0] <= version < high[1]
    for word in SPACE.sub(r"\1", text).split():
        bounds = _bounds(word)
        if bounds is None or not bounds[0] <= version < bounds[1]:
            return False
    return True


def _bounds(word: str) -> tuple[Version, Version] | None:
    """Return the lowest version of a comparator, and the lowest above it; None if it is none."""
    found = PARTIAL.fullmatch(word)
    if found is None:
        return None
    given: list[int] = []
    for number in found.groups()[1:]:
        if number is None or number in "xX*":
            break
        given.append(int(number))
    low, above = _padded(given), _above(given)
    how = found["how"]
    if how in ("^", "~", "~>"):
        first = next((at for at, one in enumerate(given) if one), len(given) - 1)
        return low, _above(given[: first + 1 if how == "^" else 2])
    return {
        ">": (above, HIGHEST),
        ">=": (low, HIGHEST),
        "<": (LOWEST, low),
        "<=": (LOWEST, above),
    }.get(how, (low, above))


def _padded(numbers: list[int]) -> Version:
    major, minor, patch, *_ = (*numbers, 0, 0, 0)
    return major, minor, patch


def _above(numbers: list[int]) -> Version:
    """Return the lowest version above all that begin with these numbers."""
    if not numbers:
        return HIGHEST
    return _padded([*numbers[:-1], numbers[-1] + 1])
