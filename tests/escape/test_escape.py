"""Run every attack in each backend that comes with streamer, and show that attacks can succeed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import pytest

from sandboxes.bwrap import Bwrap
from sandboxes.firejail import Firejail
from sandboxes.plain import Plain
from streamer.testing import ATTACKS, Attack, EscapeSuite, Outcome, open_campaign
from streamer.testing.attacks import THEMES
from streamer.testing.running import run_job
from tests.conftest import required_backends
from tests.fork import fork_each
from tests.sandbox.forking import can_fork
from tests.warm import hold_each

BY_NAME = {attack.name: attack for attack in ATTACKS}

SUCCEED_IN_PLAIN = (
    "a file in a folder of the system",
    "a file of others, assembled into the program",
    "a file of others, included",
    "a port opened on the host",
    "a receiver of datagrams on loopback",
    "a server on loopback",
    "a server on loopback by IPv6",
    "a server on loopback by another name of it",
    "a socket in a folder of others",
    "a socket of netlink",
    "an abstract socket of the host",
    "another environment",
    "another job's abstract socket",
    "another job's lock on a file of all",
    "another job's port on loopback",
    "another job's shared memory",
    "another job's temporary files",
    "another personality",
    "files and network, from a build that runs code",
    "files in /tmp and /dev/shm for the next job",
    "handles of files",
    "readable files of others in /tmp",
    "refused calls with high bits set",
    "the accounts of the host",
    "the disk by files that are deleted and open",
    "the host's interfaces, addresses and routes by netlink",
    "the host's pseudo-terminals",
    "the name of the host",
    "terminals besides its own",
    "the sockets of the host in /proc",
    "tracing of its own children",
    "writable files of others in /tmp",
)
"""They succeed on every host; others do on most (docs/escape-matrix.md)."""

SUCCEED_WITHOUT_LIMITS = (
    "a file over its limit",
    "a fork bomb of sleepers",
    "many processes by vfork",
    "many processes, each of its own session",
    "many threads",
    "many zombies",
    "memory of many processes",
    "memory of processes that hide their maps",
    "memory of stopped processes",
    "memory of the heap",
    "memory of threads' stacks",
    "memory shared with children",
    "more open files than allowed",
    "the disk by bytes",
)


class TestPlain(EscapeSuite):
    backend = Plain
    required = "plain" in required_backends()

    @pytest.mark.parametrize("name", SUCCEED_IN_PLAIN)
    def test_an_attack_that_should_succeed_does(self, name: str) -> None:
        # An attack that never succeeds anywhere proves nothing where it fails.
        outcome = self.wait(self._outcome(BY_NAME[name], ()))
        assert outcome.not_promised
        assert outcome.achieved


class TestBwrap(EscapeSuite):
    backend = Bwrap
    required = "bwrap" in required_backends()

    def test_its_jobs_come_from_a_template(self) -> None:
        async def why_not() -> str:
            pool = self._campaign.service.worker.pool
            assert pool is not None
            return pool.templates.why_not("bwrap")

        assert self.wait(why_not()) == ""


class TestBwrapForEachJob(EscapeSuite):
    backend = Bwrap
    options: ClassVar[Mapping[str, Any]] = {"template": False}
    required = "bwrap" in required_backends()


class TestBwrapWarm(EscapeSuite):
    """Each program was started before its job.

    The init holds it in the same way whoever made the sandbox (tests/sandbox/test_held.py).
    """

    backend = Bwrap
    required = "bwrap" in required_backends()

    _waited: ClassVar[Sequence[bool]]

    @classmethod
    async def start(cls) -> None:
        await super().start()
        assert cls._campaign.service.worker.pool is not None
        cls._waited = hold_each(cls._campaign.service.worker.pool)

    def test_its_programs_are_started_before_their_jobs(self) -> None:
        async def echo() -> str:
            return (await run_job(self._campaign.service, command=("echo", "1"))).out

        assert self.wait(echo()) == "1\n"
        assert any(self._waited)


class TestBwrapForked(EscapeSuite):
    """Each program of Python is forked from an interpreter that runs already."""

    backend = Bwrap
    required = "bwrap" in required_backends() and can_fork()

    @classmethod
    async def start(cls) -> None:
        await super().start()
        pool = cls._campaign.service.worker.pool
        assert pool is not None
        await fork_each(pool)


class TestFirejail(EscapeSuite):
    backend = Firejail
    required = "firejail" in required_backends()


ON_A_TERMINAL = tuple(
    replace(attack, terminal=True)
    for theme in ("Namespaces", "Privileges", "The kernel", "Shared resources of the host")
    for attack in THEMES[theme]
    if not attack.language and attack.name != "the terminal of the service"
)
"""Those on how a sandbox is made, which is another way where its programs have a terminal."""


class TestBwrapOnTerminal(EscapeSuite):
    backend = Bwrap
    attacks = ON_A_TERMINAL
    required = "bwrap" in required_backends()


class TestBwrapForEachJobOnTerminal(TestBwrapOnTerminal):
    options: ClassVar[Mapping[str, Any]] = {"template": False}


class TestFirejailOnTerminal(EscapeSuite):
    backend = Firejail
    attacks = ON_A_TERMINAL
    required = "firejail" in required_backends()


async def test_an_attack_that_failed_is_tried_again_with_its_test() -> None:
    tried: list[str] = []

    class Campaign:
        async def attempt(self, attack: Attack) -> Outcome:
            tried.append(attack.name)
            return Outcome(attack.name, "", ("it got out",) * (len(tried) == 1))

    class Suite(EscapeSuite):
        _campaign = cast("Any", Campaign())
        _outcomes: ClassVar[dict[str, asyncio.Task[Outcome]]] = {}

    first, other = ATTACKS[:2]
    faults = [(await Suite._outcome(each, (first, other))).faults for each in (first, other, first)]
    assert faults == [("it got out",), (), ()]
    assert tried == [first.name, other.name, first.name]


def test_attacks_on_limits_succeed_without_them(need: Callable[[str], Any]) -> None:
    need("bwrap")

    async def attempt_all() -> list[Outcome]:
        attacks = [replace(BY_NAME[name], limits={}) for name in SUCCEED_WITHOUT_LIMITS]
        async with open_campaign(Bwrap) as campaign:
            return await asyncio.gather(*map(campaign.attempt, attacks))

    held = [outcome.attack for outcome in asyncio.run(attempt_all()) if not outcome.achieved]
    assert held == []
