"""The standard descriptors of a run: no end is left open, or closed twice."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from streamer.sandbox.stdio import PIPE_BYTES, Stdio
from streamer.spi import Identity
from tests.running import descriptors


def test_both_sides_are_connected_and_closed() -> None:
    before = descriptors()
    stdio = Stdio.pipes(with_input=True)
    stdin, stdout, stderr = stdio.theirs
    ours = {name: stdio.take(name) for name in ("stdin", "stdout", "stderr")}
    os.write(ours["stdin"], b"in")
    os.write(stdout, b"out")
    os.write(stderr, b"err")
    assert os.read(stdin, 9) == b"in"
    assert (os.read(ours["stdout"], 9), os.read(ours["stderr"], 9)) == (b"out", b"err")
    assert not any(os.get_blocking(fd) for fd in ours.values())
    assert all(os.get_blocking(fd) for fd in stdio.theirs)
    assert not any(os.get_inheritable(fd) for fd in (*stdio.theirs, *ours.values()))
    assert {fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) for fd in (stdout, stderr)} == {PIPE_BYTES}
    stdio.close_theirs()
    stdio.close_theirs()
    assert os.read(ours["stdout"], 9) == b""
    for fd in ours.values():
        os.close(fd)
    stdio.close()
    assert descriptors() == before


def test_what_nobody_takes_is_closed() -> None:
    before = descriptors()
    for stdio in (Stdio.pipes(), Stdio.pipes(with_input=True), Stdio.null()):
        stdio.close()
        stdio.close()
    assert descriptors() == before


def test_without_input_a_program_finds_its_end() -> None:
    stdio = Stdio.pipes()
    assert os.read(stdio.theirs[0], 9) == b""
    stdio.close()


def test_what_cannot_be_made_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    real = os.pipe2
    made: list[tuple[int, int]] = []

    def pipe2(flags: int) -> tuple[int, int]:
        if len(made) == 2:
            raise OSError(24, "too many open files")
        made.append(real(flags))
        return made[-1]

    monkeypatch.setattr(os, "pipe2", pipe2)
    with pytest.raises(OSError, match="too many"):
        Stdio.pipes(with_input=True)
    assert len(made) == 2
    assert descriptors() == before


def test_a_user_whose_memory_for_pipes_is_used_up_has_smaller_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: int) -> int:
        raise PermissionError

    before = descriptors()
    monkeypatch.setattr(fcntl, "fcntl", refused)
    stdio = Stdio.pipes()
    os.write(stdio.theirs[1], b"out")
    assert os.read(stdio._ours["stdout"], 9) == b"out"
    stdio.close()
    assert descriptors() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives away what is its own")
def test_pipes_belong_to_the_user_of_the_sandbox_and_what_is_shared_to_nobody() -> None:
    user = Identity(60800, 60801)
    stdio = Stdio.pipes()
    stdio.take("stdout")
    stdio.give_to(user)
    assert {(os.fstat(fd).st_uid, os.fstat(fd).st_gid) for fd in stdio.theirs} == {(60800, 60801)}
    stdio.close()
    null = Stdio.null()
    null.give_to(user)
    assert Path(os.devnull).stat().st_uid == 0
    null.close()
