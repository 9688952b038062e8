"""The sessions of one worker: sandboxes that stay open, in which one thing is done after another.

`WorkerSession` owns one sandbox. What is done in it takes turns in one queue: a job has the sandbox
for its whole turn, a request about files for its answer. The engine decides when a session ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from streamer.engine.blobs import Blobs
from streamer.engine.interface import Engine
from streamer.engine.sessions import AskedSession
from streamer.errors import SandboxFailure
from streamer.model.capabilities import Accepts
from streamer.model.job import Limits
from streamer.model.session import (
    Done,
    EndReason,
    Open,
    Refused,
    ResolvedSession,
    SessionAnswer,
)
from streamer.sandbox.pool import Pool
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import FilesDoNotFit, Shape
from streamer.worker.kept import WATCH_S, KeptProcesses, UsedUp
from streamer.worker.prepare import AWAY_S, OPEN_S, opened_blob
from streamer.worker.sessionfiles import SessionFiles
from streamer.worker.writer import ENGINE_TIMEOUT_S, repeated

__all__ = ["WorkerSession", "WorkerSessions"]

log: Final = logging.getLogger(__name__)

RETRY_S: Final = 1.0
TELL_TRIES: Final = 4
RESISTS_S: Final = 10.0
"""A sandbox that is not closed by then has a process that resists SIGKILL."""

Call = Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Calls the engine; None if it does not answer."""


@dataclass(eq=False)
class _JobTurn:
    granted: asyncio.Future[Sandbox] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    done: asyncio.Event = field(default_factory=asyncio.Event)


class WorkerSession:
    """One session: its task is `run`."""

    def __init__(
        self,
        session: ResolvedSession,
        pool: Pool,
        blobs: Blobs,
        most_bytes: int,
        answer: Callable[[int, SessionAnswer], Awaitable[None]],
        over: Callable[[EndReason], Awaitable[None]],
    ) -> None:
        """`answer` answers a request by its number; `over` tells the engine that it has ended."""
        self.session = session
        self._pool = pool
        self._blobs = blobs
        self._most_bytes = most_bytes
        self._answer = answer
        self._over = over
        self._turns: deque[_JobTurn | AskedSession] = deque()
        self._woken = asyncio.Event()
        self._jobs = 0
        """The jobs that have the sandbox, or wait for it."""
        self.last = 0
        """The number of the last request that has come."""
        self.closed = False
        self._project_fits = True
        self.resists = False
        """Whether its sandbox should be closed but is not."""

    def ask(self, asked: AskedSession) -> None:
        self.last = max(self.last, asked.number)
        self._take(asked)

    @contextlib.asynccontextmanager
    async def lent(self) -> AsyncIterator[Sandbox]:
        """Lend the sandbox to a job, in its turn. Raises `SandboxFailure` if the session ends."""
        if self.closed:
            raise SandboxFailure("the session of the job has ended")
        turn = _JobTurn()
        self._jobs += 1
        self._take(turn)
        try:
            yield await turn.granted
        finally:
            self._jobs -= 1
            turn.done.set()

    def close(self) -> None:
        """Let it end after the present turn."""
        self.closed = True
        self._woken.set()

    def _take(self, turn: _JobTurn | AskedSession) -> None:
        self._turns.append(turn)
        self._woken.set()

    async def run(self) -> None:
        """Open the sandbox, let take turns in it until `close`, and close it."""
        resisting: asyncio.TimerHandle | None = None
        try:
            async with contextlib.AsyncExitStack() as held:
                try:
                    await self._serve(held)
                except UsedUp as used_up:
                    self.closed = True
                    self._refuse_jobs()
                    await self._over(used_up.limit)
                except Exception as failure:
                    self.closed = True
                    log.error("session %s: %s", self.session.session_id, failure)
                    if not isinstance(failure, SandboxFailure):
                        log.exception("session %s", self.session.session_id)
                    self._refuse_jobs()
                    await self._over("sandbox_error")
                self._refuse_jobs()
                loop = asyncio.get_running_loop()
                resisting = loop.call_later(RESISTS_S, partial(setattr, self, "resists", True))
        finally:
            self.closed = True
            self._refuse_jobs()
            self.resists = False
            if resisting is not None:
                resisting.cancel()

    async def _serve(self, held: contextlib.AsyncExitStack) -> None:
        sandbox = await self._opened(held)
        files = SessionFiles(self.session, sandbox, self._blobs, self._most_bytes)
        kept = None
        if self.session.keep_processes:
            kept = KeptProcesses(sandbox, self.session.limits)
        while (turn := await self._next(kept)) is not None:
            if isinstance(turn, _JobTurn):
                if not turn.granted.done():  # otherwise the job was stopped while it waited
                    turn.granted.set_result(sandbox)
                    await turn.done.wait()  # a job has time limits for everything
                    files.version += 1
                    await sandbox.give_room(self._between_jobs)
                    if kept is not None:
                        kept.begin()
            elif kept is None:
                await self._answer(turn.number, await self._answered(turn, files))
            else:
                files.version += 1
                with kept.not_counted():
                    answer = await self._answered(turn, files)
                await self._answer(turn.number, answer)
                kept.check()
            if not sandbox.is_free:
                raise SandboxFailure("its sandbox can run nothing more")

    @property
    def _between_jobs(self) -> Limits:
        """What is written between jobs may be memory: only the size of the workspace bounds it.

        Beyond the limit of memory the kernel would kill the init, and with it the session.
        """
        limits = self.session.limits
        if self.session.keep_processes:  # what goes on beside has no more than a job
            return limits
        return replace(limits, memory_bytes=limits.memory_bytes + limits.disk_bytes)

    async def _answered(self, asked: AskedSession, files: SessionFiles) -> SessionAnswer:
        if isinstance(asked.request, Open):
            if self._project_fits:
                return Done()
            most = self.session.limits.disk_bytes
            return Refused(
                "too_large",
                f"the project does not fit into the workspace: diskBytes allows {most}, and each "
                "file takes whole pages",
            )
        if self._jobs:
            return Refused("conflict", "a job of the session runs: wait for its end")
        return await files.answer(asked.request)

    async def _opened(self, held: contextlib.AsyncExitStack) -> Sandbox:
        session = self.session
        shape = Shape(
            session.backend,
            session.limits,
            network=session.network,
            read_only=session.read_only,
            etc=session.etc,
            tmp_bytes=session.tmp_bytes,
            terminal=session.terminal,
        )
        try:
            async with asyncio.timeout(OPEN_S):
                sandbox = await self._pool.lend_to_session(shape)
                held.push_async_callback(sandbox.close)
            if session.keep_processes:
                sandbox.keep_rest()
        except TimeoutError:
            raise SandboxFailure(f"the sandbox did not start within {OPEN_S:.0f} s") from None
        except OSError as error:
            raise SandboxFailure(f"the host refuses something it needs: {error}") from error
        if session.project is not None:
            async with opened_blob(session.project, self._blobs, away_s=AWAY_S) as project:
                try:
                    await sandbox.put_files((), session.limits, project)
                except FilesDoNotFit:
                    self._project_fits = False
        return sandbox

    async def _next(self, kept: KeptProcesses | None) -> _JobTurn | AskedSession | None:
        """Return the next turn; None once it is closed. Meanwhile `kept` is looked at.

        Raises `UsedUp`, and `SandboxFailure`.
        """
        while True:
            if kept is not None and not self.closed:
                await kept.look()
            if self._turns or self.closed:
                break
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if kept is None else WATCH_S):
                    await self._woken.wait()
        return None if self.closed else self._turns.popleft()

    def _refuse_jobs(self) -> None:
        while self._turns:
            turn = self._turns.popleft()
            if isinstance(turn, _JobTurn) and not turn.granted.done():
                turn.granted.set_exception(SandboxFailure("the session of the job has ended"))
                turn.granted.exception()  # marked as retrieved: the job may have been stopped


class WorkerSessions:
    """All sessions of a worker: it opens, asks and closes them as the engine says."""

    def __init__(self, worker: str, engine: Engine, most: int, most_bytes: int, call: Call) -> None:
        """`most` sessions at a time, and of a file `most_bytes`; `call` calls the engine."""
        self._worker = worker
        self._engine = engine
        self._most = most
        self._most_bytes = most_bytes
        self._call = call
        self._all: dict[str, tuple[WorkerSession, asyncio.Task[None]]] = {}
        self._untold: set[str] = set()
        """Those that have ended here, which the engine has not been told yet."""
        self._stopping = False
        self._freed = asyncio.Event()
        """Set when there is room for a session again, for which one may wait."""
        self.stop_jobs: Callable[[str], None] = lambda _: None
        """Called for a session that has ended, to stop its job."""

    def get(self, session_id: str) -> WorkerSession | None:
        session, _ = self._all.get(session_id, (None, None))
        return session

    def __len__(self) -> int:
        return len(self._all)

    @property
    def resisting(self) -> int:
        return sum(session.resists for session, _ in self._all.values())

    async def keep(self, pool: Pool, accepts: Callable[[], Accepts | None]) -> None:
        """Do what the engine says, without end."""
        while True:
            held = {
                session_id: session.last
                for session_id, (session, _) in self._all.items()
                # Otherwise the engine would say at once, each time, that it is to be opened.
                if not session.closed or session_id in self._untold
            }
            free = 0 if self._stopping else self._most - len(self._all)
            news = partial(self._engine.sessions.news, self._worker, held, free, accepts())
            self._freed.clear()
            asking = asyncio.ensure_future(self._call("sessions", news))
            freed = asyncio.create_task(self._freed.wait())
            try:
                await asyncio.wait({asking, freed}, return_when=asyncio.FIRST_COMPLETED)
                if not asking.done():
                    continue  # there is room now
                told = asking.result()
            finally:
                asking.cancel()
                freed.cancel()
                await asyncio.gather(asking, freed, return_exceptions=True)
            if told is None:
                await asyncio.sleep(RETRY_S)
                continue
            for session in told.opens:
                if session.session_id not in self._all:  # else its end is being told
                    self._open(session, pool)
            for asked in told.asked:
                if (asked_of := self.get(asked.session_id)) is not None:
                    asked_of.ask(asked)
            for session_id in told.closed:
                self._close(session_id)

    def drain(self) -> None:
        """Open no more."""
        self._stopping = True

    async def close(self, timeout_s: float) -> None:
        """End all of them, and wait until nothing is left of them, for a limited time."""
        self.drain()
        tasks = {task for _, task in self._all.values()}
        await asyncio.gather(*(self._tell_over(one, "shutting_down") for one in [*self._all]))
        for session_id in [*self._all]:
            self._close(session_id)
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
        for task in tasks:
            task.cancel()

    def _open(self, session: ResolvedSession, pool: Pool) -> None:
        session_id = session.session_id
        opened = WorkerSession(
            session,
            pool,
            self._engine.blobs,
            self._most_bytes,
            partial(self._tell_answer, session_id),
            partial(self._keep_telling_over, session_id),
        )
        task = asyncio.create_task(opened.run(), name=f"streamer-session-{session_id}")
        self._all[session_id] = (opened, task)

        def ended(task: asyncio.Task[None]) -> None:
            if len(self._all) >= self._most:
                self._freed.set()
            del self._all[session_id]
            if not task.cancelled() and task.exception() is not None:
                log.error("session %s: closing failed", session_id, exc_info=task.exception())

        task.add_done_callback(ended)

    def _close(self, session_id: str) -> None:
        self._untold.discard(session_id)
        if (session := self.get(session_id)) is not None:
            session.close()
            self.stop_jobs(session_id)

    async def _tell_answer(self, session_id: str, number: int, answer: SessionAnswer) -> None:
        tell = partial(self._engine.sessions.answer, self._worker, session_id, number, answer)
        await self._call("answer", tell)

    async def _tell_over(self, session_id: str, reason: EndReason) -> bool:
        tell = partial(self._engine.sessions.over, self._worker, session_id, reason)
        try:
            async with asyncio.timeout(ENGINE_TIMEOUT_S):
                await repeated(tell, tries=TELL_TRIES)
        except Exception:
            log.exception("session %s: its end could not be told", session_id)
            return False
        return True

    async def _keep_telling_over(self, session_id: str, reason: EndReason) -> None:
        # Until it is told, or over there too: the engine would let it be opened again, without its
        # files.
        self._untold.add(session_id)
        try:
            while session_id in self._untold:
                if await self._tell_over(session_id, reason):
                    return
                await asyncio.sleep(RETRY_S)
        finally:
            self._untold.discard(session_id)
