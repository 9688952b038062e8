"""Run every attack in every backend and look at the host as well as at what the job says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from streamer.service import JobService
from tests.conftest import BACKENDS, OpenService
from tests.escape.attacks import ATTACKS, Attack
from tests.escape.bait import Bait, lay_bait
from tests.jobs import Ran, adopt_orphans, descendants, run_job, script

TWICE = ("keys", "System V", "message queues", "/tmp and /dev/shm")
"""Attacks on the next job have to be run twice: the first one lays the trap."""


@pytest.fixture
async def bait() -> AsyncIterator[Bait]:
    async with lay_bait() as laid:
        yield laid


@pytest.fixture
async def service(open_service: OpenService, backend: str) -> JobService:
    return await open_service(backend)


async def attempt(service: JobService, attack: Attack, bait: Bait) -> list[str]:
    """Run one attack and return what it achieved."""
    ran = await run_job(
        service,
        command=("python3", "-I", "attack.py", bait.hints),
        files=(script("attack.py", attack.source),),
        limits={"wall_time_s": 20.0},
    )
    return [*said(ran), *bait.disturbed()]


def said(ran: Ran) -> list[str]:
    """Return the attack's own verdict: nothing when it says that it was held."""
    lines = [line for line in ran.text().splitlines() if line.startswith(("HELD", "ESCAPED"))]
    assert len(lines) == 1, f"the attack gave no verdict: {ran.events}"
    return [line for line in lines if line.startswith("ESCAPED")]


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
async def test_attack(
    service: JobService,
    backend: str,
    attack: Attack,
    bait: Bait,
    record_property: Callable[[str, object], None],
) -> None:
    adopt_orphans()
    before = descendants()
    achieved = await attempt(service, attack, bait)
    if any(word in attack.name for word in TWICE):
        achieved += await attempt(service, attack, bait)
    assert descendants() == before
    promised = backend not in attack.not_promised
    if promised:
        assert achieved == []
    else:
        record_property("not promised", "; ".join(achieved) or "held")


ESCAPES_FROM_PLAIN = (
    "a server on loopback",
    "an abstract socket",
    "a socket in /tmp",
    "readable files of others in /tmp",
    "writable files of others in /tmp",
    "files in /tmp and /dev/shm",
)


@pytest.mark.parametrize("name", ESCAPES_FROM_PLAIN)
async def test_an_attack_that_should_succeed_does(
    open_service: OpenService, bait: Bait, name: str
) -> None:
    # An attack that never succeeds anywhere proves nothing where it fails.
    service = await open_service("plain")
    (attack,) = [attack for attack in ATTACKS if attack.name == name]
    achieved = await attempt(service, attack, bait)
    achieved += await attempt(service, attack, bait)
    assert achieved


def test_the_table_is_well_formed() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names)) >= 40
    for attack in ATTACKS:
        assert set(attack.not_promised) <= set(BACKENDS)
        assert "bwrap" not in attack.not_promised, "bwrap promises everything in this table"
        assert "held(" in attack.program or "refused(" in attack.program
        compile(attack.source, attack.name, "exec")
