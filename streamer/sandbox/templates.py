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
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Final

from streamer.errors import SandboxFailure
from streamer.model.capabilities import NOT_TESTED
from streamer.sandbox.drivers.spawn import start_command
from streamer.sandbox.drivers.template import Template
from streamer.sandbox.forks import ForkBounds
from streamer.sandbox.launch import places_of
from streamer.sandbox.lookout import Lookout, Watch
from streamer.sandbox.processors import Processors
from streamer.sandbox.shape import Program
from streamer.spi import Backend, Host, Identity, LaunchPlan, SandboxJob, Shown, TemplatePlan

__all__ = ["Templates"]

log: Final = logging.getLogger(__name__)

IDLE_S: Final = 60.0
"""A template that has made no sandbox for so long is ended."""

SPARE_FOR_EACH_PROCESSOR: Final = 8
"""If so many wait for each processor, another one is a rest of many jobs at once."""

REST_S: Final = 5.0
"""It is ended after this time: it is two processes and some MiB."""

FRESH_S: Final = 10.0
"""One used less long ago makes no room for another: they would only replace each other."""

RETRY_S: Final = 5.0
"""After a failure a backend's jobs get their own sandboxes for this time."""

MAX_FAILURES: Final = 3
"""After this many failures in a row they do so until a test has succeeded."""

Key = tuple[object, ...]
"""What must be equal for two jobs to have a template in common."""


@dataclass(eq=False)
class Kept:
    """A template, and how it is used."""

    key: Key
    identity: Identity | None
    template: Template
    up: asyncio.Task[None]
    watch: Watch = field(init=False)
    left: float = math.inf
    """How many sandboxes it still makes."""
    users: int = 0
    """The open sandboxes in it, and those who wait until it has come up."""
    used_at: float = field(default_factory=time.monotonic)
    idle: asyncio.TimerHandle | None = None


class Templates:
    """All templates of a pool, at most `most`."""

    def __init__(
        self,
        host: Host,
        lookout: Lookout,
        most: int,
        entry: Callable[[Identity | None], tuple[str, ...]],
        bounds: ForkBounds | None = None,
    ) -> None:
        """`entry` returns the options with which a user's template enters its control group.

        `bounds` are of templates that have become a program.
        """
        self._host = host
        self._lookout = lookout
        self._most = most
        self._spare = SPARE_FOR_EACH_PROCESSOR * Processors().count
        self._entry = entry
        self._bounds = bounds or ForkBounds()
        self._kept: dict[Key, Kept] = {}
        self._retired: set[Kept] = set()
        """Those that make no further sandbox, but have open ones."""
        self._ending: dict[Kept, asyncio.Task[None]] = {}
        self._resisting: dict[Kept, asyncio.Task[None]] = {}
        self._retry_at: dict[str, float] = {}
        self._failures: Counter[str] = Counter()
        self._why_not: dict[str, str] = {}
        self.on_doubt: Callable[[], None] = lambda: None
        """Called when a backend's templates must be tested again."""
        self.on_resisting: Callable[[], None] = lambda: None
        """Called when `resisting` has changed."""

    def why_not(self, backend: str) -> str:
        """Return why jobs of a backend get sandboxes of their own, or ``""``."""
        return self._why_not.get(backend, NOT_TESTED)

    def tried(self, backend: str, why_not: str) -> None:
        """Record the result of a test: without one no job gets a sandbox from a template."""
        self._why_not[backend] = why_not
        self._retry_at.pop(backend, None)
        del self._failures[backend]

    @property
    def resisting(self) -> int:
        """The number of templates with a process that resists SIGKILL."""
        return len(self._resisting)

    @property
    def pids(self) -> frozenset[int]:
        """The processes of all templates."""
        return frozenset(pid for kept in self._all() for pid in kept.template.pids)

    @property
    def descriptors(self) -> frozenset[int]:
        """The descriptors that this process has for all templates."""
        return frozenset(fd for kept in self._all() for fd in kept.template.descriptors)

    def _all(self) -> Iterator[Kept]:
        yield from (*self._kept.values(), *self._retired, *self._ending, *self._resisting)

    def plan(self, backend: Backend, job: SandboxJob, *, for_trial: bool) -> TemplatePlan | None:
        """Return the plan of a template that can serve the job; None if it gets its own sandbox."""
        if not backend.gated or backend.host_workspace or not _is_whole(type(backend)):
            return None
        if not for_trial and (
            self.why_not(backend.name) or self._retry_at.get(backend.name, 0) > time.monotonic()
        ):
            return None
        return backend.template_plan(job)

    @asynccontextmanager
    async def lent(
        self, plan: TemplatePlan, shown: Sequence[Shown], program: Program | None = None
    ) -> AsyncIterator[Template | None]:
        """Lend a template that has come up, starting it if needed; None if there is no room.

        With a `program` it is one that has become that. It is kept while the block is open. Raises
        `SandboxFailure` if it does not start, OSError if this process is out of descriptors.
        """
        kept = await self._find(plan, shown, program)
        if kept is None:
            yield None
            return
        kept.users += 1
        if kept.idle is not None:
            kept.idle.cancel()
        try:
            kept.left -= 1  # not once it has come up: many may wait for that
            if kept.left <= 0:
                self._retire(kept, ())
            await self._come_up(kept)
            yield kept.template
        finally:
            kept.users -= 1
            kept.used_at = time.monotonic()
            if not kept.users and kept in self._retired:
                self._end(kept)
            elif not kept.users and self._kept.get(kept.key) is kept:
                unused = sum(not one.users for one in self._kept.values())
                after_s = IDLE_S if unused <= self._spare else REST_S
                kept.idle = asyncio.get_running_loop().call_later(after_s, self._end, kept)

    async def _find(
        self, plan: TemplatePlan, shown: Sequence[Shown], program: Program | None
    ) -> Kept | None:
        """Return the template of a plan, which may not have come up."""
        key = (*_key(plan.launch), program)
        if (kept := self._living(key)) is not None:
            return kept
        places = () if program is None else places_of(program)
        paths = (*self._host.folders, *(one.source for one in shown), *places)
        seen = await self._lookout.seen(paths)
        if (kept := self._living(key)) is not None:  # started meanwhile
            return kept
        if not self._has_room(program):
            return None
        entry = self._entry(plan.launch.start_as)
        template = Template(plan, start_command(plan.launch, self._host, entry), program)
        up = asyncio.create_task(template.come_up())
        # All that wait may give up.
        up.add_done_callback(lambda up: up.cancelled() or up.exception())
        kept = Kept(key, plan.launch.start_as, template, up)
        kept.watch = self._lookout.watch(seen, partial(self._retire, kept))
        if program is not None:
            kept.left = self._bounds.jobs
            template.until = time.monotonic() + self._bounds.age_s
        self._kept[key] = kept
        return kept

    def _living(self, key: Key) -> Kept | None:
        kept = self._kept.get(key)
        if kept is not None and not kept.template.alive:
            log.warning("a template has ended by itself; another is started")
            self._end(kept)
            return None
        if kept is not None and kept.template.until <= time.monotonic():
            self._retire(kept, ())
            return None
        return kept

    def users_of(self, program: Program | None) -> frozenset[int]:
        """Return the users with a template that has become the program."""
        if program is None:
            return frozenset()
        kept = (kept for kept in self._kept.values() if kept.template.program == program)
        return frozenset(one.identity.uid for one in kept if one.identity is not None)

    async def _come_up(self, kept: Kept) -> None:
        try:
            # Others may wait for it too.
            await asyncio.shield(kept.up)
        except (SandboxFailure, OSError) as failure:
            self._end(kept)
            raise SandboxFailure(str(failure)) from failure

    def worked(self, backend: str) -> None:
        """Record that a template has made a sandbox."""
        del self._failures[backend]

    def failed(self, backend: str, failure: SandboxFailure) -> None:
        """Give the backend's jobs their own sandboxes for some time."""
        log.warning("sandbox %s: no sandbox from a template: %s", backend, failure)
        self._retry_at[backend] = time.monotonic() + RETRY_S
        self._failures[backend] += 1
        if self._failures[backend] == MAX_FAILURES:
            self._why_not[backend] = f"it failed {MAX_FAILURES} times in a row, at last: {failure}"
            self.on_doubt()

    def _retire(self, kept: Kept, replaced: Sequence[str]) -> None:
        """Let it make no further sandbox, and end it with the last one in it.

        Those that wait for their jobs are given up at the same look.
        """
        if replaced:
            log.info("templates no longer show what is at: %s", ", ".join(replaced))
        if self._kept.get(kept.key) is kept:
            del self._kept[kept.key]
            self._retired.add(kept)
            if not kept.users:
                self._end(kept)

    async def end_those_of(self, identity: Identity) -> None:
        """End the templates of a user. Raises `SandboxFailure` if one resists."""
        for kept in [*self._kept.values(), *self._retired]:
            if kept.identity == identity:
                self._end(kept)
        ending = [task for kept, task in self._ending.items() if kept.identity == identity]
        if ending:
            await asyncio.wait(ending)
        if any(kept.identity == identity for kept in self._resisting):
            raise SandboxFailure("a template of the sandbox's user does not die")

    async def close(self) -> None:
        """End all, and wait until they are dead, within a time limit."""
        for kept in [*self._kept.values(), *self._retired]:
            self._end(kept)
        await asyncio.gather(*self._ending.values(), return_exceptions=True)
        for task in (resisting := [*self._resisting.values()]):
            task.cancel()
        await asyncio.gather(*resisting, return_exceptions=True)

    def abandon(self) -> None:
        """End all without waiting: for an owner that could not `close`."""
        for kept in self._all():
            kept.template.abandon()
        self._kept.clear()

    def _has_room(self, program: Program | None) -> bool:
        """Return whether one more may be started; another may be ended for it.

        A tenant with a name has at most half of all: callers choose their limits, and so how many
        interpreters they have.
        """
        those = [*self._kept.values(), *self._retired, *self._resisting]
        tenant = _tenant(program)
        theirs = sum(_tenant(kept.template.program) == tenant for kept in those)
        if tenant and theirs >= self._most / 2:
            return self._make_room(tenant)
        return len(those) < self._most or self._make_room("")

    def _make_room(self, tenant: str) -> bool:
        """End one that nobody uses; with a tenant, one of its interpreters."""
        unused = [
            kept
            for kept in self._kept.values()
            if not kept.users and tenant in ("", _tenant(kept.template.program))
        ]
        oldest = min(unused, key=lambda kept: kept.used_at, default=None)
        if oldest is None or oldest.used_at > time.monotonic() - FRESH_S:
            return False
        self._end(oldest)
        return True

    def _end(self, kept: Kept) -> None:
        if kept in self._ending or kept in self._resisting:
            return
        if self._kept.get(kept.key) is kept:
            del self._kept[kept.key]
        self._retired.discard(kept)
        self._lookout.end(kept.watch)
        if kept.idle is not None:
            kept.idle.cancel()
        task = asyncio.create_task(self._ended(kept))
        self._ending[kept] = task
        task.add_done_callback(lambda _: self._ending.pop(kept))

    async def _ended(self, kept: Kept) -> None:
        if not await kept.template.close():
            log.error("template process %d does not die after SIGKILL", max(kept.template.pids))
            self._resisting[kept] = asyncio.create_task(self._outlasted(kept))
            self.on_resisting()

    async def _outlasted(self, kept: Kept) -> None:
        try:
            # Unbounded: a process that resists SIGKILL may die when its disk answers, or never.
            await kept.template.gone.wait()
        finally:
            del self._resisting[kept]
            self.on_resisting()


@cache
def _is_whole(backend: type[Backend]) -> bool:
    """Return whether `template_plan` goes with the backend's `plan` and `session`.

    A class that changes these alone means other sandboxes than the one that it is derived from.
    """
    plan, session, template = (
        next(at for at, owner in enumerate(backend.__mro__) if name in vars(owner))
        for name in ("plan", "session", "template_plan")
    )
    return template <= min(plan, session)


def _key(launch: LaunchPlan) -> Key:
    """Return what is fixed when a template is started."""
    env = tuple(sorted(launch.env.items()))
    return (launch.start_as, launch.argv, env, launch.cwd, launch.own_pid_namespace)


def _tenant(program: Program | None) -> str:
    return "" if program is None or program.fork is None else program.fork.tenant
