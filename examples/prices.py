"""Stream an application's own events to browsers: prices, with replay and a page."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import suppress

from aiohttp import web

from streamer import sse

PAGE = """<!doctype html>
<title>Prices</title>
<pre id="log"></pre>
<script>
  const log = document.getElementById("log");
  const source = new EventSource("/prices");
  source.addEventListener("price", (e) => log.append(e.lastEventId + " " + e.data + "\\n"));
  source.addEventListener("gap", (e) => log.append("missed " + e.data + "\\n"));
</script>
"""

prices = sse.Channel("prices", history_events=100, history_s=600)


async def page(_: web.Request) -> web.Response:
    """Show the prices as they arrive."""
    return web.Response(text=PAGE, content_type="text/html")


async def announce(request: web.Request) -> web.Response:
    """Broadcast a price: POST /prices {"gold": 2650.1}."""
    return web.json_response({"id": prices.broadcast(await request.json(), "price")})


async def count(request: web.Request) -> web.StreamResponse:
    """Push to this one client, continuing where it was cut off."""
    async with sse.open_session(request, sessions=prices.sessions, key="count") as session:
        while session.last_id < 10:
            session.push({"n": session.last_id + 1}, "count")
            await session.drain()
    return session.response


async def wander(_: web.Application) -> AsyncIterator[None]:
    """Change the price of gold once a second."""

    async def run() -> None:
        gold = 2650.0
        while True:
            gold += random.uniform(-1, 1)
            prices.broadcast({"gold": round(gold, 2)}, "price")
            await asyncio.sleep(1)

    task = asyncio.create_task(run())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


app = web.Application()
app.router.add_get("/", page)
app.router.add_get("/prices", prices.respond)
app.router.add_post("/prices", announce)
app.router.add_get("/count", count)
app.cleanup_ctx.append(wander)
app.on_shutdown.append(prices.sessions.shutdown)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8082)
