"""Run a requirement as a pytest test, and check after each job that nothing is left of it."""

from __future__ import annotations

import functools
import os
import tempfile
import unittest
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

from streamer.compose import Parts
from streamer.jobs.job import Job
from streamer.model.events import Complete
from streamer.model.job import JobSpec
from streamer.sandbox.enforcement import enforcement
from streamer.testing.processes import adopt_orphans, kept_besides, reap_adopted
from streamer.testing.running import Ran, open_service, run_job
from streamer.testing.suite import Suite

__all__ = ["SMALL_TMP", "Requirements", "requirement", "until_output", "variable"]

SMALL_TMP: Final = "conformance-small-tmp"
"""A language whose /tmp has 1 MiB."""

S = TypeVar("S", bound="Requirements")


class Requirements(Suite):
    """The base of each group of requirements: a service, and jobs that must leave nothing."""

    service: ClassVar[Parts]
    enforces: ClassVar[Mapping[str, str]]
    """How each limit is enforced here (`streamer.sandbox.enforcement`)."""
    _state: ClassVar[Path]

    @classmethod
    async def start(cls) -> None:
        """Start the service with a state folder that the tests can inspect."""
        adopt_orphans()
        cls._state = cls._stack.enter_context(_folder())
        sections: Mapping[str, Mapping[str, Any]] = {
            "queue": {"concurrency": 4},
            "server": {"state_dir": str(cls._state)},
        }
        small = {"entry": "main.sh", "run": ["/bin/sh", "{entry}"], "tmp_bytes": 2**20}
        runtimes = {**cls.config.get("runtimes", {}), SMALL_TMP: small}
        cls.service = await cls._stack.enter_async_context(
            open_service(cls.backend, cls.options, {**sections, **cls.config, "runtimes": runtimes})
        )
        backend = cls.service.worker.backends[cls.backend.name]
        cls.enforces = enforcement(backend, cls.service.worker.cgroup_level)
        await run_job(cls.service, command=("true",))

    async def run(self, **spec: Any) -> Ran:
        """Run a job, with the fields of `JobSpec`, and check that nothing is left of it.

        Checked at once, since the terminal event promises that everything is dead.
        """
        processes, files = kept_besides(self.service.worker.pool)
        ran = await run_job(self.service, **spec)
        self.look_after(processes, files)
        return ran

    async def submit(self, **spec: Any) -> Job:
        """Submit a job with these fields of `JobSpec`; unlike `run`, check nothing of it."""
        return await self.service.jobs.submit(JobSpec(**spec))

    def look_after(self, processes: Mapping[int, str], files: Mapping[int, str]) -> None:
        """Check that there are no new processes and descriptors."""
        running, left = kept_besides(self.service.worker.pool)
        assert running == processes
        assert left == files, {fd: name for fd, name in left.items() if files.get(fd) != name}
        assert list(self._state.glob("*/jobs/*")) == []


def requirement(
    *, limit: str = "", gated: bool = False
) -> Callable[[Callable[[S], Coroutine[Any, Any, None]]], Callable[[S], None]]:
    """Make a test of a coroutine method.

    It is skipped if the backend does not enforce `limit`, a field of `Limits`; with `gated`, if
    our init does not run in the sandbox.
    """

    def decorate(check: Callable[[S], Coroutine[Any, Any, None]]) -> Callable[[S], None]:
        @functools.wraps(check)
        def test(self: S) -> None:
            async def checked() -> None:
                if limit and self.enforces[limit] == "none":
                    raise unittest.SkipTest(f"{self.backend.name} does not limit {limit}")
                if gated and not self.backend.gated:
                    raise unittest.SkipTest(f"{self.backend.name} does not run the init")
                before = kept_besides(self.service.worker.pool)
                await check(self)
                self.look_after(*before)
                reap_adopted()

            self.wait(checked())

        del test.__dict__["__wrapped__"]  # otherwise pytest plugins unwrap it and find a coroutine
        return test

    return decorate


async def until_output(job: Job) -> None:
    """Wait for the first output of a job that is running."""
    async for event in job.events():
        assert not isinstance(event.data, Complete), event
        if event.kind == "output":
            return


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="conformance-") as name:
        Path(name).chmod(0o711)  # sandboxes run as other users than root
        yield Path(name)


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable of this process for the duration of a block."""
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
