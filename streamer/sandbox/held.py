"""Open sandboxes before their jobs come, and start the program in them where that is known.

When a job's program runs another sandbox of its shape is opened. An interpreter takes longer to
start than most programs run: it is started in there too, and held where it could notice that it has
no job yet (``init/hold.c``). One job takes both over, if it runs just this program, and nobody else
ever does. Whatever keeps a sandbox from being opened ahead, or a program from being held, a job
does it as ever.

There are never more than places are free, and a job that needs another sandbox does not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from streamer.bounded import ends_in
from streamer.model.capabilities import NOT_TESTED, Ahead
from streamer.sandbox.lookout import Lookout, Watch
from streamer.sandbox.processors import Processors
from streamer.sandbox.refill import Refill
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import Program, Shape
from streamer.sandbox.stdio import Stdio
from streamer.sandbox.wants import Wants

__all__ = ["HeldSandboxes", "Key"]

log: Final = logging.getLogger(__name__)

IDLE_S: Final = 600.0
"""What no job has wanted for so long is closed."""

HOLD_S: Final = 10.0
"""A program that is not held by then never will."""

RETRY_S: Final = 60.0
"""After a failure jobs do it themselves for this time."""

MOST_FOR_EACH_PROCESSOR: Final = 8
"""So many wait at most for each processor: it takes a burst of as many jobs longer to run than to
start, and each holds some MiB."""

END_TIMEOUT_S: Final = 10.0

MOST_KEYS: Final = 64
"""Of so many kinds it is known that they have failed."""

Key = tuple[Shape, Program | None]
"""What must be equal for a job: without a program, only the sandbox."""


@dataclass(eq=False)
class Held:
    """A sandbox that waits for its job, or is on its way to that."""

    key: Key
    shows: Sequence[str]
    """The paths of the host that make it what it is."""
    opening: asyncio.Task[Sandbox] = field(init=False)
    """Done when it is open, and its program was started."""
    watch: Watch | None = None
    """On what is at these paths, until its job has come."""
    coming: asyncio.Task[None] | None = None
    """Done when the program is held."""
    idle: asyncio.TimerHandle | None = None

    @property
    def ready(self) -> bool:
        return self.idle is not None


class HeldSandboxes:
    """All that a pool has opened ahead: no more than it has places that no job uses.

    Nor more than `MOST_FOR_EACH_PROCESSOR`.
    """

    def __init__(
        self,
        open_sandbox: Callable[[Shape, Program | None], Awaitable[Sandbox]],
        shows: Callable[[Shape, Program | None], Sequence[str]],
        lookout: Lookout,
        may_fork: Callable[[str, Program | None], bool],
        places: int,
    ) -> None:
        """`shows` returns the paths of the host that make a sandbox what it is.

        `may_fork` returns whether a program may be forked in a sandbox of a backend.
        """
        self._open = open_sandbox
        self._shows = shows
        self._lookout = lookout
        self._may_fork = may_fork
        self._places = places
        self._most = min(places, MOST_FOR_EACH_PROCESSOR * Processors().count)
        self._refill: Refill[Key] = Refill(self._begin, self._making, places, self._most)
        self._held: list[Held] = []
        self._wants: Wants[Key] = Wants()
        self._retry_at: dict[Key, float] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._why_not: dict[str, str] = {}
        self._opens: dict[str, bool] = {}
        self._warm = 0
        self._opened_ahead = 0
        self._cold = 0

    # -- what is known of backends --------------------------------------------------------

    def why_not(self, backend: str) -> str:
        """Return why no program is held in sandboxes of a backend, or ``""``."""
        return self._why_not.get(backend, NOT_TESTED)

    def tried(self, backend: str, why_not: str, *, opens: bool = True) -> None:
        """Record the result of a test, without which nothing is done ahead.

        `opens` says that sandboxes may be opened, with or without a program.
        """
        self._why_not[backend] = why_not
        self._opens[backend] = opens

    @property
    def ahead(self) -> Ahead:
        held = Counter(held.key[0].backend for held in self._held if held.ready)
        return Ahead(held, self._warm, self._opened_ahead, self._cold)

    # -- jobs -----------------------------------------------------------------------------

    async def lend(self, shape: Shape, program: Program | None) -> Sandbox:
        """Return a job's sandbox, in which its program may wait already; the caller must close it.

        Raises `SandboxFailure` and OSError as for any other sandbox.
        """
        key: Key | None = None
        if self._opens.get(shape.backend, False):
            forks = self._may_fork(shape.backend, program)
            key = (shape, program if forks or self._may_hold(shape.backend, program) else None)
        self._refill.job_came()
        with contextlib.ExitStack() as unless_lent:
            unless_lent.callback(self._refill.job_went)
            sandbox = None if key is None else await self._take(key)
            if sandbox is None:
                self._make_room(0)
                sandbox = await self._open(shape, program)
                self._cold += 1
            unless_lent.pop_all()
        sandbox.on_begun = partial(self._want, key)
        sandbox.on_closed = self._refill.job_went
        return sandbox

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Count a job that has sandboxes one after another (`lend_another`)."""
        self._refill.job_came()
        try:
            yield
        finally:
            self._refill.job_went()

    async def lend_another(self, shape: Shape) -> Sandbox:
        """Return a sandbox for a job that has a place already; the caller must close it.

        Raises `SandboxFailure` and OSError as for any other sandbox.
        """
        if self._opens.get(shape.backend, False):
            sandbox = await self._take((shape, None))
            if sandbox is not None:
                return sandbox
        return await self._open(shape, None)

    def _want(self, key: Key | None) -> None:
        """Open one like a job's, whose program runs now."""
        if key is not None and self._is_refused(key):
            key = None if self._is_refused((key[0], None)) else (key[0], None)
        if key is None:
            return
        self._wants.add(key)
        self._refill.want(key)

    async def _take(self, key: Key) -> Sandbox | None:
        """Take one of those that wait, or are on their way to that."""
        while held := self._best(key):
            changed = held.shows != self._shows(*held.key)  # which may raise
            self._forget(held)
            if changed:
                self._end(held)
                continue
            try:
                sandbox = await asyncio.shield(held.opening)
            except asyncio.CancelledError:
                self._end(held)
                raise
            except Exception as failure:  # noqa: BLE001 - the job opens its own
                self._refuse(held.key, str(failure))
                continue
            if sandbox.may_be_lent:
                self._warm += sandbox.waits
                self._opened_ahead += not sandbox.waits
                return sandbox
            self._end(held)
        return None

    def _may_hold(self, backend: str, program: Program | None) -> bool:
        return program is not None and program.holds and not self.why_not(backend)

    def _may_wait(self, sandbox: Sandbox, backend: str, program: Program) -> bool:
        # To hold a forked one nothing is traced, which may not work here.
        return program.holds if sandbox.way == "forked" else self._may_hold(backend, program)

    def _best(self, key: Key) -> Held | None:
        # To fork a program is faster than to start it in an open sandbox.
        kinds = (key,) if self._may_fork(key[0].backend, key[1]) else (key, (key[0], None))
        for wanted in kinds:
            those = [held for held in self._held if held.key == wanted]
            if those:
                return next((held for held in those if held.ready), those[0])
        return None

    # -- what waits -----------------------------------------------------------------------

    def _making(self) -> int:
        return sum(not held.ready for held in self._held)

    def _begin(self, key: Key) -> bool:
        """Open one of a kind if there is room for it."""
        if not self._make_room(1, key):
            return False
        held = Held(key, self._shows(*key))
        held.opening = asyncio.create_task(self._opened(held))
        held.coming = asyncio.create_task(self._until_held(held))
        self._held.append(held)
        return True

    def _make_room(self, wanted: int, of: Key | None = None) -> bool:
        """End what is worth least, until so many places are free; return whether that was possible.

        For one of a kind, made for jobs to come, only what was wanted before it is ended, but not
        the last one of what jobs want again and again.
        """
        while self._are_too_many(len(self._held) + wanted, ahead=of is not None):
            alike = Counter(held.key for held in self._held)
            worths = {
                held: self._worth(held.key, is_last=alike[held.key] == 1) for held in self._held
            }
            if of is not None:
                before = self._wants.worth(of)[1]
                worths = {
                    held: (keep, at)
                    for held, (keep, at) in worths.items()
                    if not keep and at < before
                }
            if not worths:
                return False
            self._give_up(min(worths, key=lambda held: worths[held]))
        return True

    def _are_too_many(self, count: int, *, ahead: bool) -> bool:
        if ahead and count > self._most:
            return True
        return self._refill.jobs + count > self._places

    def _worth(self, key: Key, *, is_last: bool) -> tuple[bool, float]:
        """Return whether to keep one of a kind, and when a job has wanted it last."""
        usual, at = self._wants.worth(key)
        return usual and is_last, at

    async def _opened(self, held: Held) -> Sandbox:
        shape, program = held.key
        seen = await self._lookout.seen(held.shows)
        if held in self._held:  # otherwise its job has come already
            # Content counts too: a program may have read it.
            change = partial(self._changed, held)
            held.watch = self._lookout.watch(seen, change, content=True)
        sandbox = await self._open(shape, program)
        try:
            if program is not None and self._may_wait(sandbox, shape.backend, program):
                await sandbox.hold(program.run(sandbox.home, Stdio.pipes(with_input=True)))
        except BaseException:
            await sandbox.close()
            raise
        return sandbox

    async def _until_held(self, held: Held) -> None:
        """Wait until one is ready; end it if that fails. Cancelled when its job has come."""
        why_not = ""
        try:
            sandbox = await asyncio.shield(held.opening)
            if sandbox.holds:
                await ends_in(HOLD_S, asyncio.wait({sandbox.held}))
                why_not = _why_not(sandbox.held)
        except Exception as failure:  # noqa: BLE001 - whatever it is, jobs go on without it
            why_not = str(failure)
        if why_not:
            self._refuse(held.key, why_not)
            self._give_up(held)
            return
        held.idle = asyncio.get_running_loop().call_later(IDLE_S, self._give_up, held)
        sandbox.on_exit(partial(self._give_up, held))
        self._refill.one_is_ready()

    def _is_refused(self, key: Key) -> bool:
        return self._retry_at.get(key, 0) > time.monotonic()

    def _refuse(self, key: Key, why: str) -> None:
        shape, program = key
        # Once for all limits: callers choose those.
        if not any(_same_but_limits(key, other) for other in self._retry_at):
            what = "a sandbox" if program is None else program.argv[0]
            log.warning("%s is not started ahead in %s: %s", what, shape.backend, why)
        self._retry_at[key] = time.monotonic() + RETRY_S
        while len(self._retry_at) > MOST_KEYS:
            del self._retry_at[next(iter(self._retry_at))]

    def _give_up(self, held: Held) -> None:
        if held in self._held:
            self._forget(held)
            self._end(held)

    def _changed(self, held: Held, paths: Sequence[str]) -> None:
        log.debug("a sandbox that waited is given up for a change of: %s", ", ".join(paths))
        self._give_up(held)

    def _forget(self, held: Held) -> None:
        self._held.remove(held)
        if held.watch is not None:
            self._lookout.end(held.watch)
        if held.idle is not None:
            held.idle.cancel()
        elif held.coming is not asyncio.current_task():
            assert held.coming is not None
            held.coming.cancel()

    def _end(self, held: Held) -> None:
        task = asyncio.create_task(self._ended(held))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _ended(self, held: Held) -> None:
        held.opening.cancel()
        await asyncio.wait({held.opening})
        if not held.opening.cancelled() and held.opening.exception() is None:
            await held.opening.result().close()

    # -- the end --------------------------------------------------------------------------

    def stop(self) -> None:
        """Open no more, and begin to close all that wait."""
        self._refill.stop()
        for held in [*self._held]:
            self._give_up(held)

    async def close(self) -> None:
        """Stop, and wait until all are ended, within a time limit. Idempotent."""
        self.stop()
        if self._ending:
            await asyncio.wait(self._ending, timeout=END_TIMEOUT_S)


def _same_but_limits(one: Key, other: Key) -> bool:
    (shape, program), (shape_too, program_too) = one, other
    if shape.backend != shape_too.backend:
        return False
    if program is None or program_too is None:
        return program is program_too
    return program.argv[0] == program_too.argv[0]


def _why_not(held: asyncio.Future[None]) -> str:
    if not held.done():
        return f"it was not held within {HOLD_S:g} s"
    failure = held.exception()
    return "" if failure is None else str(failure)
