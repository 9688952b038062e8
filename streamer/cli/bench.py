"""The command `streamer bench`: how fast this host runs programs, and what disturbs that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from streamer.cli.options import OF_USER, ConfigOptions, config_options, load
from streamer.cli.work import work

if TYPE_CHECKING:
    from streamer.cli.measuring import Bench, Figure

__all__ = ["bench"]


@click.command()
@config_options(OF_USER)
@click.option(
    "--rounds",
    type=click.IntRange(3, 1000),
    default=10,
    show_default=True,
    metavar="N",
    help="Measure everything so often; the result is the median.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(options: ConfigOptions, rounds: int, *, as_json: bool) -> None:
    """Measure this host for some seconds: how fast it starts, and runs small programs.

    Beside each figure is that of the same program without a sandbox. In brackets is the range of
    most rounds: nine of ten took longer than the first, and nine of ten less than the second.
    """
    import logging

    from streamer.cli.measuring import measure
    from streamer.cli.progress import Progress

    config = load(options)
    logging.getLogger("streamer").setLevel(logging.ERROR)
    with Progress("measuring", lines=not as_json) as progress:
        measured = work(measure(config, rounds, progress.set), quick=True)
    if as_json:
        from streamer.cli.service import as_json as in_json

        click.echo(in_json(_document(measured, rounds)))
        return
    from streamer.cli.table import show_rows

    show_rows([_row(figure) for figure in measured.figures])
    click.echo(
        f"\n{measured.sandbox}, {measured.processors} processors, {measured.concurrency} jobs at "
        f"once, {rounds} rounds"
    )
    if measured.noise:
        click.echo(
            f"noisy: {measured.noise}. Compare the columns with each other, not with another day's."
        )


def _row(figure: Figure) -> dict[str, Any]:
    return {
        "": figure.name,
        "in a sandbox": _shown(figure.values, figure.unit),
        "without": _shown(figure.floor, figure.unit) if figure.floor else "-",
        "ratio": "-" if figure.ratio is None else f"{figure.ratio:.2f}",
    }


def _shown(values: tuple[float, ...], unit: str) -> str:
    low, middle, high = (f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in _of(values))
    return f"{middle} {unit} ({low} to {high})"


def _of(values: tuple[float, ...]) -> tuple[float, float, float]:
    """Return the tenth part from below, the median and the tenth part from above."""
    from statistics import median, quantiles

    tenths = quantiles(values, n=10, method="inclusive")
    return tenths[0], median(values), tenths[-1]


def _document(measured: Bench, rounds: int) -> dict[str, Any]:
    def summary(values: tuple[float, ...]) -> dict[str, float]:
        low, middle, high = _of(values)
        return {"median": round(middle, 3), "p10": round(low, 3), "p90": round(high, 3)}

    return {
        "sandbox": measured.sandbox,
        "processors": measured.processors,
        "load": round(measured.load, 2),
        "concurrency": measured.concurrency,
        "rounds": rounds,
        "noise": measured.noise,
        "figures": [
            {
                "name": figure.name,
                "unit": figure.unit,
                **summary(figure.values),
                "withoutSandbox": summary(figure.floor) if figure.floor else None,
            }
            for figure in measured.figures
        ],
    }
