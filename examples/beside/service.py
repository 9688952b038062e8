"""The service beside an application in another framework, which makes the tickets.

Run it with the same key: TICKET_KEY=... python examples/beside/service.py
"""

from __future__ import annotations

import os
import sys
from typing import Any

from aiohttp import hdrs, web
from ticket import COOKIE, SHORTEST_KEY, user_of

import streamer
from streamer.errors import Unauthorized

CONFIG: dict[str, Any] = {"limits": {"default": {"wall_time_s": 10}}}


class Tickets:
    """Authorises by the ticket in the cookie, or by one that the application itself sends."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @streamer.hookimpl
    def streamer_authorize(
        self, request: web.Request, action: streamer.Action, job: streamer.JobView | None
    ) -> bool | str:
        _, _, sent = request.headers.get(hdrs.AUTHORIZATION, "").partition("Bearer ")
        user = user_of(sent or request.cookies.get(COOKIE, ""), self._key)
        if user is None:
            raise Unauthorized("log in first")
        return False if action == "metrics" else user


def make_app(key: bytes) -> web.Application:
    app = web.Application()
    streamer.setup(app, CONFIG, prefix="/code", plugins=[Tickets(key)])
    return app


if __name__ == "__main__":
    key = os.environ.get("TICKET_KEY", "").encode()
    if len(key) < SHORTEST_KEY:
        sys.exit(f"set TICKET_KEY to the key of the application: {SHORTEST_KEY} bytes or more")
    web.run_app(make_app(key), host="127.0.0.1", port=8090)
