"""`streamer serve` and bytes that no handler reads: large heads, and pipelined requests."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from streamer.web.server.connection_limit import ConnectionLimit
from streamer.web.server.unhandled import READ_BYTES
from tests.web.raw import Streams
from tests.web.test_connections import Served, ask, crowd, follow, serving, submit

KIB = 1024
MIB = 1024 * KIB
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
LARGE = b"".join(b"X-%d: %b\r\n" % (number, b"a" * 8000) for number in range(120))


def resident(served: Served) -> int:
    """Return the resident memory of the process (proc(5))."""
    for line in Path(f"/proc/{served.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * KIB
    raise AssertionError("the service is gone")


async def push(streams: Streams, data: bytes) -> bytes:
    """Send until the peer accepts no more; return the answer up to its end, if it has one."""
    reader, writer = streams

    async def send() -> None:
        for at in range(0, len(data), 64 * KIB):
            writer.write(data[at : at + 64 * KIB])
            await writer.drain()

    sending = asyncio.create_task(send())
    parts = []
    try:
        async with asyncio.timeout(5):
            while part := await reader.read(64 * KIB):
                parts.append(part)
    except (TimeoutError, ConnectionError):
        pass
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    return b"".join(parts)


def problem(answer: bytes) -> tuple[int, str]:
    document = json.loads(answer.partition(b"\r\n\r\n")[2])
    return document["status"], document["code"]


@pytest.mark.slow
async def test_what_comes_before_an_answer_is_not_kept(tmp_path: Path) -> None:
    async with serving(tmp_path, "--set", "queue.concurrency=1") as served:
        async with ClientSession(served.address) as session:
            job_id = await submit(session, "sleep 600")
        stream = f"GET /api/stream/{job_id} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        before = resident(served)
        async with crowd(served, 12) as opened:
            behind = (HEALTH + LARGE + b"\r\n") * 20
            for one in opened[:6]:  # once its answer has begun
                await follow(one, job_id)
            await asyncio.gather(*(push(one, behind) for one in opened[:6]))
            await asyncio.gather(*(push(one, stream + behind) for one in opened[6:]))
            # If they were accepted, the requests would take 40 MiB for each connection.
            assert resident(served) - before < 8 * MIB
        async with crowd(served, 1) as (one,):
            assert await ask(one) == 200


@pytest.mark.slow
async def test_heads_of_one_and_of_all_connections_have_a_bound(tmp_path: Path) -> None:
    async with serving(tmp_path, "--set", "server.max_connections=200") as served:
        before = resident(served)
        async with crowd(served, 150) as opened:
            answer = await push(opened[0], HEALTH + LARGE)
            assert not answer or problem(answer) == (413, "payload_too_large")
            for one in opened:
                one[1].write(HEALTH + LARGE[: 100 * KIB])
            told = await asyncio.gather(*(push(one, b"") for one in opened[1:]))
            assert {problem(answer) for answer in told if answer} == {(429, "rate_limited")}
            assert resident(served) - before < 24 * MIB
            async with crowd(served, 1) as (usual,):
                assert await ask(usual) == 200
        async with crowd(served, 1) as (one,):
            writer = one[1]
            writer.write(HEALTH + b"X-Long: %b\r\n\r\n" % (b"a" * 8000))
            assert b" 200 " in await asyncio.wait_for(one[0].readuntil(b"\r\n\r\n"), 30)


@pytest.mark.slow
async def test_a_body_where_none_belongs_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, crowd(served, 2) as (large, small):
        answer = await push(large, HEALTH + b"Content-Length: 1000000\r\n\r\n" + b"x" * MIB)
        assert not answer or problem(answer) == (413, "payload_too_large")
        reader, writer = small
        writer.write(HEALTH + b"Content-Length: 2\r\n\r\n{}")
        assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)


@pytest.mark.slow
async def test_a_connection_serves_many_requests_of_any_form(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, crowd(served, 3) as (early, spacious, chunked):
        reader, writer = early
        writer.write((HEALTH + b"\r\n") * 5)
        for _ in range(5):
            assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        reader, writer = spacious
        for _ in range(20):
            writer.write(HEALTH + b"X-Wide:%b1\r\n\r\n" % (b" " * 50))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
        reader, writer = chunked
        body = json.dumps({"language": "bash", "code": "#" * 3000}).encode()
        head = (
            b"POST /api/execute HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        writer.write(head + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        assert b" 202 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)


@pytest.mark.slow
async def test_a_client_that_takes_no_answer_is_cut(tmp_path: Path) -> None:
    async with serving(tmp_path, "--set", "streams.write_timeout_s=1") as served:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.connect(("127.0.0.1", served.port))
            ends = f":{served.port:04X} 0100007F:{sock.getsockname()[1]:04X} "

            def is_open() -> bool:
                return ends in Path("/proc/net/tcp").read_text()

            for _ in range(40):
                asked = b"GET /static/playground/ansi.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
                sock.sendall(asked)
            assert is_open()
            async with asyncio.timeout(20):
                while is_open():
                    await asyncio.sleep(0.1)


async def test_the_sum_of_heads_goes_down_with_their_connections() -> None:
    async def upload(request: web.Request) -> web.Response:
        size = len(await request.read())
        if size == 1:
            await asyncio.sleep(600)
        return web.Response(text=str(size))

    connections = ConnectionLimit(100, 10.0, 10.0)
    app = web.Application(middlewares=[connections.middleware])
    app.router.add_post("/", upload)
    runner = web.AppRunner(app, handler_cancellation=True, read_bufsize=READ_BYTES)
    await runner.setup()
    assert runner.server is not None
    loop = asyncio.get_running_loop()
    server = await loop.create_server(connections.factory(runner.server), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def held(most: int) -> None:
        async with asyncio.timeout(20):
            while connections.heads.bytes > most:
                await asyncio.sleep(0.01)

    head = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Large: %b\r\n" % (b"a" * 4000)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for size in (0, 1000, MIB // 2):
        writer.write(head + b"Content-Length: %d\r\n\r\n" % size + b"x" * size)
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(str(size)))
        await held(0)
    waiting = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    for number, (_, other) in enumerate(waiting):
        # One waits for its answer, one still sends its body, and one its head.
        sent = (head + b"Content-Length: 1\r\n\r\nx")[: (None, -1, -5)[number]]
        other.write(sent if number else sent + b"GET / HTTP/1.1\r\n")
    async with asyncio.timeout(20):
        while connections.heads.bytes < 3 * 4000:
            await asyncio.sleep(0.01)
    for _, other in waiting:
        other.transport.abort()
    await held(0)
    assert connections.heads.bytes == 0
    writer.close()
    server.close()
    await runner.cleanup()
