"""Run the shipped conformance suite on the built-in backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest

from sandboxes.bwrap import Bwrap
from sandboxes.firejail import Firejail
from sandboxes.plain import Plain
from streamer.model.capabilities import SWITCHED_OFF
from streamer.spi import Backend
from streamer.testing import ConformanceSuite
from streamer.testing.running import run_job
from tests.conftest import required_backends
from tests.fork import fork_each
from tests.sandbox.forking import can_fork
from tests.warm import hold_each


class TestPlain(ConformanceSuite):
    backend = Plain
    required = "plain" in required_backends()


class TestBwrap(ConformanceSuite):
    backend = Bwrap
    required = "bwrap" in required_backends()

    def test_its_jobs_come_from_a_template(self) -> None:
        async def why_not() -> str:
            assert self.service.worker.pool is not None
            return self.service.worker.pool.templates.why_not("bwrap")

        assert self.wait(why_not()) == ""


@pytest.mark.slow
class TestBwrapWithoutGroups(TestBwrap):
    config: ClassVar[Mapping[str, Mapping[str, Any]]] = {"sandbox": {"cgroup": "off"}}


class TestBwrapForEachJob(ConformanceSuite):
    backend = Bwrap
    options: ClassVar[Mapping[str, Any]] = {"template": False}
    required = "bwrap" in required_backends()


@pytest.mark.slow
class TestBwrapForEachJobWithoutGroups(TestBwrapForEachJob):
    config: ClassVar[Mapping[str, Mapping[str, Any]]] = {"sandbox": {"cgroup": "off"}}


class TestBwrapWarm(ConformanceSuite):
    """Each program was started before its job."""

    backend: ClassVar[type[Backend]] = Bwrap
    required = "bwrap" in required_backends()

    waited: ClassVar[Sequence[bool]]

    @classmethod
    async def start(cls) -> None:
        await super().start()
        assert cls.service.worker.pool is not None
        assert cls.service.worker.pool.held.why_not(cls.backend.name) == SWITCHED_OFF
        cls.waited = hold_each(cls.service.worker.pool)

    def test_its_programs_are_started_before_their_jobs(self) -> None:
        async def echo() -> str:
            return (await run_job(self.service, command=("echo", "1"))).out

        assert self.wait(echo()) == "1\n"
        assert self.waited[-1]


class TestBwrapForEachJobWarm(TestBwrapWarm):
    options: ClassVar[Mapping[str, Any]] = {"template": False}


@pytest.mark.slow
class TestBwrapWarmWithoutGroups(TestBwrapWarm):
    config: ClassVar[Mapping[str, Mapping[str, Any]]] = {"sandbox": {"cgroup": "off"}}


@pytest.mark.slow
class TestPlainWarm(TestBwrapWarm):
    backend = Plain
    required = "plain" in required_backends()


class TestBwrapForked(ConformanceSuite):
    """Each program of Python is forked from an interpreter that runs already."""

    backend = Bwrap
    required = "bwrap" in required_backends() and can_fork()

    @classmethod
    async def start(cls) -> None:
        await super().start()
        pool = cls.service.worker.pool
        assert pool is not None
        await fork_each(pool)


@pytest.mark.slow
class TestBwrapForkedWithoutGroups(TestBwrapForked):
    config: ClassVar[Mapping[str, Mapping[str, Any]]] = {"sandbox": {"cgroup": "off"}}


class TestFirejail(ConformanceSuite):
    backend = Firejail
    required = "firejail" in required_backends()
