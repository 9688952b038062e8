"""Test a backend: run a real program in its sandbox, as jobs do."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from typing import Final

from streamer.errors import SandboxFailure
from streamer.model.capabilities import NO_ROOM, NOT_OFFERED, NOT_WANTED, needs_template
from streamer.model.job import Limits, SourceFile
from streamer.model.runtime import Runtime
from streamer.sandbox.claims import broken_claim, trial_program
from streamer.sandbox.network.proxy import PROXY_PORT
from streamer.sandbox.pool import Pool
from streamer.sandbox.shape import Fork, Program, Run, Shape
from streamer.sandbox.stdio import Stdio
from streamer.spi import Backend, Isolation

__all__ = [
    "UNBOUNDED",
    "Trial",
    "holds_to_allow_list",
    "knows_templates",
]

OF_ROOT: Final = (
    "its programs run as root: start the sandbox as the job's user, with start_as=job.identity in "
    "its plan"
)

UNBOUNDED: Final = (
    "its jobs share inotify with all programs of this account, because the host does not let a "
    "sandbox limit it: a profile of AppArmor denies CAP_SYS_RESOURCE, or the kernel is too old"
)

FORKED: Final = "import sys; sys.exit(__name__ != '__main__' or len(sys.argv) != 1)"


class Trial:
    """Tests whether a backend can do here what the configuration needs."""

    def __init__(
        self, path: str, *, allow_list: bool, read_only: Sequence[str], etc: Sequence[str]
    ) -> None:
        """See `streamer.sandbox.registry.Backends`."""
        self._path = path
        self._allow_list = allow_list
        self._read_only = tuple(read_only)
        self._etc = tuple(etc)
        self.unbounded: set[str] = set()
        """The backends whose jobs share inotify with other programs of the account."""

    async def why_not(self, backend: Backend, pool: Pool, held: contextlib.AsyncExitStack) -> str:
        """Return why a backend cannot be used, or ``""``; `held` releases what the test uses.

        May also raise `BackendUnavailable` and `SandboxFailure` with the reason.
        """
        await backend.probe(pool.folder.host)
        return await self._run(backend, pool, held, from_template=False)

    async def why_no_template(
        self, backend: Backend, pool: Pool, held: contextlib.AsyncExitStack
    ) -> str:
        """Return why its jobs cannot get sandboxes from a template, or ``""``."""
        if not pool.offers_template(self._shape(backend)):
            return NOT_OFFERED
        if pool.no_templates:
            return pool.no_templates
        try:
            return await self._run(backend, pool, held, from_template=True)
        except (SandboxFailure, OSError) as failure:
            return str(failure)

    async def why_not_warm(
        self, backend: Backend, pool: Pool, held: contextlib.AsyncExitStack
    ) -> str:
        """Return why no program can be started before its job, or ``""``."""
        if not backend.gated or backend.ahead != "program":
            return NOT_WANTED
        from_template = not pool.templates.why_not(backend.name)
        try:
            return await self._run(backend, pool, held, from_template=from_template, hold=True)
        except (SandboxFailure, OSError) as failure:
            return str(failure)

    async def why_not_forked(
        self, backend: Backend, pool: Pool, held: contextlib.AsyncExitStack, runtime: Runtime
    ) -> str:
        """Return why no program of a language can be forked from a running one, or ``""``."""
        if why_no_template := pool.templates.why_not(backend.name):
            return needs_template(why_no_template)
        try:
            return await self._fork(backend, pool, held, runtime)
        except (SandboxFailure, OSError) as failure:
            return str(failure)

    async def _fork(
        self, backend: Backend, pool: Pool, held: contextlib.AsyncExitStack, runtime: Runtime
    ) -> str:
        shape = self._shape(backend)
        env = {"PATH": self._path, "HOME": "", "LANG": "C.UTF-8", **runtime.env}
        argv = (*runtime.run[:-1], runtime.entry)
        fork = Fork("", runtime.name)
        program = Program(argv, tuple(env.items()), shape.limits, fork=fork)
        sandbox = await pool.lend(shape, program, for_trial=True)
        if sandbox.identity is not None:
            held.push_async_callback(pool.templates.end_those_of, sandbox.identity)
        held.push_async_callback(sandbox.close)
        if sandbox.way != "forked":
            return NO_ROOM
        await sandbox.put_files((SourceFile(runtime.entry, FORKED.encode()),), shape.limits)
        running = await sandbox.run(program.run(sandbox.home, Stdio.null()))
        await running.exited
        sandbox.end_rest()
        code = os.waitstatus_to_exitcode((await running.ended).status)
        return "" if code == 0 else f"a test program ended with {code}"

    def _shape(self, backend: Backend) -> Shape:
        return Shape(backend.name, Limits(), read_only=self._read_only, etc=self._etc)

    async def _run(
        self,
        backend: Backend,
        pool: Pool,
        held: contextlib.AsyncExitStack,
        *,
        from_template: bool,
        hold: bool = False,
    ) -> str:
        shape = self._shape(backend)
        limits = shape.limits
        sandbox = await pool.lend(shape, for_trial=True, from_template=from_template)
        if sandbox.from_template and sandbox.identity is not None:
            # No job has this user, so none could use its template.
            held.push_async_callback(pool.templates.end_those_of, sandbox.identity)
        held.push_async_callback(sandbox.close)
        if from_template and not sandbox.from_template:
            return NO_ROOM
        if sandbox.unbounded and sandbox.identity is None:
            self.unbounded.add(backend.name)
        if self._allow_list and holds_to_allow_list(backend):
            (await sandbox.listen(PROXY_PORT)).close()
        argv = held.enter_context(trial_program(backend, pool.folder.path))
        env = {"PATH": self._path, "HOME": sandbox.home, "LANG": "C.UTF-8"}
        run = Run(argv, env, limits, Stdio.null())
        if hold:
            await sandbox.hold(run)
            await asyncio.wait({sandbox.held})
            sandbox.held.result()
        await sandbox.put_files((), limits)
        as_user = sandbox.identity is not None
        as_root = as_user and sandbox.of_root
        running = await sandbox.run(run)
        await running.exited
        sandbox.end_rest()
        end = await running.ended
        code = os.waitstatus_to_exitcode(end.status)
        return broken_claim(backend, code, as_user=as_user) or (OF_ROOT if as_root else "")


def knows_templates(backend: Backend) -> bool:
    """Return whether a backend may have a template at all, whatever its options are."""
    return type(backend).template_plan is not Backend.template_plan


def holds_to_allow_list(backend: Backend) -> bool:
    """Return whether a backend can restrict a job to an allow-list of hosts.

    This needs a separate network namespace, and our init inside to pass out the listening socket.
    """
    return backend.gated and backend.isolation is not Isolation.NONE
