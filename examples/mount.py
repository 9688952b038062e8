"""Mount the service into your own application, below /code."""

from __future__ import annotations

import sys

from aiohttp import web

import streamer


async def index(_: web.Request) -> web.Response:
    """Answer one of the application's own routes."""
    return web.Response(text="the playground is at /code/\n")


app = web.Application()
app.router.add_get("/", index)
streamer.setup(app, {"limits": {"default": {"wall_time_s": 10}}}, prefix="/code")

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8081)
