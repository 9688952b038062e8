"""Measure streams: idle ones, many readers of one job, and one that hardly reads at all.

    python -m benchmarks.streams [idle|fanout|slow] [COUNT]

- idle: COUNT (10000) open streams of one waiting job: memory for each, CPU for their heartbeats.
- fanout: COUNT (1000) readers of one job, one more that never reads; each gets every byte.
- slow: COUNT (1024) MiB of output while one reader takes 1 KB/s: the most memory the service had.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import resource
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import ClientSession

from benchmarks.server import MIB, Server, serving
from streamer.sse import EventParser

SLOTS = "queue.concurrency=4"
NO_LIMITS = ("limits.default.wall_time_s=600", "limits.default.cpu_time_s=600")


async def submit(server: Server, **job: Any) -> str:
    async with (
        ClientSession(server.address) as session,
        session.post("/api/execute", json=job) as response,
    ):
        return str((await response.json())["jobId"])


async def open_stream(
    server: Server, job_id: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"GET /api/stream/{job_id} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def idle(count: int) -> None:
    heartbeat_s = 10.0
    readers = f"streams.max_readers_per_job={count + 1}"
    async with serving(f"streams.heartbeat_s={heartbeat_s}", readers, *NO_LIMITS) as server:
        job_id = await submit(server, language="bash", code="sleep 500")
        before = server.resident_bytes()
        began = time.perf_counter()
        streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        for at in range(0, count, 200):
            batch = range(min(200, count - at))
            streams += await asyncio.gather(*(open_stream(server, job_id) for _ in batch))
        opened_s = time.perf_counter() - began
        for reader, _ in streams:
            await reader.readuntil(b"\n\n")  # the first event is there
        after = server.resident_bytes()
        print(f"{count} streams opened in {opened_s:.1f} s ({count / opened_s:.0f}/s)")
        print(f"memory of the service: {before / MIB:.1f} -> {after / MIB:.1f} MiB, "
              f"{(after - before) / count / 1024:.1f} KiB a stream")  # fmt: skip
        cpu, began = server.cpu_s(), time.perf_counter()
        await asyncio.sleep(3 * heartbeat_s)
        used = (server.cpu_s() - cpu) / (time.perf_counter() - began)
        beats = 0
        for reader, _ in streams:
            reader.feed_eof()
            beats += (await reader.read()).count(b":\n\r\n")
        print(f"heartbeats: {beats} in {3 * heartbeat_s:.0f} s, {100 * used:.1f} % of a processor, "
              f"{1e6 * used * 3 * heartbeat_s / max(beats, 1):.0f} us each")  # fmt: skip
        for _, writer in streams:
            writer.close()


LINES = """
import sys, time
for number in range(2000):
    print(number, "x" * 90, flush=True)
    time.sleep(0.0025)
"""


async def fanout(count: int) -> None:
    readers = f"streams.max_readers_per_job={count + 2}"
    async with serving("streams.grace_s=0", readers, *NO_LIMITS) as server:
        before = server.resident_bytes()

        async def read(job_id: str) -> str:
            reader, writer = await open_stream(server, job_id)
            parser, digest = EventParser(), hashlib.sha256()
            try:
                while size := int(await reader.readline(), 16):
                    for _, kind, data in parser.feed(await reader.readexactly(size)):
                        if kind == "output":
                            digest.update(json.loads(data)["data"].encode())
                    await reader.readline()
            finally:
                writer.close()
            return digest.hexdigest()

        job_id = await submit(server, language="python", code=LINES)
        stalled = socket.socket()
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", server.port))
        stalled.sendall(f"GET /api/stream/{job_id} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        began, cpu = time.perf_counter(), server.cpu_s()
        digests = await asyncio.gather(*(read(job_id) for _ in range(count)))
        lasted = time.perf_counter() - began
        expected = hashlib.sha256(
            "".join(f"{number} {'x' * 90}\n" for number in range(2000)).encode()
        ).hexdigest()
        exact = sum(digest == expected for digest in digests)
        print(f"{exact} of {count} readers got every byte, beside one that never read")
        print(f"in {lasted:.1f} s for a program of 5 s; {server.cpu_s() - cpu:.1f} s of CPU")
        print(f"memory: {before / MIB:.1f} -> {server.peak_bytes() / MIB:.1f} MiB at most")
        stalled.close()


FLOOD = """
import sys
block = ("0123456789abcdef" * 63 + "fedcba98765432\\n") * 64
for _ in range(int(sys.argv[1]) * 16):
    sys.stdout.write(block)
"""
"""64 KiB at a time."""


async def slow(mebibytes: int) -> None:
    kept = 16
    settings = (
        f"streams.retention_bytes={kept * MIB}",
        f"streams.log_memory_bytes={4 * MIB}",
        f"limits.default.output_bytes={mebibytes * MIB}",
        f"limits.max.output_bytes={mebibytes * MIB}",
    )
    async with serving(*settings, *NO_LIMITS) as server:
        job_id = await submit(server, language="python", code="print('warm')")
        async with ClientSession(server.address) as session:
            async with session.get(f"/api/stream/{job_id}") as response:
                await response.read()
            before = server.resident_bytes()
            server.forget_peak()
            began = time.perf_counter()
            args = [str(mebibytes)]
            job_id = await submit(server, language="python", code=FLOOD, args=args)
            reader, writer = await open_stream(server, job_id)
            taken = 0

            async def crawl() -> None:
                nonlocal taken
                while True:
                    taken += len(await reader.read(1024))
                    await asyncio.sleep(1)

            crawling = asyncio.create_task(crawl())
            size = 0
            async with session.get(f"/api/jobs/{job_id}/output/stdout") as response:
                async for chunk in response.content.iter_any():
                    size += len(chunk)
            lasted = time.perf_counter() - began
            crawling.cancel()
            await asyncio.gather(crawling, return_exceptions=True)
            writer.close()
        print(
            f"{size / MIB:.0f} MiB in {lasted:.1f} s to a quick reader, {taken} bytes to a slow one"
        )
        peak = server.peak_bytes()
        print(f"memory of the service: {before / MIB:.1f} MiB before, {peak / MIB:.1f} MiB "
              f"at most; streams.retention_bytes is {kept} MiB")  # fmt: skip


PARTS: dict[str, tuple[Callable[[int], Coroutine[Any, Any, None]], int]] = {
    "idle": (idle, 10_000),
    "fanout": (fanout, 1000),
    "slow": (slow, 1024),
}


def main() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    gc.freeze()
    names = sys.argv[1:2] or list(PARTS)
    for name in names:
        part, count = PARTS[name]
        print(f"== {name}")
        asyncio.run(part(int(sys.argv[2]) if len(sys.argv) > 2 else count))


if __name__ == "__main__":
    main()
