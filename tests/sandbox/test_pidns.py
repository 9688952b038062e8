"""Find pid 1 of a sandbox's namespace from outside."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from streamer.sandbox.drivers.pidns import first_above
from tests.running import descendants

IN_A_NAMESPACE = [
    "bwrap",
    "--unshare-pid",
    "--die-with-parent",
    "--ro-bind",
    "/",
    "/",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
]


def ids(pid: int) -> list[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1:] for line in lines if line.startswith("NSpid:"))


def test_it_is_found_among_the_ancestors(need: Callable[[str], str]) -> None:
    need("bwrap")
    command = [*IN_A_NAMESPACE, "sh", "-c", "echo; cat; true"]  # two processes beneath its pid 1
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as wrapper:
        assert wrapper.stdout is not None
        wrapper.stdout.readline()
        inside = [pid for pid in descendants() if len(ids(pid)) > len(ids(os.getpid()))]
        [first] = [pid for pid in inside if ids(pid)[-1] == "1"]
        assert len(inside) >= 2
        assert {first_above(pid) for pid in inside} == {first}
        assert first_above(wrapper.pid) == 0
        wrapper.kill()


def test_in_our_own_namespace_there_is_none() -> None:
    assert first_above(os.getpid()) == 0
    assert first_above(1) == 0
    with subprocess.Popen(["true"]) as ended:
        pass
    assert first_above(ended.pid) == 0
