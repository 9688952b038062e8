"""Measure how fast this host runs small programs in sandboxes, beside the same without any.

A round measures both, one right after the other, so what else the host does slows both.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Final

from msgspec.structs import replace

from streamer.compose import Parts, build
from streamer.config.schema import Config, EngineConfig, LimitsConfig, QueueConfig
from streamer.errors import StreamerError
from streamer.jobs.job import Job
from streamer.model.events import Complete, Output
from streamer.model.job import JobSpec
from streamer.model.runtime import Runtime, by_name

__all__ = ["Bench", "Figure", "measure"]

LANGUAGE: Final = "bash"
NOTHING: Final = ":\n"
ONE_LINE: Final = "echo ready\n"
WARM_UP: Final = 2
"""Rounds that do not count: the first ones fill caches."""
STARTS: Final = 3
AT_ONCE_PER_ROUND: Final = 5
MOST_AT_ONCE: Final = 500
NOISE: Final = 2.0
"""How many times the slow rounds of the bare program may take as long as the quick ones."""
LOAD: Final = 0.5
"""The load of each processor beyond which the host is busy with something else."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured: one value of each round, and the same of the bare program."""

    name: str
    unit: str
    values: tuple[float, ...]
    floor: tuple[float, ...] = ()
    """Empty where there is nothing to compare with."""

    @property
    def ratio(self) -> float | None:
        """How many times as long it takes as the bare program, or how many times as many."""
        return median(self.values) / median(self.floor) if self.floor else None


@dataclass(frozen=True, slots=True)
class Bench:
    """The figures, and what they depend on."""

    sandbox: str
    processors: int
    load: float
    """The load of the last minute when it began (getloadavg(3))."""
    concurrency: int
    figures: tuple[Figure, ...]

    @property
    def noise(self) -> str:
        """Why the figures may not be those of this host alone; empty if nothing tells so."""
        if self.load > LOAD * self.processors:
            return f"the load was {self.load:.1f} on {self.processors} processors at the start"
        for figure in self.figures:
            if figure.floor and (spread := _spread(figure.floor)) > NOISE:
                return (
                    f"the bare program itself took up to {spread:.1f} times as long in one round "
                    f"as in another ({figure.name})"
                )
        return ""


def _spread(values: tuple[float, ...]) -> float:
    tenths = quantiles(values, n=10, method="inclusive")
    return tenths[-1] / tenths[0]


async def measure(config: Config, rounds: int, done: Callable[[float, float], object]) -> Bench:
    """Measure so many rounds, and tell `done` how many of how many steps are done.

    Raises `StreamerError` if a program does not run.
    """
    load = os.getloadavg()[0]
    config = replace(
        config,
        limits=LimitsConfig(),
        queue=QueueConfig(concurrency=config.queue.concurrency),
        engine=EngineConfig(),
    )
    runtime = by_name(config.runtimes).get(LANGUAGE)
    if runtime is None:
        raise StreamerError(f"the configuration has no language {LANGUAGE}, which is measured")
    steps, total = 0, STARTS + 3 * rounds

    def step() -> None:
        nonlocal steps
        steps += 1
        done(steps, total)

    starts = []
    for _ in range(STARTS):
        starts.append(await _started(config))
        step()
    with _bare(runtime, config.sandbox.path) as bare:
        async with build(config) as parts:
            concurrency = parts.config.queue.places
            figures = [
                Figure("start", "ms", tuple(starts)),
                await _rounds("no-op", rounds, step, lambda: _run(parts, NOTHING), bare.run),
                await _rounds(
                    "first byte", rounds, step, lambda: _first_byte(parts), bare.first_byte
                ),
            ]
            many = min(AT_ONCE_PER_ROUND * concurrency, MOST_AT_ONCE)
            throughput = await _rounds(
                "throughput",
                rounds,
                step,
                lambda: _many(parts, many),
                lambda: bare.many(many, concurrency),
                unit="jobs/s",
            )
            end = await _ended(await _submit(parts, NOTHING))
    return Bench(end.sandbox, os.cpu_count() or 1, load, concurrency, (*figures, throughput))


async def _started(config: Config) -> float:
    """Return how long it takes until a service accepts jobs, its sandbox tried."""
    begin = time.perf_counter()
    async with build(config):
        return _ms_since(begin)


async def _rounds(
    name: str,
    rounds: int,
    step: Callable[[], object],
    ours: Callable[[], Awaitable[float]],
    floor: Callable[[], float],
    unit: str = "ms",
) -> Figure:
    values, bare = [], []
    for number in range(WARM_UP + rounds):
        bare.append(await asyncio.to_thread(floor))
        values.append(await ours())
        if number >= WARM_UP:
            step()
    return Figure(name, unit, tuple(values[WARM_UP:]), tuple(bare[WARM_UP:]))


async def _submit(parts: Parts, code: str) -> Job:
    return await parts.jobs.submit(JobSpec(language=LANGUAGE, code=code))


async def _ended(job: Job) -> Complete:
    end = await job.result()
    if not isinstance(end, Complete) or (end.reason, end.exit_code) != ("exited", 0):
        raise StreamerError(f"the measured program did not run: {end}")
    await job.purge()
    return end


async def _run(parts: Parts, code: str) -> float:
    begin = time.perf_counter()
    job = await _submit(parts, code)
    await job.result()
    took = _ms_since(begin)
    await _ended(job)
    return took


async def _first_byte(parts: Parts) -> float:
    begin = time.perf_counter()
    job = await _submit(parts, ONE_LINE)
    took = None
    async with contextlib.aclosing(job.events()) as events:
        async for event in events:
            if took is None and isinstance(event.data, Output):
                took = _ms_since(begin)
    await _ended(job)
    if took is None:
        raise StreamerError("the measured program wrote nothing")
    return took


async def _many(parts: Parts, number: int) -> float:
    begin = time.perf_counter()
    jobs = [await _submit(parts, NOTHING) for _ in range(number)]
    await asyncio.gather(*(job.result() for job in jobs))
    took = time.perf_counter() - begin
    for job in jobs:
        await _ended(job)
    return number / took


@dataclass(frozen=True, slots=True)
class _Bare:
    """The same programs without a sandbox, as an ordinary program starts them."""

    folder: Path
    runtime: Runtime
    path: str

    def run(self) -> float:
        begin = time.perf_counter()
        self._start(NOTHING).wait()
        return _ms_since(begin)

    def first_byte(self) -> float:
        begin = time.perf_counter()
        with self._start(ONE_LINE) as process:
            assert process.stdout is not None
            process.stdout.read(1)
            return _ms_since(begin)

    def many(self, number: int, at_once: int) -> float:
        begin = time.perf_counter()
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(lambda _: self._start(NOTHING).wait(), range(number)))
        return number / (time.perf_counter() - begin)

    def _start(self, code: str) -> subprocess.Popen[bytes]:
        entry = "nothing" if code == NOTHING else "one-line"
        argv = [word.replace("{entry}", entry) for word in self.runtime.run]
        output = subprocess.DEVNULL if code == NOTHING else subprocess.PIPE
        return subprocess.Popen(
            argv, cwd=self.folder, env={"PATH": self.path}, stdin=subprocess.DEVNULL, stdout=output
        )


@contextlib.contextmanager
def _bare(runtime: Runtime, path: str) -> Iterator[_Bare]:
    with tempfile.TemporaryDirectory(prefix="streamer-bench-") as name:
        folder = Path(name)
        (folder / "nothing").write_text(NOTHING)
        (folder / "one-line").write_text(ONE_LINE)
        yield _Bare(folder, runtime, path)


def _ms_since(begin: float) -> float:
    return (time.perf_counter() - begin) * 1000
