"""The built-in languages, as data.

To add one, write ``[runtimes.NAME]`` in config.toml, or a row here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamer.model.job import MIB
from streamer.model.runtime import Runtime

__all__ = ["DEFAULT_RUNTIMES"]

LINE_BUFFERED: Final = """\
#include <stdio.h>
__attribute__((constructor)) static void streamer_line_buffered(void)
{
    setvbuf(stdout, 0, _IOLBF, 0);
    setvbuf(stdin, 0, _IOLBF, 0);
}
"""
"""For every C and C++ program: their library buffers 4 KiB before it writes to a pipe. glibc
also writes an unfinished line when line-buffered input is read (_IO_new_file_underflow), so that a
prompt appears before its answer, as on a terminal. A preloaded library could not do that; static
programs do not load one and AddressSanitizer refuses it."""

NO_LEAK_CHECK: Final = {"ASAN_OPTIONS": "detect_leaks=0"}
"""LeakSanitizer needs ptrace(2), which no sandbox allows; it would end programs without leaks."""

DEFAULT_RUNTIMES: Final[Mapping[str, Runtime]] = {
    runtime.name: runtime
    for runtime in (
        Runtime(
            name="python",
            aliases=("py", "python3"),
            entry="main.py",
            run=("python3", "{entry}"),
            # Unbuffered: Python buffers 8 KiB before it writes to a pipe.
            env={"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            version=("python3", "--version"),
        ),
        Runtime(
            name="javascript",
            aliases=("js", "node"),
            entry="main.js",
            # By default it sizes its heap by the host's memory and collects garbage too late.
            run=("node", "--max-old-space-size={memory_mb}", "{entry}"),
            limits={"memory_bytes": 512 * MIB},
            version=("node", "--version"),
        ),
        Runtime(
            name="bash",
            aliases=("shell",),
            entry="main.sh",
            run=("bash", "{entry}"),
            version=("bash", "--version"),
            # It would count $SECONDS from its start, which takes only 2 ms.
            warm=False,
        ),
        Runtime(
            name="c",
            aliases=("cc", "gcc"),
            entry="main.c",
            sources=("*.c",),
            compile=("cc", "-O1", "-o", "a.out", "{sources}", "-x", "c", "-", "-lm"),
            compile_input=LINE_BUFFERED,
            run=("./a.out",),
            env=NO_LEAK_CHECK,
            version=("cc", "--version"),
        ),
        Runtime(
            name="cpp",
            aliases=("c++", "cxx"),
            entry="main.cpp",
            sources=("*.cpp", "*.cc", "*.cxx"),
            compile=("c++", "-O1", "-std=gnu++20", "-o", "a.out", "{sources}", "-x", "c++", "-"),
            compile_input=LINE_BUFFERED,
            run=("./a.out",),
            env=NO_LEAK_CHECK,
            # g++ needs 310 MiB for a program that includes the whole standard library.
            limits={"memory_bytes": 768 * MIB},
            version=("c++", "--version"),
        ),
    )
}
