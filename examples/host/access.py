"""What the service asks the host: who somebody is, and what it tells it: that a job is over."""

from __future__ import annotations

import asyncio

from accounts import Accounts, User
from aiohttp import web

import streamer
from streamer.errors import Unauthorized
from streamer.events import Complete

USER: web.RequestKey[User] = web.RequestKey("user", User)
"""Who has sent a request: the middleware sets it."""


class Access:
    """Authorises by the host's session, which its middleware has looked up already."""

    def __init__(self, accounts: Accounts, *, staff_only: bool) -> None:
        self._accounts = accounts
        self._staff_only = staff_only
        self._tasks: set[asyncio.Task[None]] = set()

    @streamer.hookimpl
    def streamer_authorize(
        self, request: web.Request, action: streamer.Action, job: streamer.JobView | None
    ) -> bool | str:
        user = request.get(USER)
        if user is None:
            raise Unauthorized("log in first")
        if self._staff_only and not user.staff:
            return False
        # Each user is a tenant, and sees nobody else's jobs. The figures are for an operator.
        return False if action == "metrics" else user.name

    @streamer.hookimpl
    def streamer_job_finished(self, job: streamer.JobView) -> None:
        # A hook is a plain function in the event loop, and a database takes its time.
        task = asyncio.create_task(self._note(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _note(self, job: streamer.JobView) -> None:
        verdict = job.result.reason if isinstance(job.result, Complete) else "error"
        await asyncio.to_thread(
            self._accounts.note_verdict, job.job.job_id, job.tenant or "", verdict
        )
