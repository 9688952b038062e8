"""How far a command has come, and what `streamer bench` measures."""

from __future__ import annotations

import json
import os
import queue
import sys
from pathlib import Path

import pytest

from streamer.cli import progress
from streamer.cli.measuring import Bench, Figure
from streamer.cli.progress import Progress
from tests.cli.test_commands import command


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SHOWN_AFTER_S", 0)
    monkeypatch.setenv("TERM", "xterm")
    here, there = os.openpty()
    with os.fdopen(here, "rb", buffering=0) as screen, os.fdopen(there, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        shown = b""
        with Progress("up[red]load\x1b[2J") as task:
            task.set(1, 4)
            while b"up[red]load" not in shown:
                shown += screen.read(1000)
        while not shown.endswith(b"\x1b[2K"):  # the line is erased
            shown += screen.read(1000)
    assert b"\x1b[2J" not in shown


def test_a_file_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    said: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(progress, "TOLD_AFTER_S", 0)
    monkeypatch.setattr(progress, "TOLD_EVERY_S", 0)
    monkeypatch.setattr("click.echo", lambda text, err: said.put(text))
    with Progress("saving") as task:
        assert said.get(timeout=30) == "streamer: saving"
        task.set(1, 4)
        assert said.get(timeout=30) == "streamer: saving: 25%"
    task.set(2, 4)
    assert said.empty()


def test_beside_json_a_file_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    said: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(progress, "TOLD_AFTER_S", 0)
    monkeypatch.setattr(progress, "TOLD_EVERY_S", 0)
    monkeypatch.setattr("click.echo", lambda text, err: said.put(text))
    with Progress("measuring", lines=False) as quiet:
        quiet._timer.join()
        quiet.set(1, 4)
    assert said.empty()


def test_what_is_quick_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("saving") as task:
        task.set(1, 1)
    assert capsys.readouterr() == ("", "")


def test_bench_measures_beside_the_bare_program(tmp_path: Path) -> None:
    done = command(tmp_path, "bench", "--json", "--rounds", "3", "--set", "queue.concurrency=1")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["sandbox"], found["concurrency"]) == ("bwrap", 1)
    figures = {figure["name"]: figure for figure in found["figures"]}
    assert figures.keys() == {"start", "no-op", "first byte", "throughput"}
    for name, figure in figures.items():
        assert 0 < figure["p10"] <= figure["median"] <= figure["p90"]
        assert (figure["withoutSandbox"] is None) == (name == "start")


@pytest.mark.parametrize(
    ("load", "floor", "noise"),
    [
        (0.1, (1.0, 1.1, 1.2, 1.0), ""),
        (1.5, (1.0, 1.1, 1.2, 1.0), "the load was 1.5 on 2 processors"),
        (0.1, (1.0, 1.0, 9.0, 9.0), "up to 9.0 times as long in one round as in another (no-op)"),
    ],
)
def test_noise_is_told(load: float, floor: tuple[float, ...], noise: str) -> None:
    figure = Figure("no-op", "ms", (3.0, 3.0, 3.0, 3.0), floor)
    measured = Bench("bwrap", 2, load, 4, (figure,))
    assert noise in measured.noise
    assert bool(measured.noise) == bool(noise)


def test_the_ratio_is_of_the_medians() -> None:
    assert Figure("no-op", "ms", (3.0, 100.0, 2.0), (1.0, 1.5, 9.0)).ratio == 2.0
    assert Figure("start", "ms", (3.0,)).ratio is None
