"""Keep templates: sandboxes that stay, inside which the sandboxes of jobs are made.

A job's sandbox from a template is as closed as its own would be (``init/template.c``), and starts
in a third of the time. Whatever keeps a template from making it, the job gets its own.

If the service is root, a template belongs to one of the users that sandboxes are lent, and makes
sandboxes for that user only. A job without isolation could take over processes of its user, so
before another backend gets a user, its templates are ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from streamer.errors import SandboxFailure
from streamer.sandbox.drivers.spawn import start_command
from streamer.sandbox.drivers.template import Template
from streamer.spi import Backend, Host, Identity, SandboxJob, Shown, TemplatePlan

__all__ = ["Kept", "Templates"]

log: Final = logging.getLogger(__name__)

IDLE_S: Final = 60.0
"""A template that has made no sandbox for so long is ended."""

FRESH_S: Final = 10.0
"""One used less long ago makes no room for another: they would only replace each other."""

RETRY_S: Final = 5.0
"""After a failure a backend's jobs get their own sandboxes for this time."""

UNTRIED: Final = "it has not been tested"

Key = tuple[Identity | None, tuple[str, ...], tuple[object, ...]]
"""The user, the command, and the files that it shows: one that was replaced is another file."""


@dataclass
class Kept:
    """A template, and how it is used."""

    key: Key
    template: Template
    up: asyncio.Task[None]
    sandboxes: int = 0
    used_at: float = field(default_factory=time.monotonic)
    idle: asyncio.TimerHandle | None = None


class Templates:
    """All templates of a pool, at most `most`."""

    def __init__(self, host: Host, most: int) -> None:
        self._host = host
        self._most = most
        self._kept: dict[Key, Kept] = {}
        self._ending: dict[asyncio.Task[bool], Kept] = {}
        self._retry_at: dict[str, float] = {}
        self._why_not: dict[str, str] = {}

    def why_not(self, backend: str) -> str:
        """Return why jobs of a backend get sandboxes of their own, or ``""``."""
        return self._why_not.get(backend, UNTRIED)

    def tried(self, backend: str, why_not: str) -> None:
        """Record the result of a test: without one no job gets a sandbox from a template."""
        self._why_not[backend] = why_not

    @property
    def pids(self) -> frozenset[int]:
        """The processes of all templates."""
        return frozenset(pid for template in self._all() for pid in template.pids)

    @property
    def descriptors(self) -> frozenset[int]:
        """The descriptors that this process has for all templates."""
        return frozenset(fd for template in self._all() for fd in template.descriptors)

    def _all(self) -> Iterator[Template]:
        for kept in (*self._kept.values(), *self._ending.values()):
            yield kept.template

    def plan(self, backend: Backend, job: SandboxJob, *, for_trial: bool) -> TemplatePlan | None:
        """Return the plan of a template that can serve the job; None if it gets its own sandbox."""
        if not backend.gated or backend.host_workspace:
            return None
        if not for_trial and (
            self.why_not(backend.name) or self._retry_at.get(backend.name, 0) > time.monotonic()
        ):
            return None
        return backend.template_plan(job)

    @contextmanager
    def using(self, kept: Kept) -> Iterator[Template]:
        """Keep a template while a sandbox in it is open."""
        kept.sandboxes += 1
        if kept.idle is not None:
            kept.idle.cancel()
        try:
            yield kept.template
        finally:
            kept.sandboxes -= 1
            kept.used_at = time.monotonic()
            if not kept.sandboxes:
                kept.idle = asyncio.get_running_loop().call_later(IDLE_S, self._end, kept)

    async def get(self, plan: TemplatePlan, shown: Sequence[Shown]) -> Kept | None:
        """Return a template that has come up, starting it if needed; None if there is no room.

        Raises `SandboxFailure` if it does not start, OSError if this process is out of descriptors.
        """
        key = (plan.launch.start_as, plan.launch.argv, _files(shown))
        kept = self._kept.get(key)
        if kept is not None and not kept.template.alive:
            log.warning("a template has ended by itself; another is started")
            self._end(kept)
            kept = None
        if kept is None:
            if len(self._kept) >= self._most and not self._make_room():
                return None
            template = Template(plan, start_command(plan.launch, self._host, ()))
            kept = Kept(key, template, asyncio.create_task(template.come_up()))
            # All that wait may give up.
            kept.up.add_done_callback(lambda up: up.cancelled() or up.exception())
            self._kept[key] = kept
        try:
            # Others may wait for it too.
            await asyncio.shield(kept.up)
        except (SandboxFailure, OSError) as failure:
            self._end(kept)
            raise SandboxFailure(str(failure)) from failure
        return kept

    def failed(self, backend: str, failure: SandboxFailure) -> None:
        """Give the backend's jobs their own sandboxes for some time."""
        log.warning("sandbox %s: no sandbox from a template: %s", backend, failure)
        self._retry_at[backend] = time.monotonic() + RETRY_S

    async def end_those_of(self, identity: Identity) -> None:
        """End the templates of a user. Raises `SandboxFailure` if one resists."""
        for key, kept in list(self._kept.items()):
            if key[0] == identity:
                self._end(kept)
        ending = [task for task, kept in self._ending.items() if kept.key[0] == identity]
        if not all(await asyncio.gather(*map(asyncio.shield, ending))):
            raise SandboxFailure("a template of the sandbox's user does not die")

    async def close(self) -> None:
        """End all, and wait until they are dead, within a time limit."""
        for kept in list(self._kept.values()):
            self._end(kept)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def abandon(self) -> None:
        """End all without waiting: for an owner that could not `close`."""
        for kept in self._kept.values():
            kept.template.abandon()
        self._kept.clear()

    def _make_room(self) -> bool:
        unused = [kept for kept in self._kept.values() if not kept.sandboxes and kept.up.done()]
        oldest = min(unused, key=lambda kept: kept.used_at, default=None)
        if oldest is None or oldest.used_at > time.monotonic() - FRESH_S:
            return False
        self._end(oldest)
        return True

    def _end(self, kept: Kept) -> None:
        if self._kept.get(kept.key) is not kept:
            return
        del self._kept[kept.key]
        if kept.idle is not None:
            kept.idle.cancel()
        task = asyncio.create_task(self._ended(kept))
        self._ending[task] = kept
        task.add_done_callback(self._ending.pop)

    async def _ended(self, kept: Kept) -> bool:
        dead = await kept.template.close()
        if not dead:
            log.error("template process %d does not die", max(kept.template.pids))
        return dead


def _files(shown: Sequence[Shown]) -> tuple[object, ...]:
    """Return what tells a file from one that has replaced it; None if there is none."""
    found: list[object] = []
    for one in shown:
        try:
            at = os.stat(one.source)  # noqa: PTH116 - for each job, so quickly
        except OSError:
            found.append(None)
        else:
            found.append((at.st_dev, at.st_ino))
    return tuple(found)
