"""Measure jobs: latency, start to first command, jobs a second, growth and fairness."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Final, TypeVar

from benchmarks.client import Client, Stream
from benchmarks.figures import TARGETS, Figure, median, percentile
from benchmarks.programs import (
    BARE,
    HELLO,
    NODE,
    NOTHING,
    bare_end,
    bare_rate,
    pause,
)
from benchmarks.servers import (
    COLD,
    EXPRESS,
    FORKED,
    STREAMER,
    TENANTS,
    Server,
    both,
    express,
    ours,
)

__all__ = ["Times", "fairness", "growth", "in_turns", "latency", "run", "start", "throughput"]

T = TypeVar("T")
JOB_TIMEOUT_S: Final = 60
CELL_S: Final = 2
REST_S: Final = 0.05
"""Between two jobs, so that none meets what the one before it has left to do."""
CALLER_RESTS_S: Final = 0.3
"""Between two jobs of a caller who is alone: as long as until its next turn in `latency`."""
SETTLES_S: Final = 1
LOADS: Final = (1, 4, 16, 64)
LOAD_ON_ASYNCIO: Final = 4
NAMES: Final = {"python hello": HELLO, "bash no-op": NOTHING}


@dataclass
class Times:
    """When something of a job arrived, in seconds after it was sent."""

    accepted: float
    first: float
    end: float


async def run(client: Client, job: dict[str, Any]) -> Times:
    """Run a job to its last event. Raises RuntimeError if it does not exit with 0."""
    ended: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    first = 0.0

    def on_event(name: bytes, data: bytes, now: float) -> None:
        nonlocal first
        if name == b"output":
            first = first or now
        elif name in {b"complete", b"error"} and not ended.done():
            if b'"exitCode":0' in data:
                ended.set_result(now)
            else:
                ended.set_exception(RuntimeError(data.decode()))

    began = monotonic()
    job_id = await client.submit(job)
    accepted = monotonic()
    stream = await client.follow(job_id, Stream(on_event=on_event))
    try:
        end = await asyncio.wait_for(ended, JOB_TIMEOUT_S)
    finally:
        stream.close()
    return Times(accepted - began, (first or end) - began, end - began)


def in_turns(things: Sequence[T], turn: int) -> Sequence[T]:
    """Return the things, beginning with another one at each turn."""
    at = turn % len(things)
    return [*things[at:], *things[:at]]


async def _bare(way: str, job: dict[str, Any]) -> Times:
    first, end, _ = bare_end(way, job)
    return Times(0, first, end)


async def latency(rounds: int) -> list[Figure]:
    """One job after another: from sending it to its acceptance, first byte and end."""
    figures = []
    async with both() as servers, ours(settings=FORKED) as forked, ours(settings=COLD) as cold:
        for name, job in NAMES.items():
            ways = _ways(servers, job)
            others = {"forked": forked, "cold": cold} if job is HELLO else {}
            ways |= {other: partial(run, server.client, job) for other, server in others.items()}
            times: dict[str, list[Times]] = defaultdict(list)
            for turn in range(3 + 30 * rounds):
                for target in in_turns(list(ways), turn):
                    await asyncio.sleep(REST_S)
                    took = await ways[target]()
                    if turn >= 3:  # the first ones warm up
                        times[target].append(took)
            served = {server.name: times[server.name] for server in servers}
            if job is HELLO:
                accepted = _milliseconds(served, "accepted")
                figures.append(Figure(f"{name}: accepted", "ms", accepted))
            compared = {target: times[target] for target in ways if target in TARGETS}
            figures += _ends(name, compared, first=job is HELLO)
            for other in others:
                figures += _ends(f"{name}, {other}", {**compared, STREAMER: times[other]})
    return figures


def _ends(name: str, times: dict[str, list[Times]], *, first: bool = True) -> list[Figure]:
    """Return when jobs had written something, if `first`, and when they were over."""
    ends = _milliseconds(times, "end")
    figures = [
        Figure(f"{name}: end", "ms", ends, plotted=True),
        _p95(f"{name}: end, p95", ends),
    ]
    if first:
        began = _milliseconds(times, "first")
        figures.insert(0, Figure(f"{name}: first byte", "ms", began, plotted=True))
    return figures


def _ways(
    servers: Sequence[Server], job: dict[str, Any]
) -> dict[str, Callable[[], Awaitable[Times]]]:
    """Return how each target runs a job, by its name."""
    ways: dict[str, Callable[[], Awaitable[Times]]] = {}
    for server in servers:
        ways[server.name] = partial(run, server.client, job)
    for way in BARE:
        ways[way] = partial(_bare, way, job)
    return ways


def _milliseconds(times: dict[str, list[Times]], what: str) -> dict[str, list[float]]:
    return {name: [getattr(each, what) * 1e3 for each in found] for name, found in times.items()}


def _p95(name: str, values: dict[str, list[float]], percent: int = 95) -> Figure:
    return Figure(
        name, "ms", {target: [percentile(found, percent)] for target, found in values.items()}
    )


async def start(rounds: int) -> list[Figure]:
    """From asking for a job to the end of its first command, `node -v`, 100 times."""
    alone: dict[str, list[Times]] = defaultdict(list)
    burst: dict[str, list[list[float]]] = defaultdict(list)
    async with both() as servers:
        ways = _ways(servers, NODE)
        for turn in range(103):
            for target in in_turns(list(ways), turn):
                took = await ways[target]()
                if turn >= 3:
                    alone[target].append(took)
        for turn in range(rounds):
            for target in in_turns(list(ways), turn):
                times = await _hundred_at_once(ways[target], bare=target in BARE)
                burst[target].append([each * 1e3 for each in times])
    ends = _milliseconds(alone, "end")
    figures = [
        Figure("one after another: p50", "ms", ends, plotted=True),
        _p95("one after another: p90", ends, 90),
    ]
    for percent in (50, 90, 100):
        values = {
            target: [percentile(found, percent) for found in each] for target, each in burst.items()
        }
        what = "the last" if percent == 100 else f"p{percent}"
        figures.append(Figure(f"100 at once: {what}", "ms", values, plotted=percent == 50))
    return figures


async def _hundred_at_once(way: Callable[[], Awaitable[Times]], *, bare: bool) -> list[float]:
    """Return the seconds of 100 jobs that are asked for at once."""
    if not bare:
        return [times.end for times in await asyncio.gather(*(way() for _ in range(100)))]
    # A bare command blocks the loop it is run in; each gets a thread instead.
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(100) as pool:
        jobs = [loop.run_in_executor(pool, lambda: asyncio.run(_timed(way))) for _ in range(100)]
        return list(await asyncio.gather(*jobs))


async def _timed(way: Callable[[], Awaitable[Times]]) -> float:
    return (await way()).end


async def throughput(rounds: int) -> list[Figure]:
    """As many jobs as a number of callers can run, each one after another, for two seconds."""
    figures = []
    async with both() as servers, ours(settings=FORKED) as forked, ours(with_uvloop=False) as bare:
        for _ in range(10):
            await run(forked.client, HELLO)  # the first ones are not forked
        for name, job in NAMES.items():
            for load in LOADS:
                found = _Rates()
                for turn in range(rounds):
                    for way in BARE:
                        count = max(30, min(load * 5, 120))
                        found.rates[way].append(await bare_rate(way, job, load, count))
                    for server in in_turns(servers, turn):
                        await found.measure(server.name, server, job, load)
                    if job is HELLO:
                        await found.measure("forked", forked, job, load)
                    if load == LOAD_ON_ASYNCIO:
                        await found.measure("asyncio", bare, job, load)
                figures += found.figures(name, load)
    return figures


class _Rates:
    """Jobs a second, and what each costs the server, by target."""

    def __init__(self) -> None:
        self.rates: dict[str, list[float]] = defaultdict(list)
        self.costs: dict[str, list[float]] = defaultdict(list)

    async def measure(self, target: str, server: Server, job: dict[str, Any], load: int) -> None:
        rate, cost = await _closed_loop(server, job, load)
        self.rates[target].append(rate)
        self.costs[target].append(cost)

    def figures(self, name: str, load: int) -> list[Figure]:
        found = []
        for way, named in ((STREAMER, name), ("forked", f"{name}, forked")):
            if way in self.rates:
                rates, costs = self._as_ours(self.rates, way), self._as_ours(self.costs, way)
                found += [
                    Figure(f"{named}, at once", "jobs/s", rates, load, plotted=True, more=True),
                    Figure(f"{named}: server CPU a job, at once", "ms", costs, load),
                ]
        if "asyncio" in self.costs:
            costs = self._as_ours(self.costs, "asyncio")
            pairs = zip(costs[STREAMER], self.costs[STREAMER], strict=True)
            more = {STREAMER: [without / with_it for without, with_it in pairs]}
            found += [
                Figure(f"{name}: server CPU a job without uvloop, at once", "ms", costs, load),
                Figure(f"{name}: the same, x that with uvloop, at once", "", more, load),
            ]
        return found

    def _as_ours(self, values: dict[str, list[float]], way: str) -> dict[str, list[float]]:
        """Return the values of all targets, with those of one of our ways as ours."""
        compared = {target: found for target, found in values.items() if target in TARGETS}
        return {**compared, STREAMER: values[way]}


async def _closed_loop(server: Server, job: dict[str, Any], load: int) -> tuple[float, float]:
    """Return jobs a second and the server's own processor time of a job, in milliseconds."""
    began, cpu, jobs = monotonic(), server.cpu_s(), 0

    async def caller() -> None:
        nonlocal jobs
        while monotonic() < began + CELL_S:
            await run(server.client, job)
            jobs += 1

    await asyncio.gather(*(caller() for _ in range(load)))
    return jobs / (monotonic() - began), (server.cpu_s() - cpu) * 1e3 / jobs


async def growth(rounds: int) -> list[Figure]:
    """Thousands of jobs one after another: does memory, latency or a number of files grow?"""
    blocks, block = 10, 500 * rounds // 3
    memory: dict[str, list[float]] = defaultdict(list)
    times: dict[str, list[float]] = defaultdict(list)
    files: dict[str, list[float]] = {}
    async with both() as servers:
        for server in servers:
            for _ in range(20):
                await run(server.client, NOTHING)
        await asyncio.sleep(SETTLES_S)  # what is opened for jobs to come is there
        for server in servers:
            files[server.name] = [-float(server.descriptors())]
        for turn in range(blocks):
            for server in in_turns(servers, turn):
                took = [(await run(server.client, NOTHING)).end for _ in range(block)]
                times[server.name].append(median(took) * 1e3)
                memory[server.name].append(server.resident_mib())
        await asyncio.sleep(SETTLES_S)
        for server in servers:
            files[server.name][0] += server.descriptors()
    growing = {
        name: [(found[-1] - found[blocks // 2 - 1]) * 1024 / (blocks // 2 * block)]
        for name, found in memory.items()
    }
    figures = [
        Figure(f"memory after {part}", "MiB", {name: [found[at]] for name, found in memory.items()},
               plotted=True)
        for part, at in ((f"{block:,} jobs", 0), (f"{blocks * block:,} jobs", -1))
    ]  # fmt: skip
    return [
        *figures,
        Figure("memory a job, in the second half", "KiB", growing, compared=False),
        Figure("a job among the first tenth", "ms", {n: found[:1] for n, found in times.items()}),
        Figure("a job among the last tenth", "ms", {n: found[-1:] for n, found in times.items()}),
        Figure("open files, more at the end", "", files, compared=False),
    ]


async def fairness(rounds: int) -> list[Figure]:
    """One caller's job while another caller has 100 waiting jobs of 0.1 s, and alone."""
    alone: dict[str, list[float]] = defaultdict(list)
    beside: dict[str, list[float]] = defaultdict(list)
    async with ours(tenants=True) as first, express() as second:
        greedy = {
            STREAMER: Client(first.client.address, TENANTS[1]),
            EXPRESS: Client(second.client.address),
        }
        for turn in range(rounds):
            for server in in_turns((first, second), turn):
                await asyncio.sleep(SETTLES_S)
                took = []
                for _ in range(5):
                    await asyncio.sleep(CALLER_RESTS_S)
                    took.append((await run(server.client, HELLO)).end * 1e3)
                alone[server.name].append(median(took))
                crowd = [
                    asyncio.create_task(run(greedy[server.name], pause(0.1))) for _ in range(100)
                ]
                await asyncio.wait(crowd, return_when=asyncio.FIRST_COMPLETED)
                beside[server.name].append((await run(server.client, HELLO)).end * 1e3)
                await asyncio.gather(*crowd)
    return [
        Figure("alone", "ms", alone, plotted=True),
        Figure("while another caller's 100 jobs wait", "ms", beside, plotted=True),
    ]
