"""Start a service as a separate process, and measure its memory and CPU time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["Server", "serving"]

MIB = 1024 * 1024


@dataclass(frozen=True)
class Server:
    """A running service."""

    pid: int
    address: str

    @property
    def port(self) -> int:
        port = urlsplit(self.address).port
        assert port
        return port

    def resident_bytes(self) -> int:
        fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def peak_bytes(self) -> int:
        """Return the most that was resident since `forget_peak` (proc_pid_clear_refs(5))."""
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found
        return int(found[1]) * 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def cpu_s(self) -> float:
        text = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(text[11]) + int(text[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def serving(*settings: str) -> AsyncIterator[Server]:
    """Start `streamer serve` on a free port with settings such as ``streams.grace_s=0``."""
    options = [option for setting in settings for option in ("--set", setting)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamer", "serve", "--port", "0", *options),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    found = None
    while not found:
        line = (await process.stderr.readline()).decode()
        assert line, "the service ended at its start"
        found = re.search(r"listens on (http://[\d.]+:\d+)", line)
    draining = asyncio.create_task(process.stderr.read())
    try:
        yield Server(process.pid, found[1])
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        await draining
