"""Compare a service of several processes with one of a single process: `--workers N`.

    python -m benchmarks.processes [ROUNDS] [PROCESSES...]

Jobs a second of 32 callers, and lines a second that 400 readers of one job get, for a service in
memory, for one that uses a Redis server, and for services of several processes; the milliseconds of
a job that is alone, and how many more they are than in memory; and the processor time of the
service's processes and its Redis server, without sandboxes, for a job and a line. They take turns,
run the same number of jobs at once, and only their ratios within a round are of interest: client,
servers and programs share the machine's processors.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.client import Stream
from benchmarks.programs import HELLO, NOTHING, burst
from benchmarks.runs import in_turns, run
from benchmarks.servers import FOR_LOAD, Server, ours
from benchmarks.streams import TIMEOUT_S, Counter

CALLERS: Final = 32
READERS: Final = 400
LINES: Final = 1000
PLACES: Final = 8
CELL_S: Final = 4.0
ALONE: Final = 20
"""How many jobs, one after another, a median is of."""
REST_S: Final = 0.5
MEMORY: Final = "memory"
REDIS: Final = "redis"
OURS: Final = ("python", "redis-server", "streamer")
"""How the names of the processes that count begin: not those of sandboxes."""


@contextmanager
def redis_server(folder: Path) -> Iterator[tuple[str, int]]:
    """Start a Redis server for one process; yield its URL and its process id."""
    path = folder / "redis.sock"
    argv = ("redis-server", "--port", "0", "--unixsocket", str(path), "--save", "")
    with subprocess.Popen(argv, cwd=folder, stdout=subprocess.DEVNULL) as server:
        try:
            while not path.exists():
                time.sleep(0.01)
            yield f"redis+unix://{path}", server.pid
        finally:
            server.kill()


@dataclass
class Measured:
    server: Server
    redis: int | None
    """The Redis server that is not a child of the service."""

    def cpu_s(self) -> float:
        """Return the processor time of the service's processes."""
        main = self.server.pid
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        pids = [main, *map(int, children), *([self.redis] if self.redis else [])]
        return sum(_cpu_s(pid) for pid in pids)


def _cpu_s(pid: int) -> float:
    with contextlib.suppress(OSError):
        name, stat = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rsplit(")", 1)
        if name.startswith(OURS):
            fields = stat.split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


@asynccontextmanager
async def services(processes: list[int]) -> AsyncIterator[dict[str, Measured]]:
    """Start the services that are compared."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url, redis = stack.enter_context(redis_server(folder))
        settings = {MEMORY: [f"queue.concurrency={PLACES}"]}
        settings[REDIS] = [*settings[MEMORY], f"engine.url={url}"]
        for count in processes:
            one = max(PLACES // count, 1)
            settings[f"{count} processes"] = [
                f"server.workers={count}",
                f"queue.concurrency={one}",
            ]
        started = {}
        for name, of_one in settings.items():
            load = [one for one in FOR_LOAD if not one.startswith("queue.concurrency")]
            server = await stack.enter_async_context(ours(settings=(*load, *of_one)))
            started[name] = Measured(server, redis if name == REDIS else None)
        yield started


async def jobs_a_second(measured: Measured, job: dict[str, str]) -> tuple[float, float]:
    """Return how many there were in a second, and the milliseconds that each has cost."""
    server, cpu, began, jobs = measured.server, measured.cpu_s(), time.monotonic(), 0

    async def caller() -> None:
        nonlocal jobs
        while time.monotonic() < began + CELL_S:
            await run(server.client, job)
            jobs += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return jobs / (time.monotonic() - began), (measured.cpu_s() - cpu) * 1e3 / jobs


async def alone(server: Server, job: dict[str, str]) -> tuple[float, float]:
    """Return the milliseconds until a job's first output and its end, of the median one."""
    times = []
    for _ in range(ALONE):
        times.append(await run(server.client, job))
        await asyncio.sleep(REST_S / 10)
    first = statistics.median(one.first for one in times)
    return first * 1e3, statistics.median(one.end for one in times) * 1e3


async def lines_a_second(measured: Measured) -> tuple[float, float]:
    """Return how many there were in a second, and the microseconds that each has cost."""
    server, cpu = measured.server, measured.cpu_s()
    job_id = await server.client.submit(burst(LINES, 1))
    counters = [Counter() for _ in range(READERS)]
    streams = [Stream(on_bytes=counter.on_bytes) for counter in counters]
    began = time.monotonic()
    for stream in streams:
        await server.client.follow(job_id, stream)
    ends = asyncio.gather(*(counter.ended for counter in counters))
    await asyncio.wait_for(ends, TIMEOUT_S)
    for stream in streams:
        stream.close()
    lines = sum(counter.lines for counter in counters)
    if lines != READERS * LINES:
        raise RuntimeError(f"{lines} of {READERS * LINES} lines were delivered")
    rate = lines / (max(counter.last for counter in counters) - began)
    return rate, (measured.cpu_s() - cpu) * 1e6 / lines


async def measure(rounds: int, processes: list[int]) -> None:
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    async with services(processes) as servers:
        for measured in servers.values():
            for _ in range(20):
                await run(measured.server.client, HELLO)
        for turn in range(rounds):
            for name in in_turns(list(servers), turn):
                measured = servers[name]
                for what, job in (("python hello", HELLO), ("bash no-op", NOTHING)):
                    rate, cost = await jobs_a_second(measured, job)
                    found[f"{what}, jobs/s"][name].append(rate)
                    found[f"{what}, ms of processor time a job"][name].append(cost)
                    await asyncio.sleep(REST_S)
                    first, end = await alone(measured.server, job)
                    found[f"{what}, ms to its end"][name].append(end)
                    if job is HELLO:
                        found[f"{what}, ms to its first output"][name].append(first)
                rate, cost = await lines_a_second(measured)
                found["lines/s"][name].append(rate)
                found["us of processor time a line"][name].append(cost)
                await asyncio.sleep(REST_S)
    for what, of_servers in found.items():
        for name, values in of_servers.items():
            pairs = zip(values, of_servers[MEMORY], strict=True)
            ratio = statistics.median(value / base for value, base in pairs)
            more = ""
            if ", ms to" in what:
                added = zip(values, of_servers[MEMORY], strict=True)
                more = f", {statistics.median(value - base for value, base in added):+.2f} ms"
            print(f"{what}, {name}: {statistics.median(values):.4g}, x memory {ratio:.2f}{more}")


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    uvloop.run(measure(rounds, [int(count) for count in sys.argv[2:]] or [2]))
