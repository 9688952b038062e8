"""Time one job end to end against the same program in a bare bwrap: quick, in one process.

    python -m benchmarks.jobs [JOBS]

Both take turns within a run, so that their ratio is right even if the machine's speed drifts.
Times are milliseconds, medians and 95th percentiles.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

import streamer
from streamer.sse import EventParser

PROGRAM = "print('hi')"
BARE = [
    "bwrap",
    "--unshare-all",
    "--die-with-parent",
    "--new-session",
    "--cap-drop",
    "ALL",
    "--ro-bind",
    "/usr",
    "/usr",
    "--symlink",
    "usr/bin",
    "/bin",
    "--symlink",
    "usr/lib",
    "/lib",
    "--symlink",
    "usr/lib64",
    "/lib64",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "--tmpfs",
    "/tmp",
    "--chdir",
    "/tmp",
    "--",
    "/usr/bin/python3",
    "-c",
]
LIVE = """
import time
for _ in range(200):
    print(time.time_ns(), flush=True)
    time.sleep(0.01)
"""


def bare() -> tuple[float, float]:
    """Return first output and end of the program in a bare bwrap."""
    started = time.perf_counter()
    with subprocess.Popen([*BARE, PROGRAM], stdout=subprocess.PIPE, env={}) as process:
        assert process.stdout is not None
        process.stdout.readline()
        first = time.perf_counter()
    return first - started, time.perf_counter() - started


async def job(session: ClientSession) -> tuple[float, float, float]:
    """Return when a job was accepted, its first output and its end arrived."""
    parser = EventParser()
    started = time.perf_counter()
    first = 0.0
    async with session.post(
        "/api/execute", json={"language": "python", "code": PROGRAM}
    ) as response:
        accepted = time.perf_counter()
        stream = (await response.json())["links"]["stream"]
    async with session.get(stream) as response:
        async for chunk in response.content.iter_any():
            for _, kind, _ in parser.feed(chunk):
                if kind == "output" and not first:
                    first = time.perf_counter()
                if kind == "complete":
                    ended = time.perf_counter()
                    return accepted - started, first - started, ended - started
    raise RuntimeError("the stream ended without a terminal event")


async def live_delays(session: ClientSession) -> list[float]:
    """Return how long each printed line took to arrive, in seconds."""
    body = {"language": "python", "code": LIVE}
    headers = {"Accept": "text/event-stream"}
    parser, delays = EventParser(), []
    async with session.post("/api/execute", json=body, headers=headers) as response:
        async for chunk in response.content.iter_any():
            now = time.time_ns()
            for _, kind, data in parser.feed(chunk):
                if kind == "output":
                    text = data.partition('"data":"')[2].partition('"')[0]
                    delays += [(now - int(line)) / 1e9 for line in text.split("\\n") if line]
    return delays


def row(name: str, values: Sequence[float], floor: Sequence[float] = ()) -> None:
    """Print the median and the 95th percentile, and the ratio of medians to the floor."""
    p95 = statistics.quantiles(values, n=20)[-1]
    ratio = f"{statistics.median(values) / statistics.median(floor):7.2f} x" if floor else ""
    print(f"{name:34}{statistics.median(values) * 1e3:9.2f}{p95 * 1e3:9.2f}{ratio}")


async def main(jobs: int) -> None:
    server = TestServer(streamer.create_app())
    await server.start_server()
    async with ClientSession(str(server.make_url("/"))) as session:
        floors, ours = [], []
        for _ in range(jobs):
            floors.append(bare())
            ours.append(await job(session))
        print(f"{'':34}{'p50':>9}{'p95':>9}  of bare bwrap")
        row("bare bwrap: first output", [floor[0] for floor in floors])
        row("bare bwrap: end", [floor[1] for floor in floors])
        row("accepted", [times[0] for times in ours])
        row("first output", [times[1] for times in ours], [floor[0] for floor in floors])
        row("end", [times[2] for times in ours], [floor[1] for floor in floors])
        row("printed line to its reader", await live_delays(session))
        started = time.perf_counter()
        await asyncio.gather(*(job(session) for _ in range(jobs)))
        print(f"{'jobs a second, all at once':34}{jobs / (time.perf_counter() - started):9.1f}")
    await server.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
