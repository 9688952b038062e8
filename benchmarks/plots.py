"""Draw SVG pictures: bars of figures side by side, and lines of how costs grow with load."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

from benchmarks.figures import TARGETS, Figure, median

__all__ = ["bars", "lines", "number"]

WIDTH: Final = 760
LEFT: Final = 250
BAR: Final = 15
GAP: Final = 12
COLOURS: Final = dict(zip(TARGETS, ("#2f6db5", "#d9822b", "#9aa3ad", "#5d8a66"), strict=True))
LINE_COLOURS: Final = ("#2f6db5", "#d9822b", "#5d8a66", "#9a4f96", "#8a6d3b", "#4a4a4a")
STYLE: Final = "text { font: 13px sans-serif; fill: #222 } .small { font-size: 12px; fill: #555 }"


def number(value: float) -> str:
    """Return a number with as many digits as mean something."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" {more}>{escape(text)}</text>'


def _picture(height: float, label: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(label)}">'
    )
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join((head, f"<style>{STYLE}</style>", ground, *parts, "</svg>\n"))


def bars(title: str, figures: Sequence[Figure]) -> str:
    """Return a picture of medians; the longest bar of each figure has the full length."""
    parts = [_text(10, 20, title, 'font-weight="bold"')]
    y = 34.0
    for figure in figures:
        middles = {name: median(figure.values[name]) for name in TARGETS if name in figure.values}
        longest = max(*middles.values(), 1e-9)
        better = "more is better" if figure.more else "less is better"
        parts.append(_text(10, y + 11, figure.label))
        parts.append(_text(10, y + 26, f"{figure.unit}, {better}", 'class="small"'))
        for at, (name, value) in enumerate(middles.items()):
            top = y + at * BAR
            length = max(1.0, (WIDTH - LEFT - 140) * value / longest)
            parts.append(
                f'<rect x="{LEFT}" y="{top:.0f}" width="{length:.1f}" height="{BAR - 2}" '
                f'fill="{COLOURS[name]}"/>'
            )
            parts.append(
                _text(LEFT + length + 6, top + 11, f"{number(value)}  {name}", 'class="small"')
            )
        y += max(len(middles), 2) * BAR + GAP
    return _picture(y, title, parts)


def lines(title: str, costs: Mapping[str, Mapping[int, float]]) -> str:
    """Return a picture of costs by load, each relative to its own at the least load; both axes
    are logarithmic.
    """
    top, bottom, right = 40.0, 330.0, float(WIDTH - 330)
    loads = [load for cost in costs.values() for load in cost]
    shares = {
        name: {load: value / cost[min(cost)] for load, value in cost.items()}
        for name, cost in costs.items()
    }
    values = [value for share in shares.values() for value in share.values()]
    low, high = min(0.1, *values), max(10.0, *values)

    def x(load: float) -> float:
        return 60 + (right - 60) * math.log(load) / math.log(max(*loads, 2))

    def y(value: float) -> float:
        return bottom - (bottom - top) * math.log(value / low) / math.log(high / low)

    parts = [_text(10, 20, title, 'font-weight="bold"')]
    for power in range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1):
        at = y(10**power)
        parts.append(f'<path d="M60 {at:.1f}H{right:.0f}" stroke="#ddd"/>')
        parts.append(_text(52, at + 4, f"{10**power:g} x", 'class="small" text-anchor="end"'))
    parts += [
        _text(x(load), bottom + 18, f"{load:,}", 'class="small" text-anchor="middle"')
        for load in sorted({1, 10, 100, 1000, max(loads)})
        if load <= max(loads)
    ]
    for at, (name, share) in enumerate(shares.items()):
        colour = LINE_COLOURS[at % len(LINE_COLOURS)]
        points = " ".join(f"{x(load):.1f},{y(value):.1f}" for load, value in sorted(share.items()))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        parts += [
            f'<circle cx="{x(load):.1f}" cy="{y(value):.1f}" r="3" fill="{colour}"/>'
            for load, value in share.items()
        ]
        parts.append(
            f'<rect x="{right + 20:.0f}" y="{top + at * 22:.0f}" width="12" height="12" '
            f'fill="{colour}"/>'
        )
        parts.append(_text(right + 38, top + at * 22 + 11, name, 'class="small"'))
    return _picture(bottom + 34, title, parts)
