"""Find out which backends work on this host, by running a test program in each.

A backend that is missing or fails is refused with the reason; there is never a fallback to a weaker
one. Answers do not wait for tests: a test that failed is repeated in the background, and so is that
of a backend whose jobs fail several times in a row.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from streamer.bounded import ends_in
from streamer.errors import BackendUnavailable, ConfigError, SandboxFailure
from streamer.model.capabilities import (
    NO_ROOM,
    NOT_OFFERED,
    NOT_TESTED,
    NOT_WANTED,
    SWITCHED_OFF,
    UNTRIED,
)
from streamer.model.runtime import Runtime
from streamer.sandbox.pool import NO_LATER_JOBS, Pool
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import Shape
from streamer.sandbox.trial import (
    UNBOUNDED,
    Trial,
    holds_to_allow_list,
    knows_templates,
)
from streamer.spi import Backend, Isolation

__all__ = ["Backends"]

log: Final = logging.getLogger(__name__)

TRIAL_TIMEOUT_S: Final = 30.0
"""The time limit for the result of a test."""

TIDY_S: Final = 10.0
"""The time limit for closing the sandbox of a test before the next one begins."""

AGAIN_S: Final = TRIAL_TIMEOUT_S + TIDY_S
"""The same for both, where a test is repeated."""

PATIENCE_S: Final = 10.0
"""How long a caller waits for backends that are not tested yet."""

RETRY_S: Final = 30.0
"""The pause between two tests of a backend that does not work."""

MAX_FAILURES: Final = 3
"""After this many jobs in a row that its sandbox could not run, a backend is tested again."""

Test = Callable[[Backend, Pool], Coroutine[Any, Any, None]]


class Backends(Mapping[str, Backend]):
    """The registered backends by name, and which of them work on this host."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        configured: str,
        path: str,
        *,
        allow_list: bool = False,
        read_only: Sequence[str] = (),
        etc: Sequence[str] = (),
        warm: bool = True,
        forked: Sequence[Runtime] = (),
    ) -> None:
        """`configured` is a name or ``auto``, `path` the jobs' PATH.

        `read_only` and `etc` are everything that jobs may be shown; a sandbox must be able to show
        them.

        With `warm` programs may be started before their jobs, where that works; those of the
        languages in `forked` may be forked.

        With `allow_list` jobs may ask for listed hosts, so a backend in `filtering` must be able
        to let a proxy listen in its sandbox.
        """
        if configured != "auto" and configured not in backends:
            raise ConfigError(
                f"sandbox.backend = {configured!r}: there is no such backend; "
                f"there are auto, {', '.join(sorted(backends))}"
            )
        self._backends = backends
        self._configured = configured
        self._trial_of = Trial(path, allow_list=allow_list, read_only=read_only, etc=etc)
        self._warm = warm
        self._forked = tuple(forked)
        self._reasons: dict[str, str] = {}
        self._failures: Counter[str] = Counter()
        self._default = ""
        self._pool: Pool | None = None
        self._trials: dict[str, asyncio.Task[None]] = {}
        self._tidying: set[asyncio.Task[None]] = set()
        self._one_at_a_time = asyncio.Lock()
        self._doubt = asyncio.Event()
        self.on_tried: Callable[[], None] = lambda: None
        """Called after each test of a backend."""

    def __getitem__(self, name: str) -> Backend:
        return self._backends[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._backends)

    def __len__(self) -> int:
        return len(self._backends)

    @property
    def default(self) -> str:
        """The backend for jobs that do not name one."""
        return self._default

    @property
    def filtering(self) -> frozenset[str]:
        """The backends that can restrict a job to an allow-list of hosts."""
        return frozenset(name for name, backend in self.items() if holds_to_allow_list(backend))

    @asynccontextmanager
    async def tried_in(self, pool: Pool) -> AsyncIterator[None]:
        """Run tests with sandboxes of this pool; tests and jobs never wait for each other."""
        self._pool = pool
        pool.templates.on_doubt = pool.forks.on_doubt = self._doubt.set
        try:
            yield
        finally:
            tasks = {*self._trials.values(), *self._tidying}
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=TIDY_S)
            self._pool = None

    @asynccontextmanager
    async def apart(self, shape: Shape) -> AsyncIterator[Sandbox]:
        """Lend a sandbox that takes no place and no user of the jobs. Raises `SandboxFailure`."""
        assert self._pool is not None
        async with self._one_at_a_time:
            sandbox = await self._pool.lend(shape, for_trial=True, from_template=False)
            try:
                yield sandbox
            finally:
                await ends_in(TIDY_S, sandbox.close())

    async def find_default(self) -> None:
        """Choose the default; ``auto`` takes the strongest that works, never plain.

        Of equals it takes that which was registered first.

        Raises `BackendUnavailable` with all reasons if there is none.
        """
        if self._configured != "auto":
            candidates = [self._configured]
        else:
            isolated = [b for b in self._backends.values() if b.isolation is not Isolation.NONE]
            # Of equals the built-in one, which comes first: no package that is installed beside
            # the service changes what it runs programs in.
            isolated.sort(key=lambda backend: -backend.isolation)
            candidates = [backend.name for backend in isolated]
        for name in candidates:
            if name not in self._reasons:
                await self._trial(name)
            if not self._reasons[name]:
                self._default = name
                for stronger in candidates[: candidates.index(name)]:
                    reason = self._reasons[stronger]
                    log.warning("sandbox %s does not work here: %s", stronger, reason)
                if self._backends[name].isolation is Isolation.NONE:
                    log.warning("sandbox %s isolates nothing: run only code you trust", name)
                return
        if self._configured != "auto":
            raise BackendUnavailable(
                f"sandbox.backend = {self._configured!r} does not work: "
                f"{self._reasons[self._configured]}; or name another backend: "
                f"{', '.join(sorted({'auto', *self._backends} - {self._configured}))}"
            )
        reasons = "; ".join(f"{name}: {self._reasons[name]}" for name in candidates)
        raise BackendUnavailable(f"no sandbox works on this host ({reasons})")

    def known(self, names: Iterable[str]) -> Mapping[str, str]:
        """Return why each backend cannot be used, or ``""``, as far as it is known.

        Backends that are not in `names` have no reason. Does not wait for tests.
        """
        wanted = set(names)
        return {
            name: self._reasons.get(name, UNTRIED) if name in wanted else ""
            for name in self._backends
        }

    def warning(self, name: str) -> str:
        """Return what operators should know of a backend that works, or ``""``."""
        return UNBOUNDED if name in self._trial_of.unbounded else ""

    async def reasons(self, names: Iterable[str] | None = None) -> Mapping[str, str]:
        """Return the same as `known`, after waiting for first tests, up to `PATIENCE_S`."""
        wanted = self._backends.keys() if names is None else self._backends.keys() & set(names)
        untried = {self._trial(name) for name in wanted if name not in self._reasons}
        if untried:
            await asyncio.wait(untried, timeout=PATIENCE_S)
        return self.known(wanted)

    def job_ended(self, name: str, *, failed: bool) -> None:
        """Count the jobs in a row that the sandbox of a backend could not run."""
        if not failed:
            del self._failures[name]
            return
        self._failures[name] += 1
        if self._failures[name] == MAX_FAILURES:
            self._doubt.set()

    @property
    def trusted(self) -> bool:
        """Whether the default backend works, by its last test and its last jobs."""
        return (
            bool(self._default)
            and not self._reasons[self._default]
            and self._failures[self._default] < MAX_FAILURES
        )

    async def keep_trying(self) -> None:
        """Repeat the tests of what does not work, for ever: hosts and their load change."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await self._doubt.wait()
            self._doubt.clear()
            doubtful = {name for name, reason in self._reasons.items() if reason}
            doubtful |= {name for name, count in self._failures.items() if count >= MAX_FAILURES}
            # Each ends: see `_run_trial`.
            await asyncio.gather(*map(self._trial, doubtful), return_exceptions=True)
            await self._try_more_again()

    async def _try_more_again(self) -> None:
        """Repeat failed tests of templates, and of programs that are held or forked."""
        assert self._pool is not None
        pool = self._pool
        no_template = ("", NOT_OFFERED, NOT_TESTED, pool.no_templates)
        not_warm = ("", NOT_WANTED, NOT_TESTED, SWITCHED_OFF, NO_LATER_JOBS)
        for name, backend in self._backends.items():
            if self._reasons.get(name, UNTRIED):
                continue
            tests: dict[str, Test] = {}
            if pool.templates.why_not(name) not in no_template:
                tests["template"] = self._try_template
            if pool.held.why_not(name) not in not_warm:
                tests["warm"] = self._try_warm
            for runtime in self._forked:
                if pool.forks.needs_test(name, runtime.name):
                    tests[f"fork-{runtime.name}"] = partial(self._try_fork, runtime)
            for what, test in tests.items():
                async with self._one_at_a_time:
                    await self._try_again(backend, pool, what, test)

    async def _try_again(self, backend: Backend, pool: Pool, what: str, test: Test) -> None:
        """Repeat a test; its sandbox may never close, for which others do not wait."""
        name = f"streamer-trial-{backend.name}-{what}"
        if any(task.get_name() == name for task in self._tidying):
            return  # the sandbox of the last one is still there
        trying = asyncio.create_task(test(backend, pool), name=name)
        self._tidying.add(trying)
        trying.add_done_callback(self._tidied)
        await asyncio.wait({trying}, timeout=AGAIN_S)

    def _trial(self, name: str) -> asyncio.Task[None]:
        """Return the running test of a backend, or start one."""
        if name not in self._trials:
            task = asyncio.create_task(self._run_trial(name), name=f"streamer-trial-{name}")
            self._trials[name] = task
            task.add_done_callback(lambda _: self._trials.pop(name))
        return self._trials[name]

    async def _run_trial(self, name: str) -> None:
        result: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        async with self._one_at_a_time:
            trying = asyncio.create_task(self._try(self._backends[name], result))
            self._tidying.add(trying)
            trying.add_done_callback(self._tidied)
            watched: set[asyncio.Future[Any]] = {result, trying}
            await asyncio.wait(
                watched, timeout=TRIAL_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
            if not result.done():
                trying.cancel()
                result.set_result(f"a test program did not end within {TRIAL_TIMEOUT_S:.0f} s")
            before, reason = self._reasons.get(name), result.result()
            self._reasons[name] = reason
            if before is not None and before != reason:
                log.warning("sandbox %s: %s", name, reason or "it works again")
            if before is None and (warning := self.warning(name)):
                log.warning("sandbox %s: %s", name, warning)
            if not reason:
                del self._failures[name]
            self.on_tried()
            await asyncio.wait({trying}, timeout=TIDY_S)

    def _tidied(self, trying: asyncio.Task[None]) -> None:
        self._tidying.discard(trying)
        if not trying.cancelled() and trying.exception() is not None:
            log.error("the cleanup after a test failed", exc_info=trying.exception())

    async def _try(self, backend: Backend, result: asyncio.Future[str]) -> None:
        """Set the result, then release what the test has used; then test the backend's template."""
        assert self._pool is not None
        async with contextlib.AsyncExitStack() as stack:
            try:
                reason = await self._trial_of.why_not(backend, self._pool, stack)
            except BackendUnavailable as unavailable:
                reason = unavailable.message
            except SandboxFailure as failure:
                reason = failure.message
            except Exception as error:
                log.exception("backend %s failed its probe", backend.name)
                reason = f"{type(error).__name__}: {error}"
            if not result.done():
                result.set_result(reason)
        if not reason:
            await self._try_template(backend, self._pool)
            await self._try_warm(backend, self._pool)
            for runtime in self._forked:
                await self._try_fork(runtime, backend, self._pool)

    async def _try_template(self, backend: Backend, pool: Pool) -> None:
        async with contextlib.AsyncExitStack() as stack:
            test = self._trial_of.why_no_template(backend, pool, stack)
            why_not = await _result(test, f"the template of backend {backend.name}")
            before = pool.templates.why_not(backend.name)
            if why_not not in (before, "", NOT_OFFERED, pool.no_templates):
                log.warning(
                    "sandbox %s: each job gets its own command, because a template does "
                    "not work here: %s",
                    backend.name,
                    why_not,
                )
            elif not why_not and before != NOT_TESTED:
                log.warning("sandbox %s: its template works again", backend.name)
            pool.templates.tried(backend.name, why_not)

    async def _try_warm(self, backend: Backend, pool: Pool) -> None:
        if pool.short_lived or not self._warm:
            reason = SWITCHED_OFF if not self._warm else NO_LATER_JOBS
            pool.held.tried(backend.name, reason, opens=False)
            return
        async with contextlib.AsyncExitStack() as stack:
            test = self._trial_of.why_not_warm(backend, pool, stack)
            why_not = await _result(test, f"a program that is held by backend {backend.name}")
        before = pool.held.why_not(backend.name)
        if why_not not in (before, "", NOT_WANTED):
            log.warning(
                "sandbox %s: no program is started before its job: %s", backend.name, why_not
            )
        elif not why_not and before != NOT_TESTED:
            log.warning("sandbox %s: programs are started before their jobs again", backend.name)
        opens = backend.gated and backend.ahead != "nothing"
        pool.held.tried(backend.name, why_not, opens=opens)

    async def _try_fork(self, runtime: Runtime, backend: Backend, pool: Pool) -> None:
        async with contextlib.AsyncExitStack() as stack:
            test = self._trial_of.why_not_forked(backend, pool, stack, runtime)
            what = f"a forked program of {runtime.name} in backend {backend.name}"
            why_not = await _result(test, what)
        before = pool.forks.why_not(backend.name, runtime.name)
        if why_not == NO_ROOM and not before:
            return  # others have it for now; it is tested again
        if why_not not in (before, "") and not pool.short_lived:
            level = logging.WARNING
            # The default is known after its own tests. Another that never can is no news.
            if self.default not in ("", backend.name) and not knows_templates(backend):
                level = logging.DEBUG
            what = "sandbox %s: no program of %s is forked: %s"
            log.log(level, what, backend.name, runtime.name, why_not)
        elif not why_not and before not in ("", NOT_TESTED):
            log.warning("sandbox %s: programs of %s are forked again", backend.name, runtime.name)
        pool.forks.tried(backend.name, runtime.name, why_not)


async def _result(test: Awaitable[str], what: str) -> str:
    """Return what a test has found, in time: a reason, or ``""``."""
    try:
        async with asyncio.timeout(TRIAL_TIMEOUT_S):
            return await test
    except TimeoutError:
        return f"a test program did not end within {TRIAL_TIMEOUT_S:.0f} s"
    except Exception as error:
        log.exception("%s failed its test", what)
        return f"{type(error).__name__}: {error}"
