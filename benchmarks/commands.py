"""Measure what commands of the command line cost, and how soon a server is ready."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.figures import Figure
from benchmarks.programs import HELLO, PROGRAMS
from benchmarks.servers import STREAMER, express, ours
from benchmarks.streams import Values

__all__ = ["startup"]

STREAMER_COMMAND: Final = str(Path(sys.executable).with_name("streamer"))
TURNS: Final = 5


async def startup(rounds: int) -> list[Figure]:
    """The processor time of two commands, beside the interpreter alone, and servers until ready."""
    found = Values()
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "hello.py")
        program.write_text(HELLO["code"])
        python = PROGRAMS["python"][1]
        commands = {
            "version": (("version",), (sys.executable, "-c", "")),
            "run": (("run", str(program)), (python, str(program))),
        }
        for turn in range(TURNS * rounds):
            for name, (ours_, bare) in commands.items():
                for target, argv in ((STREAMER, (STREAMER_COMMAND, *ours_)), ("raw", bare)):
                    took = _cpu_ms(argv, folder)
                    if turn:  # the first ones compile and warm up
                        found.add(target, {name: took})
    for _ in range(rounds):
        for start in (ours, express):
            async with start() as server:
                found.add(server.name, {"ready": server.ready_s * 1e3})
    return [
        Figure("`streamer version`: CPU", "ms", found["version"], plotted=True),
        Figure("`streamer run hello.py`: CPU", "ms", found["run"], plotted=True),
        Figure("until the service is ready", "ms", found["ready"], plotted=True),
    ]


def _cpu_ms(argv: Sequence[str], folder: str) -> float:
    """Return the processor time of a command and of all that it has started and waited for."""
    process = subprocess.Popen(
        argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{argv[0]} ended with {process.returncode}")
    return (used.ru_utime + used.ru_stime) * 1e3
