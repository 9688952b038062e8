"""Ask what a service can run, how busy it is, and whether it is ready."""

from __future__ import annotations

from streamer.client.connection import Verbs
from streamer.client.documents import (
    Nothing,
    QueueDocument,
    RuntimeDocument,
    RuntimeList,
    SandboxDocument,
    SandboxList,
)
from streamer.client.problem import ServiceProblem

__all__ = ["ServiceVerbs"]

NOT_READY = 503


class ServiceVerbs(Verbs):
    """What can be asked about a service."""

    async def queue(self) -> QueueDocument:
        """Return ``running``, ``waiting``, ``capacity``, ``maxWaiting``: numbers of jobs.

        ``estimatedWaitS`` is how long a new job would wait, in seconds; ``own`` is your part.
        """
        return await self._connection.call("GET", "api/queue", QueueDocument)

    async def runtimes(self) -> list[RuntimeDocument]:
        """Return the languages as ``GET /api/runtimes`` lists them.

        Each has ``name``, ``aliases``, ``entry``, ``compiled``, ``available`` and ``reason``: None,
        or why it is not available.
        """
        return (await self._connection.call("GET", "api/runtimes", RuntimeList))["runtimes"]

    async def sandboxes(self) -> list[SandboxDocument]:
        """Return the sandboxes as ``GET /api/sandboxes`` lists them.

        Each has ``name``, ``isolation``, ``available`` and ``reason``, ``default``, ``selectable``
        (whether a job may name it), and in ``enforces`` how each limit is enforced.
        """
        return (await self._connection.call("GET", "api/sandboxes", SandboxList))["sandboxes"]

    async def ready(self) -> bool:
        """Return whether the service accepts jobs (``GET /readyz``)."""
        try:
            await self._connection.call("GET", "readyz", Nothing, retries=0)
        except ServiceProblem as problem:
            if problem.status != NOT_READY:
                raise
            return False
        return True
