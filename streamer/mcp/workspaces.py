"""The workspaces of callers: each is a session of the service, opened when it is first used."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from streamer.bounded import ends_in
from streamer.client import Client, ServiceProblem
from streamer.client.sessions import RemoteSession
from streamer.errors import Busy, StreamerError
from streamer.mcp.problems import Refused

__all__ = ["Caller", "Ended", "Workspaces"]

MAX_WORKSPACES: Final = 1000
"""More than a service has sessions; what is dropped first was not used for longest."""
ENDED: Final = frozenset({404, 410})
END_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: `name` tells callers apart, `token` is what the service is shown."""

    name: str = ""
    token: str | None = None


@dataclass(eq=False)
class _Workspace:
    caller: Caller
    session_id: str | None = None
    was_open: bool = False
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)


class Workspaces:
    """Finds the session of a workspace, and opens it if there is none any more.

    `connect` returns a client of the service, not entered; `fields` are those of each session.
    """

    def __init__(
        self,
        connect: Callable[[Caller], AbstractAsyncContextManager[Client]],
        fields: dict[str, Any],
    ) -> None:
        self._connect = connect
        self._fields = fields
        self._known: OrderedDict[tuple[str, str], _Workspace] = OrderedDict()

    @asynccontextmanager
    async def opened(
        self, client: Client, caller: Caller, name: str
    ) -> AsyncIterator[tuple[RemoteSession, bool]]:
        """Yield a workspace's session, and whether an earlier one of this name has ended.

        It is found ended when something is done in it: then `Ended` is raised, and the next call
        opens another.
        """
        key = (caller.name, name)
        workspace = self._known.setdefault(key, _Workspace(caller))
        self._known.move_to_end(key)
        while len(self._known) > MAX_WORKSPACES:
            self._known.popitem(last=False)
        async with workspace.opening:
            again = workspace.session_id is None and workspace.was_open
            if workspace.session_id is None:
                session = client.session(**self._fields)
                try:
                    await session.open()
                except ServiceProblem as problem:
                    if problem.status != Busy.status:
                        raise
                    raise Refused(self._full(caller, problem)) from problem
                workspace.session_id, workspace.was_open = session.id, True
            session = client.session(workspace.session_id)
        try:
            yield session, again
        except ServiceProblem as problem:
            if not await _has_ended(session, problem):
                raise
            if workspace.session_id == session.id:
                workspace.session_id = None
            raise Ended(name) from problem

    def _full(self, caller: Caller, problem: ServiceProblem) -> str:
        own = [
            name
            for (whose, name), one in self._known.items()
            if whose == caller.name and one.session_id
        ]
        use = f"use one that you have ({', '.join(sorted(own))})" if own else "try again later"
        return (
            f"there is no room for another workspace: {use}; one that is not used ends by itself "
            f"after some minutes ({problem.message})"
        )

    async def end_all(self) -> None:
        """End the sessions of all workspaces, for a limited time; what is left ends when idle."""
        found = [one for one in self._known.values() if one.session_id is not None]
        self._known.clear()
        await asyncio.gather(*(self._end(workspace) for workspace in found))

    async def _end(self, workspace: _Workspace) -> None:
        with contextlib.suppress(aiohttp.ClientError, StreamerError, TimeoutError):
            async with self._connect(workspace.caller) as client:
                await ends_in(END_S, client.session(workspace.session_id).end())


class Ended(Refused):
    """The session of a workspace is no more."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"workspace {name!r} has ended, and its files are gone: it was not used for long, or "
            "the service has started anew. The next call begins an empty one: write the files again"
        )


async def _has_ended(session: RemoteSession, problem: ServiceProblem) -> bool:
    """Tell whether the session is what is missing, and not a file in it."""
    if problem.status == 410:
        return True
    if problem.status != 404:
        return False
    try:
        await session.document()
    except ServiceProblem as unknown:
        return unknown.status in ENDED
    return False
