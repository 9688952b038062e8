"""The sessions of all nodes, in the server."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from streamer.engine.limits import SessionLimits
from streamer.engine.redis.link import Word
from streamer.engine.redis.scripts import Scripts
from streamer.engine.redis.wire import (
    ANSWER,
    REQUEST,
    SESSION,
    accepted,
    encoded,
    tenant_hash,
    tenant_name,
    tenant_of,
)
from streamer.engine.sessions import AskedSession, SessionNews, SessionView, session_gone
from streamer.errors import Draining, NotFound, RateLimited, unknown_project
from streamer.model.capabilities import Accepts
from streamer.model.job import Limits
from streamer.model.session import (
    Done,
    EndReason,
    Open,
    ResolvedSession,
    SessionAnswer,
    SessionRequest,
    Stored,
)

__all__ = ["RedisSessions", "check_living"]

NEWS_WAIT_S: Final = 1.0

LOOK_S: Final = 5.0
"""How often who waits for an answer asks for it, should a message be lost."""


class RedisSessions:
    """See `streamer.engine.sessions.Sessions`."""

    def __init__(self, scripts: Scripts, limits: SessionLimits, node: str) -> None:
        self._scripts = scripts
        self._limits = limits
        self._node = node
        self.news_bell = asyncio.Event()
        """Set when a worker may have news."""
        self._asking: dict[str, set[asyncio.Event]] = {}
        """Those who wait for answers of a session."""
        self.is_draining: Callable[[], bool] = lambda: False

    def look(self, session_id: str) -> None:
        """Let those who wait for answers of a session ask for them."""
        for event in self._asking.get(session_id, ()):
            event.set()

    def look_all(self) -> None:
        """Do the same for all, as messages may have been lost."""
        self.news_bell.set()
        for session_id in tuple(self._asking):
            self.look(session_id)

    # -- the API side ---------------------------------------------------------------------

    async def open(self, session: ResolvedSession) -> None:
        facts = {
            "id": session.session_id,
            "tenant_hash": tenant_hash(session.tenant),
            "backend": session.backend,
            "environment": session.environment or "",
            "languages": " ".join(session.languages),
            "idle_s": session.idle_s,
            "total_s": session.total_s,
            "blob": "" if session.project is None else session.project.blob_id,
            "draining": self.is_draining(),
        }
        state, *counts = await self._scripts.call(
            "session_open",
            encoded(facts),
            encoded(session),
            tenant_name(session.tenant),
            tenant=session.tenant,
        )
        match state:
            case b"share":
                raise self._limits.share_taken(int(counts[0]), session.tenant)
            case b"full":
                raise self._limits.full(int(counts[0]))
            case b"draining":
                raise Draining("the service is shutting down and opens no sessions")
            case b"no_project":
                assert session.project is not None
                raise unknown_project(session.project.blob_id)

    async def find(self, session_id: str) -> SessionView | None:
        state, *fields = await self._scripts.call("session_find", session_id)
        if state == b"living":
            return _view(fields)
        if state != b"ended":
            return None
        # Of what it was nothing is kept but whose.
        reason, created, tenant = fields
        nothing = ResolvedSession(session_id, tenant_of(tenant), "", Limits(), 0.0, 0.0)
        at = float(created)
        return SessionView(nothing, "idle", at, at, cast("EndReason", reason.decode()))

    async def of(self, tenant: str) -> Sequence[SessionView]:
        return tuple(map(_view, await self._scripts.call("sessions_of", tenant_hash(tenant))))

    async def ask(self, session_id: str, request: SessionRequest) -> SessionAnswer:
        token = secrets.token_hex(8)
        # What opens the session is told apart without decoding the rest.
        sent = (b"O" if isinstance(request, Open) else b"-") + encoded(request)
        asked: list[Any] = await self._scripts.call(
            "session_ask", session_id, sent, self._node, token
        )
        check_living(asked, session_id)
        if asked[0] == b"full":
            raise RateLimited("too many requests to the session wait: try again later")
        number = int(asked[1])
        answer: SessionAnswer | None = None
        news = asyncio.Event()
        self._asking.setdefault(session_id, set()).add(news)
        try:
            answer = await self._answer(session_id, number, news)
        finally:
            self._asking[session_id].discard(news)
            if not self._asking[session_id]:
                del self._asking[session_id]
            leaving = asyncio.ensure_future(self._leave(session_id, number, token, answer))
            await asyncio.shield(leaving)
        return answer

    async def _answer(self, session_id: str, number: int, news: asyncio.Event) -> SessionAnswer:
        while True:
            news.clear()
            state = await self._scripts.call("session_answer_of", session_id, number)
            check_living(state, session_id)
            if state[0] == b"answer":
                return ANSWER.decode(state[1])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await news.wait()

    async def _leave(
        self, session_id: str, number: int, token: str, answer: SessionAnswer | None
    ) -> None:
        got = int(answer is not None)
        left = await self._scripts.call("session_leave", session_id, number, token, got)
        if left is not None and isinstance(stored := ANSWER.decode(left), Stored):
            await self._scripts.call("blob_delete", stored.blob_id)  # it has come just before

    async def end(self, session_id: str) -> bool:
        ended = bool(await self._scripts.call("session_end", session_id))
        while await self._scripts.call("endings"):  # otherwise some node does it a little later
            pass
        return ended

    # -- the worker's side ----------------------------------------------------------------

    async def news(
        self, worker: str, held: Mapping[str, int], free: int, accepts: Accepts | None
    ) -> SessionNews:
        self.news_bell.clear()
        news = await self._news(worker, held, free, accepts)
        if news == SessionNews():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(NEWS_WAIT_S):
                    await self.news_bell.wait()
            news = await self._news(worker, held, free, accepts)
        return news

    async def _news(
        self, worker: str, held: Mapping[str, int], free: int, accepts: Accepts | None
    ) -> SessionNews:
        pairs: list[Word] = [word for pair in held.items() for word in pair]
        opens, asked, closed = await self._scripts.ask(
            "session_news", worker, self._node, free, accepted(accepts), *pairs
        )
        return SessionNews(
            tuple(map(SESSION.decode, opens)),
            tuple(
                AskedSession(session_id.decode(), int(number), REQUEST.decode(request[1:]))
                for session_id, number, request in asked
            ),
            tuple(session_id.decode() for session_id in closed),
        )

    async def answer(
        self, worker: str, session_id: str, number: int, answer: SessionAnswer
    ) -> None:
        await self._scripts.ask(
            "session_answer",
            worker,
            session_id,
            number,
            encoded(answer),
            int(isinstance(answer, Done)),
            answer.blob_id if isinstance(answer, Stored) else "",
        )

    async def over(self, worker: str, session_id: str, reason: EndReason) -> None:
        await self._scripts.ask("session_over", worker, session_id, reason)


def check_living(answer: Sequence[Any], session_id: str) -> None:
    """Raise `Gone` or `NotFound` if the script says that a session has ended, or never was."""
    if answer[0] == b"ended":
        raise session_gone(cast("EndReason", answer[1].decode()))
    if answer[0] == b"no_session":
        raise NotFound(f"there is no session {session_id!r}")


def _view(fields: Sequence[Any]) -> SessionView:
    spec, state, created, expires = fields
    return SessionView(
        SESSION.decode(spec),
        state.decode(),
        float(created),
        float(expires),
    )
