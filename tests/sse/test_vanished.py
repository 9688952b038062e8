"""A client whose network is gone: nothing ever arrives from it again, no FIN and no RST."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.tools import tool

SERVER = '''
import asyncio, subprocess, sys
from aiohttp import web
from streamer import sse
from streamer.sse.bytestream import ByteStream

CLIENT = """
import socket, subprocess, sys
print("up", flush=True)
sys.stdin.readline()
for command in ("ip addr add 10.9.9.2/24 dev there", "ip link set there up"):
    subprocess.run(command.split(), check=True)
sock = socket.create_connection(("10.9.9.1", 8080), 10)
sock.sendall(b"GET " + sys.argv[1].encode() + b" HTTP/1.1\\\\r\\\\nHost: x\\\\r\\\\n\\\\r\\\\n")
received = b""
while b"hello" not in received:
    received += sock.recv(4096)
print("reading", flush=True)
sys.stdin.readline()
"""

def run(*command):
    subprocess.run(command, check=True)

async def main():
    options = sse.StreamOptions(heartbeat_s=0.2, write_timeout_s=1.0)
    sessions = sse.SessionMap(options)
    channel = sse.Channel("events", sessions=sessions)
    gone = asyncio.Event()
    sessions.listen(lambda session, change: change == "closed" and gone.set())
    channel.broadcast("hello")
    app = web.Application()
    async def as_bytes(request):
        log = sse.EventLog()
        log.append([("e", b"hello")])
        response = ByteStream(request, options, {"Content-Type": "text/plain"})
        with log.cursor() as cursor:
            await sessions.send(request, response, "events", sse.LogSource(cursor))
        return response
    app.router.add_get("/events", lambda request: channel.respond(request, replay=True))
    app.router.add_get("/bytes", as_bytes)
    client = await asyncio.create_subprocess_exec(
        "unshare", "--net", sys.executable, "-c", CLIENT, sys.argv[1],
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    assert await client.stdout.readline() == b"up\\n"
    run("ip", "link", "add", "here", "type", "veth", "peer", "name", "there", "netns", str(client.pid))
    run("ip", "addr", "add", "10.9.9.1/24", "dev", "here")
    run("ip", "link", "set", "here", "up")
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "10.9.9.1", 8080).start()
    client.stdin.write(b"\\n")
    assert await client.stdout.readline() == b"reading\\n"
    assert len(sessions) == 1
    await asyncio.sleep(0.5)  # heartbeats are answered
    assert not gone.is_set()
    run("ip", "link", "set", "here", "down")  # the cable is out
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(20):
        await gone.wait()
    print(f"noticed after {loop.time() - began:.1f} s", flush=True)
    assert len(sessions) == 0
    client.kill()
    await client.wait()
    await runner.cleanup()

asyncio.run(main())
'''


@pytest.mark.slow
@pytest.mark.parametrize("target", ["/events", "/bytes"])
async def test_it_is_noticed_in_a_bounded_time(target: str) -> None:
    """Even if nothing is written and there are no heartbeats, as in a download."""
    folder = str(Path(tool("ip")).parent)
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--user", "--map-root-user", "--net"),
        *(sys.executable, "-c", SERVER, target),
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert out.startswith(b"noticed after"), err.decode()
