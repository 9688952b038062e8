"""Sessions behind the connection: both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from streamer.engine.sessions import SessionNews, SessionView
from streamer.engine.sessions import Sessions as Local
from streamer.model.capabilities import Accepts
from streamer.model.session import EndReason, ResolvedSession, SessionAnswer, SessionRequest

from .wire import Wire


class SessionServer:
    """Each coroutine is one remote call."""

    def __init__(self, sessions: Local) -> None:
        self._sessions = sessions

    async def open(self, session: ResolvedSession) -> None:
        await self._sessions.open(session)

    async def find(self, session_id: str) -> SessionView | None:
        return await self._sessions.find(session_id)

    async def of(self, tenant: str) -> list[SessionView]:
        return list(await self._sessions.of(tenant))

    async def ask(self, session_id: str, request: SessionRequest) -> SessionAnswer:
        return await self._sessions.ask(session_id, request)

    async def end(self, session_id: str) -> bool:
        return await self._sessions.end(session_id)

    async def news(
        self, worker: str, held: dict[str, int], free: int, accepts: Accepts | None
    ) -> SessionNews:
        return await self._sessions.news(worker, held, free, accepts)

    async def answer(
        self, worker: str, session_id: str, number: int, answer: SessionAnswer
    ) -> None:
        await self._sessions.answer(worker, session_id, number, answer)

    async def over(self, worker: str, session_id: str, reason: EndReason) -> None:
        await self._sessions.over(worker, session_id, reason)


class RemoteSessions:
    """See `streamer.engine.sessions.Sessions`."""

    def __init__(self, server: SessionServer, wire: Wire) -> None:
        self._server = server
        self._wire = wire

    async def open(self, session: ResolvedSession) -> None:
        await self._wire.call(self._server.open, session)

    async def find(self, session_id: str) -> SessionView | None:
        return await self._wire.call(self._server.find, session_id)

    async def of(self, tenant: str) -> Sequence[SessionView]:
        return await self._wire.call(self._server.of, tenant)

    async def ask(self, session_id: str, request: SessionRequest) -> SessionAnswer:
        return await self._wire.call(self._server.ask, session_id, request)

    async def end(self, session_id: str) -> bool:
        return await self._wire.call(self._server.end, session_id)

    # -- for workers: a call that was lost is repeated by the worker ------------------------

    async def news(
        self, worker: str, held: Mapping[str, int], free: int, accepts: Accepts | None
    ) -> SessionNews:
        return await self._wire.ask(self._server.news, worker, dict(held), free, accepts)

    async def answer(
        self, worker: str, session_id: str, number: int, answer: SessionAnswer
    ) -> None:
        await self._wire.ask(self._server.answer, worker, session_id, number, answer)

    async def over(self, worker: str, session_id: str, reason: EndReason) -> None:
        await self._wire.ask(self._server.over, worker, session_id, reason)
