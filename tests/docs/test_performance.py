"""The report of `make bench` agrees with its figures."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from benchmarks.__main__ import NUMBERS, PAGE, SUITES
from benchmarks.aims import AIMS, Aim
from benchmarks.client import Chunks
from benchmarks.figures import Figure, Report, Row, ratio
from benchmarks.report import TEXT, write


def row(*figures: Figure) -> Row:
    return Row(date="today", seconds=1, machine={"cores": "2"}, figures=[*figures])


def test_the_committed_report_is_that_of_the_committed_figures(tmp_path: Path) -> None:
    report = msgspec.json.decode(NUMBERS.read_bytes(), type=Report)
    pictures = tmp_path / PAGE.stem
    pictures.mkdir()
    write(report, tmp_path / PAGE.name)
    assert (tmp_path / PAGE.name).read_text() == PAGE.read_text()
    for picture in pictures.iterdir():
        committed = PAGE.with_suffix("") / picture.name
        assert picture.read_text() == committed.read_text()
        ET.fromstring(committed.read_text())  # noqa: S314 - our own


def test_every_suite_is_explained() -> None:
    names = re.findall(r"^## (\w+): ", TEXT.read_text(), re.MULTILINE)
    assert names == ["aims", *SUITES, "load"]


def test_a_row_shows_medians_their_spread_and_ratios_within_the_rounds(tmp_path: Path) -> None:
    figure = Figure(
        "end", "ms", {"streamer": [1.0, 3.0, 8.0], "Express": [2.0, 12.0, 4.0]}, plotted=True
    )
    (tmp_path / "page").mkdir()
    write(Report({"latency": row(figure)}), tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "| end (ms) | 3.00 (1.00 to 8.00) | 4.00 (2.00 to 12.0) | **0.50** |" in text
    assert "Not measured yet: Start to first command, " in text
    picture = (tmp_path / "page" / "latency.svg").read_text()
    widths = [float(width) for width in re.findall(r'width="([\d.]+)" height="13"', picture)]
    assert widths == [370 * 0.75, 370]


def test_every_aim_is_one_of_a_figure() -> None:
    report = msgspec.json.decode(NUMBERS.read_bytes(), type=Report)
    assert [aim for aim in AIMS if aim.value(report) is None] == []


@pytest.mark.parametrize(("value", "reached"), [(0.39, "yes"), (0.4, "yes"), (0.41, "**no**")])
def test_an_aim_is_reached_at_its_bound(tmp_path: Path, value: float, reached: str) -> None:
    figure = Figure("python hello: first byte", "ms", {"streamer": [value], "raw": [1.0]})
    (tmp_path / "page").mkdir()
    write(Report({"latency": row(figure)}), tmp_path / "page.md")
    line = f"first byte, x raw | {value:.2f} | at most 0.40 | {reached} |"
    assert line in (tmp_path / "page.md").read_text()


def test_an_aim_of_more_is_reached_above_its_bound() -> None:
    aim = Aim("flood", "output", "Express", 2.5, at_least=True)
    assert [aim.reached(value) for value in (2.4, 2.5, 2.6)] == [False, True, True]


def test_a_ratio_needs_the_same_rounds() -> None:
    figure = Figure("end", "ms", {"streamer": [1.0, 2.0], "raw": [1.0]})
    assert ratio(figure, "streamer", "raw") is None
    assert ratio(figure, "streamer", "bwrap") is None


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_the_framing_of_chunks_is_taken_off_wherever_it_is_cut(size: int) -> None:
    body = b"5\r\nhello\r\nc;x=y\r\n, world\r\n!!!\r\n0\r\n\r\n"
    chunks = Chunks()
    parts = [chunks.feed(body[at : at + size]) for at in range(0, len(body), size)]
    assert b"".join(parts) == b"hello, world\r\n!!!"
