"""Write docs/performance.md and its pictures from what was measured."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import plots
from benchmarks.aims import AIMS
from benchmarks.figures import TARGETS, Figure, Report, Row, median, percentile, ratio

__all__ = ["write"]

TEXT: Final = Path(__file__).parent / "rows.md"
"""What a reader must know of each row: what it means, and where its cost goes, by profile."""
BASES: Final = TARGETS[1:]
COST_FIGURES: Final = (
    ("throughput", "python hello: server CPU a job, at once"),
    ("throughput", "bash no-op: server CPU a job, at once"),
    ("delay", "server CPU a line, streams"),
    ("fanout", "server CPU a line and reader, readers"),
    ("idle", "memory a stream, streams"),
)


class Section(NamedTuple):
    """What is written of a row before its table, and after it."""

    title: str
    meaning: str
    costs: str


def write(report: Report, page: Path) -> None:
    """Write the page, and its pictures in the folder of its name."""
    pictures = page.with_suffix("")
    head, *texts = re.split(r"^## ", TEXT.read_text(), flags=re.MULTILINE)
    sections = dict(map(_section, texts))
    load, aims = sections.pop("load"), sections.pop("aims")
    parts = [head.strip(), _summary(sections, report)]
    parts += [f"## {aims.title}", aims.meaning, _aims_table(sections, report), aims.costs]
    for name, (title, meaning, costs) in sections.items():
        row = report.rows.get(name)
        if row is None:
            continue
        plotted = [figure for figure in row.figures if figure.plotted]
        Path(pictures, f"{name}.svg").write_text(plots.bars(title, plotted))
        picture = f"![{title}: medians side by side]({pictures.name}/{name}.svg)"
        parts += [f"## {title}", meaning, _table(row.figures), picture, costs, _origin(row)]
    growing = _growing(report)
    if growing:
        Path(pictures, "load.svg").write_text(plots.lines(load.title, growing))
        parts += [f"## {load.title}", load.meaning, _growth_table(growing)]
        parts += [f"![{load.title}]({pictures.name}/load.svg)", load.costs]
    page.write_text("\n\n".join(part for part in parts if part) + "\n")


def _section(text: str) -> tuple[str, Section]:
    heading, _, body = text.partition("\n")
    name, _, title = heading.partition(": ")
    meaning, _, costs = body.strip().partition("\n\n")
    return name, Section(title, meaning, costs)


def _summary(sections: Mapping[str, Section], report: Report) -> str:
    """Return a table of the ratios that each row's picture shows first and last."""
    missing = [section.title for name, section in sections.items() if name not in report.rows]
    rows = [
        _cells(section.title, *(_ratio_text(row.figures, base) for base in BASES))
        for name, section in sections.items()
        if (row := report.rows.get(name))
    ]
    table = [_cells("streamer", *(f"x {name}" for name in BASES)), "|---|---|---|---|", *rows]
    if missing:
        table += ["", f"Not measured yet: {', '.join(missing)}."]
    return "\n".join(table)


def _aims_table(sections: Mapping[str, Section], report: Report) -> str:
    rows = [_cells("", "measured", "aim", "reached"), "|---|---:|---:|---|"]
    for aim in AIMS:
        value = aim.value(report)
        if value is None:
            continue
        figure = f"{sections[aim.suite].title}: {aim.label}"
        named = figure if aim.base is None else f"{figure}, x {aim.base}"
        bound = f"{'at least' if aim.at_least else 'at most'} {plots.number(aim.bound)}"
        reached = "yes" if aim.reached(value) else "**no**"
        rows.append(_cells(named, plots.number(value), bound, reached))
    return "\n".join(rows)


def _ratio_text(figures: Sequence[Figure], base: str) -> str:
    plotted = [figure for figure in figures if figure.plotted]
    ends = [plotted[0], plotted[-1]] if len(plotted) > 1 else plotted
    found = [f"{plots.number(value)} ({figure.label})" for figure in ends
             if (value := ratio(figure, TARGETS[0], base)) is not None]  # fmt: skip
    return "<br>".join(found)


def _origin(row: Row) -> str:
    facts = "; ".join(f"{name} {value}" for name, value in row.machine.items())
    return f"*{row.date}, {row.seconds:.0f} s: {facts}.*"


def _table(figures: Sequence[Figure]) -> str:
    targets = [name for name in TARGETS if any(name in figure.values for figure in figures)]
    bases = [name for name in targets if name in BASES]
    head = _cells("", *targets, *(f"x {name}" for name in bases))
    rows = [head, "|---|" + "---:|" * (len(targets) + len(bases))]
    for figure in figures:
        unit = f" ({figure.unit})" if figure.unit else ""
        ratios = [ratio(figure, TARGETS[0], base) if figure.compared else None for base in bases]
        rows.append(
            _cells(
                f"{figure.label}{unit}",
                *(_spread(figure.values.get(name, [])) for name in targets),
                *("" if value is None else f"**{plots.number(value)}**" for value in ratios),
            )
        )
    return "\n".join(rows)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    middle = plots.number(median(values))
    if len(values) == 1:
        return middle
    low, high = (plots.number(percentile(values, percent)) for percent in (10, 90))
    return f"{middle} ({low} to {high})"


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _growing(report: Report) -> dict[str, dict[int, float]]:
    """Return what streamer pays for one, by the name of the cost and by load."""
    found: dict[str, dict[int, float]] = {}
    for suite, name in COST_FIGURES:
        row = report.rows.get(suite)
        for figure in row.figures if row else ():
            if figure.name == name and figure.load is not None:
                cost = found.setdefault(f"{name} ({figure.unit})", {})
                cost[figure.load] = max(median(figure.values[TARGETS[0]]), 1e-3)
    return found


def _growth_table(growing: Mapping[str, Mapping[int, float]]) -> str:
    rows = [_cells("cost of one in streamer", "by load"), "|---|---|"]
    for name, cost in growing.items():
        steps = "; ".join(
            f"{load:,}: {plots.number(value)}" for load, value in sorted(cost.items())
        )
        rows.append(_cells(name, steps))
    return "\n".join(rows)
