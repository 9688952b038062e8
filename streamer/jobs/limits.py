"""Check the limits that a caller asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Final

from streamer.errors import InvalidJob
from streamer.model.job import LEAST, Limits
from streamer.model.names import camel
from streamer.model.sizes import parse_size

__all__ = ["resolved_limits"]

MAX_SHOWN: Final = 10**30
LIMIT_NAMES: Final = frozenset(field.name for field in fields(Limits))


def resolved_limits(
    wanted: Mapping[str, float | str], base: Limits, most: Limits, path: str = "$.limits"
) -> Limits:
    """Return `base` with the limits that a caller wants, up to `most`. Raises `InvalidJob`."""
    changes: dict[str, float] = {}
    for name, value in wanted.items():
        place = f"{path}.{camel(name)}"
        if name not in LIMIT_NAMES:
            raise InvalidJob(
                f"unknown limit {name!r}; known: {', '.join(sorted(LIMIT_NAMES))}", path=place
            )
        changes[name] = _number(name, value, getattr(LEAST, name), getattr(most, name), place)
    return replace(base, **changes) if changes else base  # type: ignore[arg-type]


def _number(name: str, value: object, least: float, most: float, path: str) -> float:
    if isinstance(value, str) and name.endswith("_bytes"):
        try:
            value = parse_size(value)
        except ValueError as error:
            raise InvalidJob(str(error), path=path) from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidJob("expected a number", path=path)
    if not name.endswith("_s") and not isinstance(value, int):
        raise InvalidJob("expected a whole number", path=path)
    # Not math.isfinite, which fails for integers beyond 1e308. NaN fails comparisons.
    if not least <= value <= most:
        # An integer may have more digits than Python formats.
        shown = f"{value} is" if abs(value) < MAX_SHOWN else "the number is"
        raise InvalidJob(f"{shown} out of range: it must be from {least} to {most}", path=path)
    return value
