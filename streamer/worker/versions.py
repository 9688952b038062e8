"""Know which languages this host has, in which versions, and with which packages.

A version is what the tool says in the sandbox that jobs get: on the host another one may be found,
and a tool that is broken in the sandbox says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from streamer.bounded import within
from streamer.config.schema import LimitsConfig
from streamer.environments.manifest import MANIFEST, look
from streamer.errors import SandboxFailure
from streamer.model.environment import Environment
from streamer.model.runtime import Runtime, by_name, sized
from streamer.sandbox.host.replaced import What
from streamer.sandbox.lookout import Lookout
from streamer.sandbox.registry import Backends
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import Run, Shape
from streamer.worker.program import base_environment
from streamer.worker.tools import missing_tools, tools_in

__all__ = ["Languages", "version_in"]

log: Final = logging.getLogger(__name__)

VERSION_S: Final = 10.0
"""How long a tool may take to say its version."""

SETTLE_S: Final = 2.0
"""The pause after a tool has changed: who installs one writes several files."""

RETRY_S: Final = 30.0
"""The pause after the host could not be looked at."""

VERSION_BYTES: Final = 4096
"""What is read of a tool's answer."""

DOTTED: Final = re.compile(r"\d+(?:\.\d+)+")
NUMBER: Final = re.compile(r"\d+")


class Languages:
    """The configured languages on this host."""

    def __init__(
        self,
        runtimes: Mapping[str, Runtime],
        path: str,
        limits: LimitsConfig,
        backends: Backends,
        environments: Mapping[str, Environment] = MappingProxyType({}),
        of_environments: Mapping[str, Runtime] | None = None,
    ) -> None:
        """`path` is the PATH of the jobs.

        `of_environments` are all languages that environments are for, by name and alias.
        """
        self._runtimes = runtimes
        self._path = path
        self._limits = limits
        self._backends = backends
        self._environments = environments
        self._of_environments = by_name(runtimes) if of_environments is None else of_environments
        self._look()
        self.versions: dict[str, str] = {}
        """What the tools of the others have said so far."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when any of these may have changed."""

    def _look(self) -> None:
        """Look at the host's files again."""
        self.missing: Mapping[str, str] = missing_tools(self._runtimes, self._path)
        """The reasons why languages are not available here, by name."""
        self.environments = look(self._environments, self._of_environments, self._path)
        """The configured packages for languages, by name."""

    @property
    def available(self) -> frozenset[str]:
        return frozenset(self._runtimes.keys() - self.missing.keys())

    async def keep_asking(self, lookout: Lookout) -> None:
        """Ask each tool for its version, and again when the tool is replaced, for ever."""
        known: Mapping[str, What] = {}
        while True:
            try:
                known = await self._ask_until_changed(lookout, known)
                pause_s = SETTLE_S
            except Exception:
                log.exception("the languages of this host could not be looked at")
                pause_s = RETRY_S
            await asyncio.sleep(pause_s)

    async def _ask_until_changed(
        self, lookout: Lookout, known: Mapping[str, What]
    ) -> Mapping[str, What]:
        """Ask the tools that differ from the known ones; return what was there, once it changes."""
        changed = asyncio.Event()
        places = {name: _places(runtime, self._path) for name, runtime in self._runtimes.items()}
        of_packages = {f"{each.path}/{MANIFEST}" for each in self._environments.values()}
        seen = await lookout.seen(sorted(of_packages.union(*places.values())))
        watch = lookout.watch(seen, lambda _: changed.set(), content=True)
        try:
            before = self.environments
            await asyncio.to_thread(self._look)
            for name, facts in self.environments.items():
                if facts.reason and facts.reason != before[name].reason:
                    log.warning("the environment %s is not available: %s", name, facts.reason)
                elif before[name].reason and not facts.reason:
                    log.info("the environment %s is available", name)
            self.on_change()
            await self.ask(
                name
                for name, each in places.items()
                if any(seen[place] != known.get(place) for place in each)
            )
            await changed.wait()
            return seen
        finally:
            lookout.end(watch)

    async def ask(self, names: Iterable[str] | None = None) -> None:
        """Ask the tools of these languages, or of all, for their versions, one after another."""
        groups: dict[Shape, list[Runtime]] = defaultdict(list)
        for name in self._runtimes if names is None else names:
            self.versions.pop(name, None)
            runtime = self._runtimes[name]
            if runtime.version and name in self.available:
                shape = Shape(
                    self._backends.default,
                    self._limits.max,
                    read_only=runtime.read_only,
                    etc=runtime.etc,
                )
                groups[shape].append(runtime)
        for shape, group in groups.items():
            rest: Sequence[Runtime] = group
            try:
                while rest:
                    rest = await self._ask_some(shape, rest)
            except (SandboxFailure, OSError) as failure:
                log.warning("no sandbox to ask %s for its version: %s", rest[0].name, failure)
            self.on_change()

    async def _ask_some(self, shape: Shape, runtimes: Sequence[Runtime]) -> Sequence[Runtime]:
        """Ask in one sandbox; return those that are left when one does not answer."""
        async with self._backends.apart(shape) as sandbox:
            await sandbox.put_files((), shape.limits)
            for number, runtime in enumerate(runtimes, 1):
                try:
                    said = await within(VERSION_S, self._answer(sandbox, runtime))
                except (SandboxFailure, TimeoutError) as failure:
                    log.warning("%s does not say its version: %s", runtime.name, failure)
                    return runtimes[number:]
                if said:
                    self.versions[runtime.name] = said
        return ()

    async def _answer(self, sandbox: Sandbox, runtime: Runtime) -> str:
        """Return the version that the tool says, or ``""`` if it fails."""
        limits = runtime.raised(self._limits.default, self._limits.max)
        env = sized(runtime, limits, limits, processors=1).env
        with contextlib.ExitStack() as ours:
            stdio = sandbox.stdio(with_input=False)
            ours.callback(stdio.close)
            streams = [stdio.take("stdout"), stdio.take("stderr")]
            for fd in streams:
                ours.callback(os.close, fd)
            environment = {**base_environment(self._path, sandbox.home), **env}
            running = await sandbox.run(Run(runtime.version, environment, limits, stdio))
            # Nobody reads until then: a tool that says more than a pipe holds does not end.
            await running.exited
            sandbox.end_rest()
            end = await running.ended
            if end.status != 0:
                return ""
            return next(filter(None, (version_in(_read(fd)) for fd in streams)), "")


def version_in(text: str) -> str:
    """Return the version in what a tool says of itself, or ``""``."""
    found = DOTTED.search(text) or NUMBER.search(text)
    return found[0] if found else ""


def _read(fd: int) -> str:
    try:
        return os.read(fd, VERSION_BYTES).decode(errors="replace")
    except BlockingIOError:
        return ""


def _places(runtime: Runtime, path: str) -> set[str]:
    """Return where its tools are, or would be if they were installed there."""
    places = {name.removeprefix("-") for name in runtime.read_only}
    commands = (runtime.run, runtime.compile, runtime.version)
    for name in (tool for command in commands for tool in tools_in(command)):
        places |= {name} if "/" in name else {f"{folder}/{name}" for folder in path.split(":")}
    return places
