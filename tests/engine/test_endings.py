"""Whatever races, a job's log has exactly one terminal event, and it is the last."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from streamer.compose import Parts
from streamer.engine.interface import Eof, Input, Lease, LeaseLost, Signal
from streamer.engine.limits import QueueLimits
from streamer.engine.memory.engine import MemoryEngine
from streamer.engine.memory.retention import RetentionLimits
from streamer.errors import Draining
from streamer.jobs.job import Job
from streamer.model.events import TERMINAL_KINDS, Complete, Error, Event, encode
from streamer.model.job import JobSpec
from streamer.spi import Backend, Isolation, LaunchPlan, SandboxJob, hookimpl
from tests.conftest import OpenService
from tests.running import adopt_orphans, descendants, ended

from . import complete, follow, make_job, output

RUNS = 10_000
REASONS = ("exited", "signaled", "wall_time", "cpu_time", "memory", "output_limit", "cancelled")


def outcome(event: Event) -> str:
    """Return the reason or the code of a terminal event."""
    assert isinstance(event.data, Complete | Error)
    return event.data.reason if isinstance(event.data, Complete) else event.data.code


class Run:
    """An engine with a few jobs, and all that may end them, in random order."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        self.engine = MemoryEngine(
            queue=QueueLimits(max_waiting=10),
            retention_s=1e6,
            retention=RetentionLimits(memory=2**30),
            lease_s=10.0,
            clock=lambda: self.now,
        )
        self.job_ids: list[str] = []
        self.read: dict[str, list[Event]] = {}

    async def some_steps(self) -> None:
        for _ in range(self.chance.randrange(6)):
            await asyncio.sleep(0)

    async def work(self) -> None:
        for lease in await self.engine.claim("worker", self.chance.randrange(1, 4)):
            with contextlib.suppress(LeaseLost):
                await self._run(lease)

    async def _run(self, lease: Lease) -> None:
        chance = self.chance
        await self.some_steps()
        for state in ("preparing", "compiling", "running"):
            await lease.state(state)
            await self.some_steps()
        for _ in range(chance.randrange(3)):
            await lease.append([output("x")])
            await self.some_steps()
        if chance.random() < 0.2:
            return  # the worker is killed: its lease runs out
        end = complete(chance.choice(REASONS))  # type: ignore[arg-type]
        if chance.random() < 0.2:
            end = encode(Error("sandbox_error", "the sandbox could not run the job"))
        await lease.finish([output("last"), end])
        await lease.finish([end])

    async def cancel(self) -> None:
        await self.some_steps()
        await self.engine.cancel(self.chance.choice(self.job_ids))

    async def send(self) -> None:
        await self.some_steps()
        item = self.chance.choice((Input(b"x"), Eof(), Signal(9)))
        await self.engine.send(self.chance.choice(self.job_ids), item)

    async def reap(self) -> None:
        await self.some_steps()
        self.now += self.chance.choice((1.0, 11.0))
        await self.engine.reap()

    async def shut_down(self) -> None:
        await self.some_steps()
        await self.engine.drain()
        if self.chance.random() < 0.5:
            await self.engine.close()

    async def submit(self) -> None:
        await self.some_steps()
        with contextlib.suppress(Draining):
            submitted = await self.engine.submit(make_job())
            self.job_ids.append(submitted.job_id)

    async def follow(self, job_id: str) -> None:
        self.read[job_id] = await follow(self.engine, job_id)

    async def race(self) -> None:
        for _ in range(self.chance.randrange(1, 4)):
            self.job_ids.append((await self.engine.submit(make_job())).job_id)
        readers = [asyncio.create_task(self.follow(job_id)) for job_id in self.job_ids]
        actors: list[Callable[[], Coroutine[Any, Any, None]]] = [self.work, self.work]
        others = (self.cancel, self.send, self.reap, self.shut_down, self.submit, self.work)
        actors += self.chance.choices(others, weights=(4, 1, 2, 1, 1, 1), k=4)
        self.chance.shuffle(actors)
        acting = [asyncio.create_task(actor()) for actor in actors]
        for _ in range(60):  # as many steps as the longest of them takes
            await asyncio.sleep(0)
        await self.engine.close()  # wakes a worker that waits for a job
        await asyncio.gather(*acting, *readers)

    async def check(self) -> Counter[str]:
        ends: Counter[str] = Counter()
        for job_id in self.job_ids:
            async with self.engine.follow(job_id) as log:
                events = [event async for event in log.entries()]
            terminal = [event for event in events if event.kind in TERMINAL_KINDS]
            assert terminal == events[-1:], f"{job_id}: {events}"
            assert [event.id for event in events] == list(range(1, len(events) + 1))
            assert self.read.get(job_id, events) == events
            view = await self.engine.summary(job_id)
            assert view is not None
            assert view.result == events[-1].data
            ends[outcome(events[-1])] += 1
        stats = await self.engine.stats()
        assert (stats.waiting, stats.running) == (0, 0)
        return ends


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_ten_thousand_races_have_one_end_each() -> None:
    ends: Counter[str] = Counter()
    for seed in range(RUNS):
        run = Run(seed)
        try:
            await run.race()
            ends += await run.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error
    # Every kind of end must have occurred, or the races prove little.
    assert {*REASONS, "sandbox_error", "worker_lost", "shutting_down"} <= ends.keys()
    assert min(ends.values()) > RUNS // 100


class Bare(Backend):
    """Starts programs directly, the fastest way, so that there can be many."""

    name = "bare"
    isolation = Isolation.NONE
    gated = False

    def plan(self, job: SandboxJob, workspace: object) -> LaunchPlan:
        return LaunchPlan(argv=job.argv, env=job.env, start_as=job.identity)


class Plugin:
    @staticmethod
    @hookimpl
    def streamer_backends() -> list[type[Backend]]:
        return [Bare]


PROGRAMS = (
    ("true",),
    ("false",),
    ("sleep", "0.005"),
    ("sleep", "60"),
    ("sh", "-c", "kill -9 $$"),
    ("sh", "-c", "trap '' TERM; while :; do echo y; done"),
    ("sh", "-c", "echo a; sleep 0.01; echo b"),
    ("/nowhere",),
)


async def one_job(service: Parts, chance: random.Random) -> Job:
    limits = {"wall_time_s": chance.choice((0.1, 0.15, 60.0)), "output_bytes": 100_000}
    job = await service.jobs.submit(JobSpec(command=chance.choice(PROGRAMS), limits=limits))
    for _ in range(chance.randrange(3)):
        await asyncio.sleep(chance.choice((0, 0.001, 0.01)))
        action = chance.choice((job.cancel, lambda: job.signal(9), lambda: job.signal(15)))
        await action()
    return job


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_real_programs_that_are_ended_at_random_have_one_end_each(
    open_service: OpenService,
) -> None:
    adopt_orphans()
    before = descendants()
    ends: Counter[str] = Counter()
    for seed in range(20):
        chance = random.Random(seed)
        service = await open_service(
            "bare",
            plugins=(Plugin(),),
            sandbox={"kill_grace_s": 0.01},
            queue={"concurrency": 8},
            sessions={"max": 1},  # all of them reserve users for theirs
        )
        jobs = await asyncio.gather(*(one_job(service, chance) for _ in range(30)))
        reading = [asyncio.create_task(ended(job)) for job in jobs]
        await service.drain(chance.choice((0, 0.05, 0.2)))
        for ran in await asyncio.gather(*reading):
            events = list(ran.events)
            terminal = [event for event in events if event.kind in TERMINAL_KINDS]
            assert terminal == events[-1:], f"seed {seed}: {events}"
            ends[outcome(events[-1])] += 1
        assert descendants() == before
    assert {"exited", "signaled", "cancelled", "wall_time", "shutting_down"} <= ends.keys()
