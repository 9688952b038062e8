"""The handler that makes grants: links that open one job for reading, until they expire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from msgspec import UNSET

from streamer.errors import Forbidden, InvalidRequest
from streamer.jobs.jobs import Jobs
from streamer.web import answers, wire
from streamer.web.bodies import Bodies
from streamer.web.callers.access import Access
from streamer.web.documents import json_answer
from streamer.web.jobviews import timestamp
from streamer.web.operations import grants as operations

__all__ = ["GrantHandlers"]

USUAL_S: Final = 3600.0


@dataclass(frozen=True)
class GrantHandlers:
    """`links` returns the links of a job by its id."""

    jobs: Jobs
    access: Access
    bodies: Bodies
    links: Callable[[web.Request, str], answers.JobLinks]

    def routes(self) -> list[web.RouteDef]:
        return [operations.CREATE.route(self.create)]

    async def create(self, request: web.Request) -> web.Response:
        """Answer with a grant for the job, if the caller may read it and let others read it."""
        job, view = await self.access.named(request, "grant", self.jobs)
        await self.access.job(request, "read", job)  # a link would tell its maker, too
        async with self.bodies.read(request, view.tenant) as body:
            asked = wire.parse_grant(body)
        grants = self.access.grants
        files = asked.files is not False
        grant = grants.grant(job.id, self._seconds(asked.expires_s), files=files)
        text = await grants.signed(grant)
        links = self.links(request, job.id)
        document = answers.Grant(
            grant=text,
            expires_at=timestamp(grant.expires_ms / 1000),
            links=answers.GrantLinks(
                job=f"{links.job}?grant={text}",
                stream=f"{links.stream}?grant={text}",
                output=f"{links.output}?grant={text}",
                cast=f"{links.cast}?grant={text}",
                files=f"{links.files}?grant={text}" if files else UNSET,
            ),
        )
        return json_answer(document, status=201, headers={"Cache-Control": "no-store"})

    def _seconds(self, asked: float | None) -> float:
        most = self.jobs.config.auth.grant_max_s
        if not most:
            raise Forbidden("grants are not allowed by the configuration (auth.grant_max_s)")
        seconds = min(USUAL_S, most) if asked is None else asked
        if seconds > most:
            raise InvalidRequest(f"expiresS must be at most {most:g}", path="$.expiresS")
        return seconds
