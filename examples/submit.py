"""Run a program from your own handler and answer with its output."""

from __future__ import annotations

import sys

from aiohttp import web

import streamer
from streamer.events import Output


async def reverse(request: web.Request) -> web.Response:
    """Reverse the request's body in a sandbox."""
    job = await streamer.get_service(request).submit(
        streamer.JobSpec(
            language="python",
            code="print(input()[::-1])",
            stdin=await request.read() + b"\n",
            limits={"wall_time_s": 5},
        )
    )
    printed = [event.data.data async for event in job.events() if isinstance(event.data, Output)]
    return web.Response(text="".join(printed))


app = web.Application()
app.router.add_post("/reverse", reverse)
streamer.setup(app, prefix="/code")

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8081)
