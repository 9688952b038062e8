"""`streamer serve` with too many connections, and idle ones; and its log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import struct
import sys
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession

from tests.web.raw import Streams

pytestmark = pytest.mark.slow

WAIT = {"Prefer": "wait=60"}


@dataclass
class Served:
    """A running service: its port, its process, and the lines of its log."""

    port: int
    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def until_logged(self, wanted: str) -> str:
        """Return the first line that holds a text, once it is there."""
        async with asyncio.timeout(60):
            while not (found := [line for line in self.lines if wanted in line]):
                self.news.clear()
                await self.news.wait()
        return found[0]


@asynccontextmanager
async def serving(folder: Path, *options: str, files: int | None = None) -> AsyncIterator[Served]:
    """Start the service, perhaps with a limit of open files; keep what it logs."""
    limit = ("sh", "-c", 'ulimit -n "$0"; exec "$@"', str(files)) if files else ()
    process = await asyncio.create_subprocess_exec(
        *(*limit, sys.executable, "-m", "streamer", "serve", "--port", "0"),
        *("--set", "streams.grace_s=0.05"),
        # Do not wait at the end of a test for jobs that it left running.
        *("--set", "server.drain_s=0", *options),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    served = Served(0, process)

    async def read() -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            served.lines.append(line.decode().rstrip("\n"))
            served.news.set()

    reading = asyncio.create_task(read())
    try:
        line = await served.until_logged("at most")
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found
        served.port = int(found[1])
        yield served
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await reading


@asynccontextmanager
async def crowd(served: Served, count: int) -> AsyncIterator[list[Streams]]:
    """Open connections that send nothing."""
    opened = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(count)]
    try:
        yield opened
    finally:
        for _, writer in opened:
            writer.close()


async def ask(streams: Streams, path: str = "/healthz") -> int:
    """Send a request on a connection that stays open; return the status."""
    reader, writer = streams
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).decode()
    found = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
    if found:
        await reader.readexactly(int(found[1]))
    return int(head.split(" ", 2)[1])


async def follow(streams: Streams, job_id: str) -> None:
    """Open the stream of a running job, so that the connection is busy, and read an event."""
    reader, writer = streams
    writer.write(f"GET /api/stream/{job_id} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    await asyncio.wait_for(reader.readuntil(b"event: status"), 30)


async def told(served: Served, tenant: str) -> dict[str, Any]:
    """Return the answer about the queue; its ``code`` is the status unless it is a refusal."""
    headers = {"Authorization": f"Bearer {tenant}"}
    async with (
        ClientSession(served.address, headers=headers) as session,
        session.get("/api/queue") as response,
    ):
        return {"code": response.status, **await response.json()}


async def submit(session: ClientSession, code: str) -> str:
    async with session.post("/api/execute", json={"language": "bash", "code": code}) as response:
        assert response.status == 202, await response.text()
        return response.headers["X-Job-Id"]


async def test_connections_beyond_the_bound_are_refused_and_told_so(tmp_path: Path) -> None:
    async with serving(tmp_path, "--set", "server.max_connections=20") as served:
        async with ClientSession(served.address) as session:
            job_id = await submit(session, "sleep 600")
        async with crowd(served, 19) as busy:
            for one in busy:
                await follow(one, job_id)
            # The twentieth cancels the job that the others follow.
            async with crowd(served, 1) as (last,):
                await follow(last, job_id)
                for _ in range(5):
                    async with crowd(served, 1) as ((reader, _),):
                        answer = (await asyncio.wait_for(reader.read(), 30)).decode()
                    assert answer.startswith("HTTP/1.1 429 ")
                    assert "Retry-After: " in answer
                    document = json.loads(answer.partition("\r\n\r\n")[2])
                    assert (document["status"], document["code"]) == (429, "rate_limited")
            # Clients that left have made room, and the others are still served.
            async with ClientSession(served.address) as session:
                while True:
                    async with session.delete(f"/api/jobs/{job_id}") as response:
                        if response.status != 429:
                            assert response.status == 202
                            break
            for reader, _ in busy:
                await asyncio.wait_for(reader.readuntil(b'"reason":"cancelled"'), 30)


async def test_an_idle_connection_makes_room_for_a_new_one(tmp_path: Path) -> None:
    async with serving(tmp_path, "--set", "server.max_connections=4") as served:
        async with ClientSession(served.address) as session:
            job_id = await submit(session, "sleep 600")
        async with crowd(served, 4) as opened, AsyncExitStack() as stack:
            silent, busy, first_idle, last_idle = opened
            await follow(busy, job_id)
            for one in (first_idle, last_idle):
                assert await ask(one) == 200
            # Three clients connect, and each is refused until another has been idle for long enough.
            for leaves in (silent, first_idle, last_idle):
                while True:
                    (one,) = await stack.enter_async_context(crowd(served, 1))
                    try:
                        if await ask(one) == 200:
                            break
                    except (ConnectionError, asyncio.IncompleteReadError):
                        pass  # refused before it sent a request
                await follow(one, job_id)
                assert await asyncio.wait_for(leaves[0].read(), 30) == b""
            assert not busy[0].at_eof()


async def test_who_still_takes_an_answer_is_not_idle(tmp_path: Path) -> None:
    options = ("--set", "server.max_connections=2", "--set", "logging.access=true")
    async with serving(tmp_path, *options) as served:
        async with ClientSession(served.address) as session:
            job_id = await submit(session, "head -c 10000 /dev/zero")
            async with session.get(f"/api/stream/{job_id}") as response:
                await response.read()
        asked = f"GET /api/jobs/{job_id} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", served.port))
            slow.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with crowd(served, 1) as (later,), AsyncExitStack() as stack:
                # Handlers return at once; answers wait once the kernel's buffer is full.
                sent = answered = 0
                while sent == answered:
                    slow.sendall(asked + b"\r\n")
                    sent += 1
                    for _ in range(50):
                        assert await ask(later) == 200
                        answered = sum("/api/jobs/" in line for line in served.lines)
                        if sent == answered:
                            break
                seated = False
                while not seated:
                    async with AsyncExitStack() as unless_seated:
                        (new,) = await unless_seated.enter_async_context(crowd(served, 1))
                        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                            seated = await ask(new) == 200
                        if seated:
                            await stack.enter_async_context(unless_seated.pop_all())
                assert await asyncio.wait_for(later[0].read(), 30) == b"", "it made room"
            slow.sendall(asked + b"Connection: close\r\n\r\n")
            slow.settimeout(30)
            taken = bytearray()
            while part := await asyncio.to_thread(slow.recv, 1 << 20):
                taken += part
        assert taken.count(b"HTTP/1.1 200 OK") == sent + 1
        assert taken.endswith(b"}")


async def test_a_first_request_has_to_come_in_time_and_later_ones_need_not(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, "--set", "server.head_timeout_s=1") as served,
        crowd(served, 3) as (silent, dribbling, asking),
    ):
        assert await ask(asking) == 200
        dribbling[1].write(b"GET / HTTP/1.1\r\nHost: ")
        for reader, _ in (silent, dribbling):
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reader.readexactly(1), 30)
        assert await ask(asking) == 200


@pytest.mark.parametrize("holding", ["streams", "waits", "bodies"])
async def test_a_tenant_leaves_connections_to_the_others(tmp_path: Path, holding: str) -> None:
    tokens = [
        f'[[auth.tokens]]\ntenant = "{name}"\nsha256 = "{sha256(name.encode()).hexdigest()}"\n'
        for name in ("alice", "bob")
    ]
    (tmp_path / "config.toml").write_text("".join(tokens))
    body = json.dumps({"language": "bash", "code": "sleep 600"}).encode()
    fields = {
        "streams": "Accept: text/event-stream",
        "waits": "Prefer: wait=300",
        "bodies": "Expect: 100-continue",
    }
    head = f"POST /api/execute HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
    head += f"Authorization: Bearer alice\r\nIdempotency-Key: one\r\n{fields[holding]}\r\n\r\n"
    asked = head.encode() + (b"{" if holding == "bodies" else body)
    options = ("--set", "server.max_connections=8", "--set", "server.body_timeout_s=600")
    async with serving(tmp_path, *options) as served, crowd(served, 4) as held:
        for _, writer in held:
            writer.write(asked)
        async with asyncio.timeout(60):
            while (await told(served, "alice"))["code"] != "rate_limited":
                pass
        assert (await told(served, "bob"))["code"] == 200
        for _, writer in held[:1]:
            writer.close()
        async with asyncio.timeout(60):
            while (await told(served, "alice"))["code"] != 200:
                pass


async def test_jobs_run_however_many_clients_are_connected(tmp_path: Path) -> None:
    options = ("--set", "queue.concurrency=2", "--set", "server.head_timeout_s=60")
    job = {"language": "bash", "code": "echo hello"}
    async with serving(tmp_path, *options, files=400) as served, crowd(served, 600):
        assert "at most 80 connections" in await served.until_logged("at most")

        async def outcome() -> Any:
            """Run a job; if it is refused, try again until it runs."""
            while True:
                try:
                    async with (
                        ClientSession(served.address) as session,
                        session.post("/api/execute", json=job, headers=WAIT) as response,
                    ):
                        if response.status == 200:
                            return (await response.json())["result"]
                except ClientError:
                    pass

        for _ in range(3):
            for result in await asyncio.gather(outcome(), outcome()):
                assert result["stdout"] == "hello\n", result
        # No accept failed for lack of descriptors, which would be logged.
        assert len(served.lines) < 10, served.lines


async def test_too_few_descriptors_stop_the_start(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'ulimit -n 256; exec "$@"', "sh", sys.executable, "-m", "streamer", "serve"),
        *("--port", "0", "--set", "queue.concurrency=4"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2, said
    assert b"queue.concurrency" in said
    assert b"ulimit -n" in said


async def test_no_request_writes_a_line_of_the_log(tmp_path: Path) -> None:
    async with serving(tmp_path, "--set", "logging.access=true") as served:
        async with crowd(served, 1) as (one,):
            forged = "/x%0A2026-01-01%2000:00:00%20ERROR%20forged%0D%1b[2J%e2%80%a8"
            assert await ask(one, forged) == 404
            line = await served.until_logged("GET")
        assert "%0A2026-01-01" in line
        assert not [line for line in served.lines if line.startswith("2026-01-01")]


@pytest.mark.parametrize("left", [False, True])
async def test_no_stranger_writes_a_traceback_into_the_log(tmp_path: Path, left: bool) -> None:  # noqa: FBT001
    """Each made 1.5 kB of log for 80 bytes, and needs no credentials."""
    asked = b"POST /api/execute HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
    asked += b"Expect: 100-continue\r\n\r\n" if left else b"Content-Encoding: gzip\r\n\r\nabc"
    async with serving(tmp_path) as served:
        for _ in range(30):
            with socket.create_connection(("127.0.0.1", served.port)) as client:
                if left:
                    at_once = struct.pack("ii", 1, 0)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
                    client.sendall(asked)
                else:
                    client.sendall(asked.replace(b"Host: a", b"Host: example.org"))
                    assert await asyncio.to_thread(client.recv, 100)
    assert len(served.lines) < 10, served.lines


async def test_the_body_of_a_refused_request_is_not_unpacked(tmp_path: Path) -> None:
    """An endless body is discarded for ten seconds, then the connection is closed."""
    asked = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Encoding: deflate\r\n"
    asked += b"Content-Length: 9999\r\n\r\n" + zlib.compress(b"x" * 1_000_000)[:-1]
    async with serving(tmp_path) as served, crowd(served, 1) as ((reader, writer),):
        writer.write(asked)
        assert b"413" in await asyncio.wait_for(reader.readline(), 30)
        # aiohttp would wait for the rest.
        await asyncio.wait_for(reader.read(), 8)
