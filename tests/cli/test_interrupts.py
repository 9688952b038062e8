"""Press Ctrl-C while a command is still being imported."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import open_to_all

COMMAND = "runtimes"
"""It imports most, does not begin with work that has to be cleaned up after, and ends quickly."""
FIRST = "streamer.cli"
"""The first import of the command; earlier ones belong to Python's own start."""
TIMES = 20
PIPE_BYTES = 4096
LINES_IN_PIPE = PIPE_BYTES // 30 + 1
"""How many imports the command may be ahead of the reader: a line takes over 30 bytes."""


@contextmanager
def importing(*, ignoring: bool = False) -> Iterator[tuple[subprocess.Popen[str], Iterator[str]]]:
    """Run a command; yield it, and the modules as they have been imported."""

    def modules() -> Iterator[str]:
        assert process.stderr
        for line in process.stderr:
            assert line.startswith("import time:"), line
            yield line.rpartition("|")[2].strip()

    # A shell ignores the signal for background jobs, one of which may run these tests.
    default = ["env", "--default-signal=INT"]
    argv = [*default, sys.executable, "-X", "importtime", "-m", "streamer", COMMAND]
    if ignoring:
        argv = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *argv[len(default) :]]
    with subprocess.Popen(
        argv,
        cwd="/",  # where no config.toml is talked of
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        yield process, modules()


@pytest.fixture(scope="module")
def imported() -> list[str]:
    """Return what a command imports, once it has begun."""
    with importing() as (_, modules):
        names = list(modules)
    return names[names.index(FIRST) :]


@pytest.mark.parametrize("time", range(TIMES))
def test_an_interrupt_while_it_is_imported_ends_it_without_a_traceback(
    imported: list[str], time: int
) -> None:
    count = len(imported) - LINES_IN_PIPE
    assert count > TIMES
    moment = imported[time * count // TIMES]
    with importing() as (process, modules):
        assert FIRST in modules  # Python has its own moments before, some of the same names
        assert moment == FIRST or moment in modules
        process.send_signal(signal.SIGINT)
        out, said = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in said
    assert "KeyboardInterrupt" not in said


def test_an_interrupt_that_is_ignored_stays_so() -> None:
    with importing(ignoring=True) as (process, modules):
        assert FIRST in modules
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()
    assert process.returncode == 0
    assert "python" in out


def test_an_interrupt_of_work_leaves_nothing_behind(tmp_path: Path) -> None:
    open_to_all(tmp_path)
    begun, state = tmp_path / "begun", tmp_path / "state"
    os.mkfifo(begun)
    begun.chmod(0o666)
    wrapper = tmp_path / "bwrap"
    wrapper.write_text(f"#!/bin/sh\necho > {begun}\nexec sleep 600\n")
    wrapper.chmod(0o755)
    options = (f"sandbox.bwrap.path={wrapper}", f"server.state_dir={state}")
    settings = [argument for option in options for argument in ("--set", option)]
    argv = ["env", "--default-signal=INT", sys.executable, "-m", "streamer", "sandboxes", *settings]
    with subprocess.Popen(
        argv, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        begun.read_text()
        assert list(state.iterdir())
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert (process.returncode, said.strip()) == (130, "")
    assert list(state.iterdir()) == []
