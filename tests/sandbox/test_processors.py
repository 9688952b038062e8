"""What the kernel says of the processors is read as it is meant."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from streamer.sandbox import processors as module
from streamer.sandbox.processors import Processors


@contextmanager
def spinning(count: int) -> Iterator[None]:
    argv = (sys.executable, "-I", "-S", "-c", "while True: pass")
    spinners = [subprocess.Popen(argv) for _ in range(count)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def test_others_that_run_want_the_processors() -> None:
    processors = Processors()
    with spinning(processors.count + 1):
        end = time.monotonic() + 20
        while not processors.are_wanted():
            assert time.monotonic() < end
    processors.count = 10_000
    assert not processors.are_wanted()


def test_busy_processors_are_not_free() -> None:
    processors = Processors()
    with spinning(processors.count + 1):
        processors.were_free()
        end = time.monotonic() + 3 * module.WINDOW_S
        while time.monotonic() < end:
            assert not processors.were_free()


@pytest.mark.parametrize(
    ("after_s", "idle_s", "free"),
    [
        (1.5, 1.5, False),  # too long ago: who knows when it was idle
        (0.05, 0.1, False),  # too short to tell
        (0.2, 0.18, False),
        (0.2, 0.2, True),
        (0.2, 0.4, True),
    ],
)
def test_one_was_free_if_the_idle_time_is_that_of_one(
    after_s: float, idle_s: float, *, free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    processors = Processors()
    now, idle = 100.0, 50.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(module, "_idle_s", lambda: idle)
    assert not processors.were_free()
    now, idle = now + after_s, idle + idle_s
    assert processors.were_free() == free


def test_idle_time_is_of_all_processors() -> None:
    with open("/proc/stat") as file:  # noqa: PTH123 - beside the other
        of_all = int(file.readline().split()[4]) / 100
    assert module._idle_s() == pytest.approx(of_all, rel=0.1)
