"""Shared by the engine suites: jobs, events, and functions that bring a job to a state."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from streamer.engine.interface import Engine, Lease
from streamer.model.capabilities import Accepts
from streamer.model.events import TERMINAL_KINDS, Complete, Event, Output, Reason, encode
from streamer.model.job import Limits, Phase, ResolvedJob, Step, TerminalSize

Encoded = tuple[str, bytes]

ACCEPTS = Accepts(frozenset({"bwrap"}), frozenset({"python"}))
"""All that `make_job` makes."""

_numbers = itertools.count(1)


def make_job(
    job_id: str | None = None, *, interactive: bool = True, terminal: TerminalSize | None = None
) -> ResolvedJob:
    """Return a job with an id that no other has."""
    return ResolvedJob(
        job_id=job_id or f"job{next(_numbers):06}",
        language="python",
        backend="bwrap",
        steps=(Step(Phase.RUN, ("python3", "main.py"), Limits()),),
        interactive=interactive,
        terminal=terminal,
    )


def output(text: str) -> Encoded:
    return encode(Output("stdout", text, 0, "run"))


def complete(reason: Reason = "exited") -> Encoded:
    return encode(
        Complete(
            reason=reason,
            exit_code=0 if reason == "exited" else None,
            signal=None,
            duration_ms=1,
            cpu_time_ms=1,
            peak_memory_bytes=None,
            timed_out=False,
            oom_killed=False,
            output_bytes=0,
            output_truncated=False,
            sandbox="bwrap",
            phase="run",
        )
    )


async def submit(engine: Engine, *tenants: str) -> list[str]:
    """Submit one job for each name; return their ids."""
    return [(await engine.submit(make_job(), tenant=tenant)).job_id for tenant in tenants]


async def claim_one(engine: Engine) -> Lease:
    [lease] = await engine.claim("worker", 1, ACCEPTS)
    return lease


async def start(engine: Engine, tenant: str = "") -> Lease:
    """Submit a job and bring it to the state ``running``; no other job may wait."""
    await engine.submit(make_job(), tenant=tenant)
    lease = await claim_one(engine)
    await lease.state("running")
    return lease


async def events_of(engine: Engine, job_id: str) -> list[Event]:
    """Return the present events of a log, and check the invariants of every log."""
    async with engine.follow(job_id) as log:
        events = [event async for event in log.entries()]
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert not [event for event in events[:-1] if event.kind in TERMINAL_KINDS]
    return events


async def follow(engine: Engine, job_id: str, after: int = 0) -> list[Event]:
    """Follow a log to its end."""
    async with engine.follow(job_id, after) as log:
        return [event async for event in log.events(after)]


async def position(engine: Engine, job_id: str) -> int | None:
    """Return a job's position in the queue."""
    view = await engine.summary(job_id)
    return None if view is None else view.position


def texts(events: Iterable[Event]) -> str:
    """Return the output among the events as one text."""
    return "".join(event.data.data for event in events if isinstance(event.data, Output))
