"""The handlers that serve the reference of the interface."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass

from aiohttp import web

from streamer.errors import CallerError, CapacityError
from streamer.jobs.jobs import Jobs
from streamer.web.callers.access import WRONG_TOKEN, Access
from streamer.web.documents import dump
from streamer.web.operations import service as operations
from streamer.web.page import Asset
from streamer.web.reference.document import Facts, openapi
from streamer.web.reference.html import page

__all__ = ["ReferenceHandlers"]


@dataclass(frozen=True)
class ReferenceHandlers:
    """Everybody may read the reference; what is configured is for callers who may list it."""

    jobs: Jobs
    access: Access

    def routes(self) -> list[web.RouteDef]:
        return [
            operations.OPENAPI.route(self.show_openapi),
            operations.DOCS.route(self.show_docs),
        ]

    async def show_openapi(self, request: web.Request) -> web.Response:
        return (await asyncio.to_thread(_document, self._facts(request))).answer(request)

    async def show_docs(self, request: web.Request) -> web.Response:
        return (await asyncio.to_thread(_page, self._facts(request))).answer(request)

    def _facts(self, request: web.Request) -> Facts:
        config = self.jobs.config
        # From the router, as links of jobs are: it knows the prefix in a host application.
        path = str(request.app.router[operations.OPENAPI.name].url_for())
        base = config.server.public_url.rstrip("/") + path.removesuffix(operations.OPENAPI.path)
        try:
            self.access.require(request, "list")
        except (CallerError, CapacityError):
            if WRONG_TOKEN in request:
                raise  # so that it counts: otherwise tokens could be guessed here
            return Facts(base)
        return Facts(base, tuple(sorted(self.jobs.runtimes)), config.limits.max)


# Made when they are first asked for, in a thread: that takes a tenth of a second.
@functools.lru_cache(maxsize=8)
def _document(facts: Facts) -> Asset:
    return Asset(dump(openapi(facts)), "application/json")


@functools.lru_cache(maxsize=8)
def _page(facts: Facts) -> Asset:
    return Asset(page(openapi(facts)).encode(), "text/html")
