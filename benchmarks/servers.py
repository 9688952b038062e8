"""The servers and the bare commands that are compared, and what they use, from /proc."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from benchmarks.client import Client
from benchmarks.programs import BWRAP

__all__ = [
    "COLD", "EXPRESS", "FORKED", "MIB", "STREAMER", "TENANTS", "Server", "both", "express", "ours",
]  # fmt: skip

MIB: Final = 1024 * 1024
STREAMER: Final = "streamer"
EXPRESS: Final = "Express"
TENANTS: Final = ("one", "other")
"""Two tenants, each with its name as its token."""
ROOT: Final = Path(__file__).parent.parent
NODE_MODULES: Final = ROOT / "build" / "benchmarks"
PLACES: Final = 2 * (os.cpu_count() or 1)
"""Jobs at a time where nothing else is said: the default of the service."""
MANY_PLACES: Final = 200
REST_WITHIN_S: Final = 30
LITTLE_CPU_S: Final = 0.05
FOR_LOAD: Final = (
    f"queue.concurrency={MANY_PLACES}",
    "limits.default.output_bytes=1073741824",
    "streams.max_readers_per_job=6000",
    "streams.max_readers=20000",
)

FORKED: Final = ("runtimes.python.fork=true",)
COLD: Final = ("sandbox.warm=false",)
"""Nothing is opened or started before its job; the templates of sandboxes stay."""
WITHOUT_UVLOOP: Final = """\
import sys
sys.modules["uvloop"] = None
from streamer.__main__ import main
main()
"""


@dataclass
class Server:
    """A running server: a client of it, and its own process, without its jobs and sandboxes."""

    name: str
    client: Client
    pid: int
    ready_s: float
    """How long it took from its start until it listened."""

    def resident_mib(self) -> float:
        """Return the memory that is resident in its process."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB

    def cpu_s(self) -> float:
        """Return the processor time of its process."""
        return _cpu_s(self.pid)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - only their number


def _cpu_s(pid: int) -> float:
    """Return the processor time of a process that may have ended."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    return 0


def _descendants(pid: int) -> Sequence[int]:
    """Return a process and all that descend from it."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


async def _at_rest(pid: int) -> None:
    """Wait until a server has made ready what it wants for its first jobs.

    The service asks all compilers and interpreters for their versions, which takes seconds.
    """
    before = -1.0
    for _ in range(REST_WITHIN_S):
        await asyncio.sleep(1)
        used = sum(map(_cpu_s, _descendants(pid)))
        if abs(used - before) < LITTLE_CPU_S:
            return
        before = used


@asynccontextmanager
async def _started(
    name: str, argv: Sequence[str], env: dict[str, str] | None = None, token: str = ""
) -> AsyncIterator[Server]:
    """Start a server that says where it listens, and end it."""
    began = monotonic()
    process = await asyncio.create_subprocess_exec(
        *argv, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    draining: asyncio.Task[bytes] | None = None
    try:
        found, said = None, ""
        while not found:
            line = (await process.stdout.readline()).decode()
            if not line:
                raise RuntimeError(f"{name} did not start: {said}")
            said += line
            found = re.search(r"listens on http://([\d.]+):(\d+)", line)
        ready_s = monotonic() - began
        draining = asyncio.create_task(process.stdout.read())
        await _at_rest(process.pid)
        client = Client((found[1], int(found[2])), token)
        yield Server(name, client, process.pid, ready_s)
        client.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        if draining is not None:
            await draining


@asynccontextmanager
async def ours(
    *,
    load: bool = False,
    tenants: bool = False,
    settings: Sequence[str] = (),
    with_uvloop: bool = True,
) -> AsyncIterator[Server]:
    """Start the service with its defaults, with room for `load`, or with two tenants."""
    given = (*settings, *(FOR_LOAD if load else ()))
    options = [option for value in given for option in ("--set", value)]
    program = ("-m", "streamer") if with_uvloop else ("-c", WITHOUT_UVLOOP)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.toml")
        tokens = [
            f'[[auth.tokens]]\ntenant = "{tenant}"\n'
            f'sha256 = "{hashlib.sha256(tenant.encode()).hexdigest()}"\n'
            for tenant in TENANTS
            if tenants
        ]
        config.write_text("".join(tokens))
        serve = (sys.executable, *program, "serve", "--port", "0", "--config", str(config))
        token = TENANTS[0] if tenants else ""
        async with _started(STREAMER, (*serve, *options), token=token) as server:
            yield server


@asynccontextmanager
async def express(*, load: bool = False, fanout: bool = False) -> AsyncIterator[Server]:
    """Start the reference server; its jobs run in the same bubblewrap as the bare ones."""
    env = {
        **os.environ,
        "CONCURRENCY": str(MANY_PLACES if load else PLACES),
        "SANDBOX": json.dumps(BWRAP),
        "FANOUT": "1" if fanout else "0",
    }
    # Node looks for packages in the folders above the program, so it is run beside them.
    program = NODE_MODULES / "server.js"
    async with _started(EXPRESS, ("node", str(program)), env) as server:
        yield server


@asynccontextmanager
async def both(*, load: bool = False, fanout: bool = False) -> AsyncIterator[Sequence[Server]]:
    """Start the service and the reference server."""
    async with ours(load=load) as first, express(load=load, fanout=fanout) as second:
        yield first, second
