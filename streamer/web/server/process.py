"""What a process has to do with others: nothing, or one of several serves a port with them."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from aiohttp import web

from streamer.config.schema import ServerConfig
from streamer.web.app import Lifetime
from streamer.web.server.listening import BACKLOG, bound
from streamer.web.siblings import SIBLINGS, TOLD, Siblings

__all__ = ["MESSAGE_BYTES", "Alone", "OneOfSeveral", "Process"]

log: Final = logging.getLogger(__name__)

MESSAGE_BYTES: Final = 65536
"""More than any message between a process and its supervisor."""


class Process(Protocol):
    at_once: int
    """How many connections are accepted without looking for anything else."""
    hurries: bool
    """Whether a second signal to this process ends its jobs at once."""

    def join(
        self, app: web.Application, stop: Callable[[], None], hurry: Callable[[], None]
    ) -> None:
        """Begin, before the application is started; be told when to `stop` and to `hurry`."""

    async def sockets(self, app: web.Application, server: ServerConfig) -> Sequence[socket.socket]:
        """Return the sockets for connections, once the application is started."""

    async def ready(self, lifetime: Lifetime, address: str, part: str, connections: int) -> None:
        """Tell that requests are answered, and which part of a service this is."""

    async def drained(self) -> None:
        """Wait, when no job runs here any more, until the process may end."""

    async def leave(self) -> None:
        """End what `sockets` has begun."""


class Alone:
    at_once = BACKLOG
    hurries = True

    def join(
        self, app: web.Application, stop: Callable[[], None], hurry: Callable[[], None]
    ) -> None:
        pass

    async def sockets(self, app: web.Application, server: ServerConfig) -> Sequence[socket.socket]:
        return bound(server)

    async def ready(self, lifetime: Lifetime, address: str, part: str, connections: int) -> None:
        log.info("listens on %s/, %s, at most %d connections", address, part, connections)

    async def drained(self) -> None:
        pass

    async def leave(self) -> None:
        pass


@dataclass(eq=False)
class OneOfSeveral:
    """A process with a supervisor: they talk over sockets that keep messages apart."""

    siblings: Siblings
    listening: Sequence[socket.socket]
    """The sockets on which all of them accept connections."""
    supervisor: socket.socket
    replaces: str = ""
    """The node of the process that it replaces."""
    at_once: int = 1
    """What else waits is for those that have nothing to do."""
    hurries: bool = False
    """It may be told twice, by its supervisor and by that of the system."""
    _ordered: bool = False
    """Whether the supervisor has asked it to stop, and so all the others."""
    _may_end: asyncio.Event = field(default_factory=asyncio.Event)
    _answers: asyncio.Server | None = None

    def join(
        self, app: web.Application, stop: Callable[[], None], hurry: Callable[[], None]
    ) -> None:
        app[SIBLINGS] = self.siblings
        loop = asyncio.get_running_loop()
        self.supervisor.setblocking(False)

        def obey() -> None:
            match self.supervisor.recv(MESSAGE_BYTES):
                case b"drain":
                    self._ordered = True
                    stop()
                case b"hurry":
                    hurry()
                case b"end":
                    self._may_end.set()
                case _:  # the supervisor has ended, and so will this process
                    loop.remove_reader(self.supervisor)

        loop.add_reader(self.supervisor, obey)

    async def sockets(self, app: web.Application, server: ServerConfig) -> Sequence[socket.socket]:
        self._answers = await self.siblings.listen(app[TOLD])
        return self.listening

    async def ready(self, lifetime: Lifetime, address: str, part: str, connections: int) -> None:
        self.say("ready", part=part, connections=connections, node=lifetime.node)
        if self.replaces:
            # What that had started has died with it, or was removed by this one's start.
            await lifetime.node_gone(self.replaces)

    def say(self, word: str, **facts: Any) -> None:
        self.supervisor.send(f"{word} {json.dumps(facts)}".encode())

    async def drained(self) -> None:
        # Its readers may follow jobs of the others.
        if self._ordered:
            self.say("drained")
            await self._may_end.wait()

    async def leave(self) -> None:
        asyncio.get_running_loop().remove_reader(self.supervisor)
        if self._answers is not None:
            self._answers.close()
