"""Break a service in parts while it runs jobs, and check every promise for each of them.

    python -m benchmarks.chaos [--jobs 2000] [--seed 1] [--lease-s 4]

It runs as many jobs, and more until each kind of trouble has come.

Two API nodes, three workers and a Redis server run jobs that print numbered lines. Meanwhile, at
random: `kill -9` of a worker, an API node or the server, which are started again; a worker that is
stopped (SIGSTOP) or, as root, cut off from the network for longer than its lease; a worker that is
asked to stop (SIGTERM). Each job is followed by two readers, at any API node that answers.

Of every accepted job is checked: one terminal event, the same events with the same numbers for both
readers, without a gap; of a job that is complete every line once, in order; of one whose worker was
lost as many of its first lines as were kept, and again from the first in the next attempt, which
the log announces. A job is lost only if its worker, or the server, was in trouble while it ran, and
is stopped only by a worker that was asked to stop. No program of it runs once the log has its end,
and never two at the same time. It exits with 1 if one promise was broken, or if a job has no end
`STILL_S` seconds after the last trouble.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp

from benchmarks.fleet import Fleet, Part, fleet

__all__ = ["chaos"]

CALLERS: Final = 24
STILL_S: Final = 120.0
DEAD_S: Final = 1.0
"""How long a scan of all processes may take: one that is there before and after is there."""
TERMINAL: Final = ("complete", "error")
LOST: Final = ("worker_lost", "shutting_down")
"""How a job may end that has met trouble, besides with its verdict."""
ASKED: Final = "worker asked to stop"
MARK: Final = "CHAOS_JOB"
PROGRAM: Final = """
import os, sys, time
lines, pause_s = int(sys.argv[1]), float(sys.argv[2])
for n in range(lines):
    os.write(1, b"%d of %d\\n" % (n, lines))
    time.sleep(pause_s)
"""


@dataclass
class Event:
    id: int
    kind: str
    data: dict[str, Any]


@dataclass
class Task:
    """One job: what it prints, and what its readers were told."""

    name: str
    lines: int
    pause_s: float
    retry: int
    job_id: str = ""
    told: list[list[Event]] = field(default_factory=lambda: [[], []])
    submitted_at: float = 0.0
    over_at: float | None = None
    workers: set[str] = field(default_factory=set)
    """Those that were seen to run it; an attempt may be over before anybody looks."""

    @property
    def attempts(self) -> int:
        """How often it was run, or was about to be, by what its log announces."""
        return 1 + sum("attempt" in event.data for event in self.told[0])

    @property
    def body(self) -> dict[str, Any]:
        return {
            "language": "python",
            "code": PROGRAM,
            "args": [str(self.lines), str(self.pause_s)],
            "env": {MARK: self.name},
            "retry": self.retry,
        }


@dataclass
class Trouble:
    """What was done to a part, from when until when."""

    what: str
    part: str
    began: float
    ended: float | None = None


class Caller:
    """A client that knows the addresses of all API nodes, and goes on at another."""

    def __init__(self, nodes: list[Part], rng: random.Random) -> None:
        self._nodes = nodes
        self._rng = rng
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=90),
        )

    async def close(self) -> None:
        await self._session.close()

    async def _until(self, once: Callable[[str], Awaitable[bool]]) -> None:
        while True:
            try:
                if await once(self._rng.choice(self._nodes).url):
                    return
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
            await asyncio.sleep(0.1)

    async def submit(self, task: Task) -> None:
        async def once(url: str) -> bool:
            async with self._session.post(
                f"{url}/api/execute", json=task.body, headers={"Idempotency-Key": task.name}
            ) as answer:
                if answer.status in (429, 503):
                    return False
                document = await answer.json()
                assert answer.status in (200, 202), document
                assert task.job_id in ("", document["jobId"]), "one key, two jobs"
                task.job_id = document["jobId"]
                return True

        task.submitted_at = time.monotonic()
        await self._until(once)

    async def follow(self, task: Task, told: list[Event]) -> None:
        async def once(url: str) -> bool:
            headers = {"Last-Event-ID": str(told[-1].id)} if told else {}
            async with self._session.get(
                f"{url}/api/stream/{task.job_id}", headers=headers
            ) as answer:
                if answer.status == 204:
                    return True
                if answer.status == 503:
                    return False
                assert answer.status == 200, f"{answer.status}: {await answer.text()}"
                await self._read(answer, told)
            return bool(told) and told[-1].kind in TERMINAL

        await self._until(once)
        task.over_at = task.over_at or time.monotonic()

    async def _read(self, answer: aiohttp.ClientResponse, told: list[Event]) -> None:
        fields: dict[str, str] = {}
        async for line in answer.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            else:
                if "data" in fields:
                    event = Event(int(fields["id"]), fields["event"], json.loads(fields["data"]))
                    told.append(event)
                    if event.kind in TERMINAL:
                        return  # the rest is the time in which the stream stays open
                fields = {}


class Troubles:
    """What is done to the parts, one thing after another."""

    def __init__(self, fleet: Fleet, rng: random.Random, lease_s: float) -> None:
        self._fleet = fleet
        self._rng = rng
        self._lease_s = lease_s
        self.done: Counter[str] = Counter()
        self.all: list[Trouble] = []
        self._ways: dict[str, tuple[list[Part], Callable[[Part], Awaitable[None]]]] = {
            "worker killed": (fleet.workers, self._kill_worker),
            "API node killed": (fleet.apis, self._kill_api),
            "Redis killed": ([fleet.redis], self._kill_redis),
            "worker stopped beyond its lease": (fleet.workers, self._stop_worker),
            ASKED: (fleet.workers, self._drain_worker),
        }
        if fleet.separate:
            last = fleet.workers[-1:]
            self._ways["worker cut off beyond its lease"] = (last, self._cut_off)

    @property
    def each_done(self) -> bool:
        return len(self.done) == len(self._ways)

    async def go_on(self) -> None:
        """Make trouble until cancelled: each kind once, in any order, then at random."""
        ways = [*self._ways]
        self._rng.shuffle(ways)
        while True:
            await asyncio.sleep(self._rng.uniform(0.5, 2.0))
            way = ways.pop() if ways else self._rng.choice([*self._ways])
            await asyncio.shield(asyncio.ensure_future(self._make(way)))
            self.done[way] += 1

    async def _make(self, way: str) -> None:
        parts, make = self._ways[way]
        part = self._rng.choice(parts)
        trouble = Trouble(way, part.name, time.monotonic())
        self.all.append(trouble)
        await make(part)
        trouble.ended = time.monotonic()

    async def _kill_worker(self, worker: Part) -> None:
        await worker.end()
        await asyncio.sleep(self._rng.uniform(0, self._lease_s))
        worker.start()

    async def _kill_api(self, node: Part) -> None:
        await node.end()
        await asyncio.sleep(self._rng.uniform(0, 1))
        node.start()
        await node.answers()

    async def _kill_redis(self, server: Part) -> None:
        await server.end()
        await asyncio.sleep(self._rng.uniform(0, 1.5 * self._lease_s))
        server.start()
        await server.answers()

    async def _stop_worker(self, worker: Part) -> None:
        worker.send(signal.SIGSTOP)
        await asyncio.sleep(self._lease_s * self._rng.uniform(1.5, 2.5))
        worker.send(signal.SIGCONT)

    async def _drain_worker(self, worker: Part) -> None:
        await worker.end(signal.SIGTERM)
        worker.start()

    async def _cut_off(self, _: Part) -> None:
        await self._fleet.cut_off(self._lease_s * self._rng.uniform(1.5, 2.5))


def ancestors(pid: int) -> set[int]:
    """Return the processes above one, as far as they can be seen."""
    found: set[int] = set()
    while pid > 1 and pid not in found:
        found.add(pid)
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            break
        pid = int(stat.rpartition(")")[2].split()[1])
    return found


def running() -> dict[str, set[int]]:
    """Return the processes of each job that has any, by the job's name: one of each attempt."""
    found: dict[str, set[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            for pair in environment.split(b"\0"):
                if pair.startswith(f"{MARK}=".encode()):
                    name = pair.partition(b"=")[2].decode()
                    found.setdefault(name, set()).add(int(entry.name))
    return found


async def watch(tasks: list[Task], faults: list[str], workers: list[Part]) -> None:
    """Note each job that has a process though it had its end, or that of two attempts.

    Note with each job, too, which worker runs it.
    """
    while True:
        by_name = {task.name: task for task in tasks}
        of_worker = {one.process.pid: one.name for one in workers if one.process is not None}
        began = time.monotonic()
        before = await asyncio.to_thread(running)
        for name in before.keys() & by_name.keys():
            above = set().union(*map(ancestors, before[name]))
            by_name[name].workers |= {of_worker[pid] for pid in above & of_worker.keys()}
        over = {
            name
            for name in before.keys() & by_name.keys()
            if (at := by_name[name].over_at) is not None and at < began
        }
        twice = {name for name, found in before.items() if len(found) > 1}
        if over or twice:
            await asyncio.sleep(DEAD_S if over else 0)
            after = await asyncio.to_thread(running)
            still = over & after.keys()
            faults += [f"{name} ({by_name[name].job_id}) runs after its end" for name in still]
            both = {name for name in twice & after.keys() if len(before[name] & after[name]) > 1}
            faults += [f"{name} runs twice at the same time" for name in both]
        await asyncio.sleep(0.2)


def may_be_lost(task: Task, reason: str, troubles: list[Trouble], lease_s: float) -> bool:
    """Return whether a job may have ended an attempt for this reason, one of `LOST`.

    Its worker, or the server, was in trouble while there was the job; where nobody has seen the
    worker of each attempt, any. What is noticed takes a lease.
    """

    def explains(one: Trouble) -> bool:
        unseen = len(task.workers) < task.attempts and one.part.startswith("worker")
        its_own = one.part == "redis" or one.part in task.workers or unseen
        late = one.ended is not None and one.ended + lease_s < task.submitted_at
        early = task.over_at is not None and one.began > task.over_at
        kind = (one.what == ASKED) == (reason == "shutting_down")
        return its_own and kind and not (late or early)

    return any(map(explains, troubles))


def lost_without_trouble(task: Task, troubles: list[Trouble], lease_s: float) -> list[str]:
    """Return a fault for each reason for which a job was lost, though nothing explains it."""
    told = {event.data.get("code") or event.data.get("reason") for event in task.told[0]}
    reasons = [reason for reason in LOST if reason in told]
    where = ", ".join(sorted(task.workers)) or "a worker"
    return [
        f"{task.name} ({task.job_id}): {reason}, but {where} had no such trouble"
        for reason in reasons
        if not may_be_lost(task, reason, troubles, lease_s)
    ]


def faults_of(task: Task) -> list[str]:
    """Return which promises were broken for a job that is over."""
    one, other = ([(e.id, e.kind, e.data) for e in told] for told in task.told)
    ends = [kind in TERMINAL for _, kind, _ in one]
    numbers = [number for number, _, _ in one]
    promises = {
        "its readers were told different things": one == other,
        "its numbers have a gap or a repetition": numbers == [*range(1, len(one) + 1)],
        "it has not one end, as the last event": ends == [False] * (len(one) - 1) + [True],
    }
    if all(promises.values()):
        promises = promises_of_output(task)
    return [f"{task.name} ({task.job_id}): {what}" for what, kept in promises.items() if not kept]


def promises_of_output(task: Task) -> dict[str, bool]:
    """Return for each promise about what a job has printed, and its end, whether it was kept."""
    expected = "".join(f"{n} of {task.lines}\n" for n in range(task.lines))
    *events, end = task.told[0]
    attempts = [""]
    for event in events:
        if event.kind == "status" and event.data.get("attempt", 1) > len(attempts):
            attempts.append("")
        if event.kind == "output":
            attempts[-1] += event.data["data"]
    complete = end.kind == "complete"
    exited = (end.data.get("reason"), end.data.get("exitCode")) == ("exited", 0)
    return {
        "its output is not what it has printed": all(map(expected.startswith, attempts)),
        "it is complete, and its output is not": not complete or attempts[-1] == expected,
        f"it ended with {end.data}": exited if complete else end.data["code"] in LOST,
        "it ran more often than it may": len(attempts) <= 1 + task.retry,
    }


def tasks_until(
    tasks: list[Task], rng: random.Random, enough: Callable[[], bool]
) -> Iterator[Task]:
    """Yield tasks, which are added to `tasks`, until there are enough."""
    while not enough():
        task = Task(
            f"job{len(tasks)}",
            lines=rng.choice((1, 10, 100)),
            pause_s=rng.uniform(0, 0.03),
            retry=rng.choice((0, 0, 2)),
        )
        tasks.append(task)
        yield task


async def until_over(working: set[asyncio.Task[None]], trouble: asyncio.Task[None]) -> None:
    """Wait for all of them; if none ends for long, without trouble, and then no longer."""
    while working:
        done, working = await asyncio.wait(
            working, timeout=STILL_S, return_when=asyncio.FIRST_COMPLETED
        )
        for each in done:
            each.result()
        if not done and trouble.cancelled():
            return
        if not done:
            trouble.cancel()
            await asyncio.gather(trouble, return_exceptions=True)


async def chaos(
    jobs: int, seed: int, lease_s: float
) -> tuple[list[str], Counter[str], Counter[str]]:
    """Return what was broken, how the jobs ended, and what was done to the parts."""
    rng = random.Random(seed)
    tasks: list[Task] = []
    faults: list[str] = []
    async with fleet(lease_s) as parts:
        caller = Caller(parts.apis, rng)
        troubles = Troubles(parts, rng, lease_s)
        waiting = tasks_until(tasks, rng, lambda: len(tasks) >= jobs and troubles.each_done)

        async def work() -> None:
            for task in waiting:
                await caller.submit(task)
                await asyncio.gather(*(caller.follow(task, told) for told in task.told))

        trouble = asyncio.create_task(troubles.go_on())
        watching = asyncio.create_task(watch(tasks, faults, parts.workers))
        working = {asyncio.create_task(work()) for _ in range(CALLERS)}
        try:
            await until_over(working, trouble)
        finally:
            for each in (trouble, watching, *working):
                each.cancel()
            await asyncio.gather(trouble, watching, *working, return_exceptions=True)
            await caller.close()
    ends: Counter[str] = Counter()
    for task in tasks:
        if task.over_at is None:
            faults.append(f"{task.name} ({task.job_id}) has no end")
            continue
        faults += faults_of(task)
        faults += lost_without_trouble(task, troubles.all, lease_s)
        last = task.told[0][-1]
        ends[str(last.data.get("reason", last.data.get("code")))] += 1
    return faults, ends, troubles.done


def main() -> None:
    """Print how the jobs ended and what was broken; the exit code says whether anything was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lease-s", type=float, default=4.0)
    given = parser.parse_args()
    if os.geteuid() == 0 and "STREAMER_FLEET_NETWORK" not in os.environ:
        os.environ["STREAMER_FLEET_NETWORK"] = "own"
        argv = [sys.executable, "-m", "benchmarks.chaos", *sys.argv[1:]]
        os.execvp("unshare", ["unshare", "--net", *argv])  # noqa: S606 - no shell is needed
    began = time.monotonic()
    faults, ends, done = asyncio.run(chaos(given.jobs, given.seed, given.lease_s))
    print(f"{sum(ends.values())} jobs in {time.monotonic() - began:.0f} s, seed {given.seed}")
    for counts in (done, ends):
        print(*(f"  {what}: {count}" for what, count in counts.most_common()), sep="\n")
    print("\n".join(["BROKEN:", *faults]) if faults else "no promise was broken")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
