"""The programs of the benchmark's jobs, and the bare commands that run the same."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Final

__all__ = [
    "BARE", "BWRAP", "HELLO", "LINE_BYTES", "NODE", "NOTHING", "bare_end", "bare_rate", "burst",
    "clock", "flood", "pause", "sleeper",
]  # fmt: skip

Job = dict[str, Any]
LINE_BYTES: Final = 64
"""Bytes of a line of `flood`, with its end."""

HELLO: Final[Job] = {"language": "python", "code": "print('hi')\n"}
NOTHING: Final[Job] = {"language": "bash", "code": ":\n"}
NODE: Final[Job] = {"language": "bash", "code": "exec node -v\n"}
"""The first command of the ComputeSDK table (github.com/computesdk/benchmarks)."""

RAW_ENV: Final = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
BWRAP: Final = tuple(
    """
    bwrap --unshare-user --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup-try
    --unshare-net --disable-userns --die-with-parent --new-session --as-pid-1 --cap-drop ALL --uid
    65534 --gid 65534 --hostname sandbox --clearenv --setenv PATH /usr/local/bin:/usr/bin:/bin
    --setenv HOME /work --setenv LANG C.UTF-8 --setenv PYTHONUNBUFFERED 1 --setenv
    PYTHONDONTWRITEBYTECODE 1 --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib
    --symlink usr/lib64 /lib64 --ro-bind-try /etc/alternatives /etc/alternatives --ro-bind-try
    /etc/ld.so.cache /etc/ld.so.cache --ro-bind-try /etc/ssl/certs /etc/ssl/certs --ro-bind-try
    /etc/localtime /etc/localtime --proc /proc --dev /dev --size 16777216 --tmpfs /dev/shm
    --remount-ro /dev --size 67108864 --tmpfs /tmp --bind {work} /work --chdir /work --remount-ro
    / --
    """.split()  # noqa: SIM905 - read as a command line
)
"""A bubblewrap like that of our backend, without our init and system call filter."""
BARE: Final[dict[str, Sequence[str]]] = {"raw": (), "bwrap": BWRAP}
"""What stands before a program that is run without a server: nothing, or a sandbox."""
PROGRAMS: Final = {
    "python": ("main.py", "/usr/bin/python3"),
    "bash": ("main.sh", "/usr/bin/bash"),
}


def sleeper(seconds: float) -> Job:
    """Say that it runs, then wait."""
    code = f"import os, time\nos.write(1, b'up\\n')\ntime.sleep({seconds})\n"
    return {"language": "python", "code": code}


def pause(seconds: float) -> Job:
    """Hold a place for a while, without processor time."""
    return {"language": "bash", "code": f"sleep {seconds}\n"}


def clock(lines: int, every_s: float = 0.01) -> Job:
    """Print CLOCK_MONOTONIC, which all processes share, on a fixed schedule."""
    code = f"""\
import os, time
start = time.monotonic()
for number in range(1, {lines} + 1):
    left = start + number * {every_s} - time.monotonic()
    if left > 0:
        time.sleep(left)
    os.write(1, b"%d\\n" % time.monotonic_ns())
"""
    return {"language": "python", "code": code}


def burst(lines: int, after_s: float) -> Job:
    """Wait until readers are there, then print the clock about once a millisecond."""
    code = f"""\
import os, time
time.sleep({after_s})
for _ in range({lines}):
    os.write(1, b"%d\\n" % time.monotonic_ns())
    time.sleep(0.001)
"""
    return {"language": "python", "code": code}


def flood(mib: int) -> Job:
    """Write lines as fast as they are taken."""
    code = f"""\
import os
block = (b"x" * {LINE_BYTES - 1} + b"\\n") * {65536 // LINE_BYTES}
for _ in range({mib * 16}):
    view = memoryview(block)
    while view:
        view = view[os.write(1, view):]
"""
    return {"language": "python", "code": code}


def _prepare(way: str, job: Job, folder: str) -> list[str]:
    entry, program = PROGRAMS[job["language"]]
    Path(folder, entry).write_text(job["code"])
    return [*(word.replace("{work}", folder) for word in BARE[way]), program, entry]


def bare_end(way: str, job: Job) -> tuple[float, float, int]:
    """Run a program without a server: seconds to its first byte and its end, and its bytes."""
    folder = tempfile.mkdtemp(prefix="bare-")
    began, first, size = monotonic(), 0.0, 0
    try:
        argv = _prepare(way, job, folder)
        env = {**RAW_ENV, "HOME": folder}
        with subprocess.Popen(argv, cwd=folder, env=env, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            while data := os.read(process.stdout.fileno(), 1 << 18):
                first = first or monotonic()
                size += len(data)
        if process.returncode:
            raise RuntimeError(f"{way} ended with {process.returncode}")
        ended = monotonic()
    finally:
        shutil.rmtree(folder)
    return (first or ended) - began, ended - began, size


async def bare_rate(way: str, job: Job, at_once: int, count: int) -> float:
    """Return the jobs a second of `xargs -P`, where no Python is in the way."""
    with tempfile.TemporaryDirectory(prefix="bare-") as folder:
        argv = _prepare(way, job, folder)
        began = monotonic()
        process = await asyncio.create_subprocess_exec(
            *("xargs", "-P", str(at_once), "-I", "@@", *argv),
            cwd=folder,
            env={**RAW_ENV, "HOME": folder},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
        )
        await process.communicate("".join(f"{number}\n" for number in range(count)).encode())
        if process.returncode:
            raise RuntimeError(f"xargs ended with {process.returncode}")
        return count / (monotonic() - began)
