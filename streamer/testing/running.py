"""Run jobs of a service without HTTP, and read their results."""

from __future__ import annotations

import os
import textwrap
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

from streamer.compose import Parts, build
from streamer.config.schema import Config
from streamer.jobs.job import Job
from streamer.model.events import Complete, Error, Event, Output
from streamer.model.job import JobSpec, SourceFile
from streamer.plugins import load_backends, load_plugins
from streamer.spi import Backend, hookimpl

__all__ = ["SLOWNESS", "Ran", "ended", "open_service", "plugin", "program", "run_job", "script"]

SLOWNESS: Final = float(os.environ.get("STREAMER_TEST_SLOWNESS", "1"))
"""How many times slower this machine is, for example because its processor is emulated.

Requirements that are not about a time limit get this much more time.
"""


@dataclass(frozen=True)
class Ran:
    """The events of a job that is over.

    Its properties fail (AssertionError) if the job did not end as they say.
    """

    events: tuple[Event, ...]

    @property
    def end(self) -> Complete | Error:
        """The one terminal event, which must be the last."""
        ends = [e.data for e in self.events if isinstance(e.data, Complete | Error)]
        assert len(ends) == 1, self.events
        assert self.events[-1].data is ends[0], self.events
        return ends[0]

    @property
    def complete(self) -> Complete:
        """The verdict; fails if the job could not be run."""
        assert isinstance(self.end, Complete), self.end
        return self.end

    @property
    def verdict(self) -> str:
        """The reason and the signal or exit code (``exited 0``), or ``error`` and its code."""
        end = self.end
        if isinstance(end, Error):
            return f"error {end.code}"
        return f"{end.reason} {end.signal or end.exit_code}"

    def text(self, stream: str = "stdout") -> str:
        """Return all output of one stream, ``stdout`` or ``stderr``, as text."""
        outputs = [e.data for e in self.events if isinstance(e.data, Output)]
        return "".join(output.data for output in outputs if output.stream == stream)

    def of_case(self, index: int) -> Ran:
        """Return what is left without the output of the other cases."""
        return Ran(
            tuple(
                event
                for event in self.events
                if not isinstance(event.data, Output) or event.data.case == index
            )
        )

    @property
    def out(self) -> str:
        """Standard output; fails unless the job exited with 0 and wrote nothing to stderr."""
        assert (self.complete.exit_code, self.text("stderr")) == (0, ""), self.events
        return self.text()


async def ended(job: Job) -> Ran:
    return Ran(tuple([event async for event in job.events()]))


async def run_job(service: Parts, **spec: Any) -> Ran:
    return await ended(await service.jobs.submit(JobSpec(**spec)))


def program(source: str) -> dict[str, Any]:
    """Return the fields of a `JobSpec` that runs this Python source, its indentation removed."""
    return {"command": ("python3", "-I", "main.py"), "files": (script("main.py", source),)}


def script(name: str, source: str, mode: int = 0o644) -> SourceFile:
    """Return a file for `JobSpec.files`; the indentation of `source` is removed."""
    return SourceFile(name, textwrap.dedent(source).encode(), mode)


@asynccontextmanager
async def open_service(
    backend: type[Backend],
    options: Mapping[str, Any],
    config: Mapping[str, Mapping[str, Any]],
) -> AsyncIterator[Parts]:
    """Start a service, without HTTP, whose jobs run in a backend with these options.

    A backend that no installed plugin registers is registered here. `config` are sections of the
    configuration. Raises `BackendUnavailable` if the backend does not work.
    """
    sandbox: dict[str, Any] = {
        "allow_command": True,
        "warm": False,  # what waits for a job would look like what one has left
        **config.get("sandbox", {}),
        "backend": backend.name,
        backend.name: dict(options),
    }
    known = load_backends(load_plugins(), {}).get(backend.name)
    plugins = [] if type(known) is backend else [plugin(backend)]
    # Logs on disk would add a descriptor to this process.
    streams = {"disk_bytes": 0, **config.get("streams", {})}
    # And a program that was compiled before would be no new one.
    cache = {"max_bytes": 0, **config.get("compile_cache", {})}
    sections = {**config, "sandbox": sandbox, "streams": streams, "compile_cache": cache}
    tree = Config.from_mapping(sections)
    async with build(tree, plugins) as service:
        yield service


def plugin(*backends: type[Backend]) -> object:
    """Return a plugin that registers these backends, for ``plugins=``."""

    @hookimpl
    def streamer_backends() -> list[type[Backend]]:
        return list(backends)

    return SimpleNamespace(streamer_backends=streamer_backends)
