"""What was measured: each figure has its values by target, one for each round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct, field

__all__ = ["TARGETS", "Figure", "Report", "Row", "median", "percentile", "ratio"]

TARGETS: Final = ("streamer", "Express", "raw", "bwrap")


class Figure(Struct):
    """One figure: its values by target, one a round; rounds of all targets are interleaved.

    `load` is how much was asked for at once, where the same was measured at several loads.
    `plotted` is whether the row's picture shows it, `more` whether more is better, `compared`
    whether a ratio of it says anything.
    """

    name: str
    unit: str
    values: dict[str, list[float]]
    load: int | None = None
    plotted: bool = False
    more: bool = False
    compared: bool = True

    @property
    def label(self) -> str:
        return self.name if self.load is None else f"{self.name}, {self.load:,}"


class Row(Struct):
    """What one suite measured, when and with what."""

    date: str
    seconds: float
    machine: dict[str, str]
    figures: list[Figure]


class Report(Struct):
    """The rows by the name of their suite."""

    rows: dict[str, Row] = field(default_factory=dict)


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest rank."""
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


def ratio(figure: Figure, target: str, other: str) -> float | None:
    """Return the median of the ratios within the rounds.

    So it stays right on a machine whose load changes from round to round.
    """
    values, others = figure.values.get(target, []), figure.values.get(other, [])
    pairs = list(zip(values, others, strict=True)) if len(values) == len(others) else []
    ratios = [value / base for value, base in pairs if base]
    return median(ratios) if ratios else None
