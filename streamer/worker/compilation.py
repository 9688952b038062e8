"""Run the compiler of a job, or take what it has made for an earlier job of the same tenant.

A job gets from the cache only what its own program would give it: the key is the digest of all that
decides what a compiler makes. What a compiler made for a job that could reach the network, or
that got a signal meanwhile, is not kept, nor what cannot be put into another sandbox as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import astuple
from typing import Final

import msgspec

from streamer.errors import SandboxFailure
from streamer.model.events import JobEvent, Output
from streamer.model.job import Phase
from streamer.model.logfields import about
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import FilesDoNotFit, Program, StoredProject
from streamer.worker.assignment import Assignment
from streamer.worker.build import Build, NotStored, store_build
from streamer.worker.compilecache import Compiled
from streamer.worker.prepare import opened_blob, shape_of
from streamer.worker.program import environment
from streamer.worker.stop import Stopped
from streamer.worker.tools import started
from streamer.worker.verdict import JobEnd, Outcome
from streamer.worker.writer import ENGINE_TIMEOUT_S

__all__ = ["STORE_S", "Compilation"]

log: Final = logging.getLogger(__name__)

STORE_S: Final = 60.0
"""The time limit for taking out what a compiler has made."""

LEAST_S: Final = 0.5
ENTRY_S: Final = 0.0002
"""What each file takes to be taken out: a project has thousands."""

MOST_SAID: Final = 64 * 1024
"""Characters; a compiler that says more is run again."""

INSTALLED: Final = ("/var/lib/dpkg/status", "/var/lib/rpm", "/lib/apk/db/installed")
"""What package managers change: headers and libraries may be others then, too."""


class Compilation:
    """The compilation of one job; without a compiler there is nothing to do."""

    def __init__(self, work: Assignment, end: JobEnd) -> None:
        self._work = work
        self._end = end
        self._key: bytes | None = None
        self._said = _Said()
        self.cached = False
        """Whether what was compiled came from the cache."""

    @property
    def needed(self) -> bool:
        return len(self._work.job.steps) > 1

    async def found(self, held: contextlib.AsyncExitStack) -> StoredProject | None:
        """Return what was compiled before, and tell again what the compiler said; or None.

        `held` closes it. Raises `LeaseLost` and others of the engine.
        """
        cache, job = self._work.settings.cache, self._work.job
        if not (self.needed and cache.most_bytes) or job.network or job.allow_hosts:
            return None
        if job.session_id is not None:  # what earlier jobs have left decides, too
            return None
        try:
            self._key = await self._digest()
        except (SandboxFailure, OSError) as failure:
            told = about(job.job_id, job.tenant)
            log.debug("job %s: its program is not looked for: %s", job.job_id, failure, extra=told)
            return None
        compiled = cache.get(self._key)
        if compiled is None:
            return None
        try:
            build = await held.enter_async_context(opened_blob(compiled.build, cache.blobs))
        except SandboxFailure:  # it has expired
            await cache.forget(self._key)
            return None
        self.cached = True
        writer = self._work.writer
        t = writer.elapsed_ms()
        async with asyncio.timeout(ENGINE_TIMEOUT_S):
            await writer.write([msgspec.structs.replace(said, t=t) for said in compiled.said])
            await writer.flush()
        self._work.budget.taken += compiled.said_bytes
        return build

    async def run(self, sandbox: Sandbox) -> Outcome:
        """Run the compiler in a sandbox with the job's files; return why it ended."""
        work = self._work
        step = work.job.steps[0]
        await work.tell_state("compiling", sandbox, first=True)
        heard = None if self._key is None else self._said.add
        result, reason = await work.run(sandbox, work.job, step, heard=heard)
        self._end.add(result, Phase.COMPILE.value)
        return reason

    async def stored(self, sandbox: Sandbox, held: contextlib.AsyncExitStack) -> StoredProject:
        """Take out what the compiler has made; `held` closes it, and deletes it unless it is kept.

        Raises `Stopped`, `FilesDoNotFit`, `NotStored`, `SandboxFailure`.
        """
        work, blobs, cache = self._work, self._work.settings.blobs, self._work.settings.cache
        try:
            async with work.stop.unless_requested(STORE_S):
                build = await store_build(sandbox, blobs, work.job.tenant, work.job.steps[0].limits)
        except TimeoutError:
            # Not the sandbox's fault: the compiler may have left very many.
            why = f"the compiled program was not read within {STORE_S:.0f} s"
            raise NotStored(why) from None
        try:
            # First: what the cache has it may delete again, for another job.
            opened = await held.enter_async_context(opened_blob(build.project, blobs))
        except SandboxFailure:
            await cache.drop(build.project)
            raise
        if not await self._kept(build):
            held.push_async_callback(cache.drop, build.project)
        return opened

    async def keep(self, sandbox: Sandbox) -> None:
        """Keep what the compiler has made for later jobs, if that is possible."""
        cache = self._work.settings.cache
        if self._key is None or not self._may_be_kept:
            return
        job = self._work.job
        most = cache.most_of_one
        # Its program waits meanwhile, so it must not take longer than to compile it again.
        limit_s = min(max(self._end.wall_us / 1e6, LEAST_S), STORE_S)
        if job.project is not None and job.project.entries * ENTRY_S > limit_s:
            return
        try:
            async with self._work.stop.unless_requested(limit_s):
                build = await store_build(
                    sandbox, cache.blobs, job.tenant, job.steps[0].limits, most
                )
        except (NotStored, FilesDoNotFit, SandboxFailure, Stopped, TimeoutError) as failure:
            told = about(job.job_id, job.tenant)
            log.debug("job %s: what was compiled is not kept: %s", job.job_id, failure, extra=told)
            return
        if not await self._kept(build):
            await cache.drop(build.project)

    async def _kept(self, build: Build) -> bool:
        if self._key is None or not (build.whole and self._may_be_kept):
            return False
        compiled = Compiled(build.project, tuple(self._said.outputs), self._work.budget.taken)
        return await self._work.settings.cache.keep(self._key, self._work.job.tenant, compiled)

    @property
    def _may_be_kept(self) -> bool:
        return self._said.whole and not self._work.budget.cut and not self._work.requests.signalled

    async def _digest(self) -> bytes:
        """Return the digest of all that decides what the compiler makes and says."""
        work, job = self._work, self._work.job
        step = job.steps[0]
        env = environment(job, work.settings.path, home="")
        tool = Program(tuple(started(step.argv)), tuple(env.items()), step.limits)
        shown = await work.pool.shown_now(shape_of(job), tool, INSTALLED)
        project = ""
        if job.project is not None:
            facts = await work.settings.blobs.find(job.project.blob_id)
            project = job.project.blob_id if facts is None else facts.blob.sha256
        document = [
            *(job.tenant, job.language, job.backend, job.read_only, job.etc, job.tmp_bytes),
            job.output_encoding,
            *(step.argv, step.stdin, astuple(step.limits), env, project),
            [[path, str(what)] for path, what in shown.items()],
        ]
        digest = hashlib.sha256(msgspec.json.encode(document, order="sorted"))
        for file in job.files:
            head = msgspec.json.encode([file.name, file.mode, len(file.content)])
            digest.update(head + file.content)
        return digest.digest()


class _Said:
    """What a compiler says, as long as it is little."""

    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self.whole = True
        self._left = MOST_SAID

    def add(self, events: Sequence[JobEvent]) -> None:
        for event in events:
            if isinstance(event, Output):
                self._left -= len(event.data)
                self.whole &= self._left >= 0
                if self.whole:
                    self.outputs.append(event)
