"""Run many jobs: at once, one after another, and over connections that break."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import json
import os
import random
import re
import resource
import socket
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

import streamer
from streamer.sandbox.pool import SPARE, Pool
from streamer.sse import EventParser
from streamer.web.app import SESSIONS
from tests.conftest import Start
from tests.support import AnyClient, follow, parts_of, submit, text, verdict


@pytest.mark.slow
async def test_200_jobs_at_once_each_reader_its_own(start: Start) -> None:
    client = await start()
    program = "import sys\nfor n in range(50): print(sys.argv[1] * 20, n)"

    async def one(number: int) -> None:
        name = f"<{number}>"
        job_id = await submit(client, language="python", code=program, args=[name])
        events = await follow(client, job_id)
        assert verdict(events)["exitCode"] == 0
        assert text(events) == "".join(f"{name * 20} {n}\n" for n in range(50))

    await asyncio.gather(*(one(number) for number in range(200)))


GROUP = re.compile(r"^/sys/fs/cgroup/.*/([0-9a-f]{16})/")


def opened() -> Iterator[Path]:
    """Return what the open files of this process are."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the folder itself was one of them
            yield Path(os.readlink(f"/proc/self/fd/{name}"))


def open_files(pool: Pool) -> int:
    """Return the number of open files, without those of templates and groups.

    Both outlive jobs, and there are as many as jobs have had at once.
    """
    groups = sum(path.is_relative_to("/sys/fs/cgroup") for path in opened())
    return len(list(opened())) - groups - len(pool.templates.descriptors)


def groups() -> int:
    """Return the number of control groups that are open, for a sandbox or for the next ones."""
    found = (GROUP.search(str(path)) for path in opened())
    return len({match[1] for match in found if match})


def children(pool: Pool) -> list[int]:
    tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
    found = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    return [pid for pid in found if pid not in pool.templates.pids]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("warm", [False, True])
async def test_1000_jobs_in_a_row_leave_nothing(start: Start, warm: bool) -> None:  # noqa: FBT001
    # Records go at once, so that what grows is what leaks.
    streams = {"grace_s": 0, "retention_s": 0.001}
    client = await start(streams=streams, sandbox={"warm": warm}, queue={"concurrency": 4})
    pool = parts_of(client).worker.pool
    assert pool is not None
    before: tuple[int, list[int], int] | None = None

    async def one(client: AnyClient) -> None:
        job = {"language": "bash", "code": "echo hello"}
        headers = {"Accept": "text/event-stream"}
        async with client.post("/api/execute", json=job, headers=headers) as response:
            assert b'"exitCode":0' in await response.read()

    for number in range(1000):
        await one(client)
        if number == 200:
            gc.collect()
            before = (open_files(pool), children(pool), resident_bytes())
    gc.collect()
    assert before is not None
    files, processes, memory = before
    if warm:  # now and then another number of sandboxes waits for jobs, within a bound
        await pool.close()
        assert open_files(pool) <= files + 2
        assert len(children(pool)) <= len(processes)
    else:
        assert abs(open_files(pool) - files) <= 2  # a connection may be between two requests
        assert children(pool) == processes
    assert groups() <= 4 + SPARE
    assert resident_bytes() - memory < 8 * 1024 * 1024


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_1000_readers_of_one_job_beside_one_that_never_reads(start: Start) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # both ends are in this process
    client = await start(
        streams={"max_readers_per_job": 1001, "heartbeat_s": 600, "write_timeout_s": 600}
    )
    code = """
        import sys
        sys.stdin.readline()
        for number in range(1000):
            print(number, "x" * 90, flush=number % 10 == 0)
        print("y" * 5_000_000)
    """
    job_id = await submit(
        client,
        language="python",
        code=textwrap.dedent(code),
        interactive=True,
        limits={"wallTimeS": 600},
    )
    request = f"GET /api/stream/{job_id} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    expected = hashlib.sha256()
    for number in range(1000):
        expected.update(f"{number} {'x' * 90}\n".encode())
    expected.update(b"y" * 5_000_000 + b"\n")

    async def read(opened: asyncio.Event) -> bytes:
        reader, writer = await asyncio.open_connection(client.host, client.port, limit=2**20)
        writer.write(request)
        await reader.readuntil(b"\r\n\r\n")
        opened.set()
        parser, digest = EventParser(), hashlib.sha256()
        kinds = []
        while size := int(await reader.readline(), 16):
            for _, kind, data in parser.feed(await reader.readexactly(size)):
                kinds.append(kind)
                if kind == "output":
                    digest.update(json.loads(data)["data"].encode())
            await reader.readline()
        writer.close()
        assert kinds[-1] == "complete"
        return digest.digest()

    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect((client.host, client.port))
        stalled.sendall(request)
        opened = [asyncio.Event() for _ in range(1000)]
        readers = [asyncio.create_task(read(event)) for event in opened]
        for event in opened:
            await event.wait()
        async with client.post(f"/api/jobs/{job_id}/stdin?close=1", data=b"go\n") as answer:
            assert answer.status == 202
        digests = await asyncio.gather(*readers)
        assert set(digests) == {expected.digest()}
        (session,) = client.app[SESSIONS].views(job_id)
        assert session.lag > 0, "the stalled one is still where it was"
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class BreakingProxy:
    """A TCP proxy that cuts connections after a random number of bytes."""

    def __init__(self, port: int, seed: int) -> None:
        self._target = port
        self._random = random.Random(seed)
        self.cuts = 0

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)

        async def upstream() -> None:
            while data := await reader.read(65536):
                back.write(data)

        sending = asyncio.create_task(upstream())
        left = self._random.randrange(300, 3000)
        try:
            while left > 0 and (data := await there.read(min(left, 500))):
                left -= len(data)
                writer.write(data)
                await writer.drain()
            self.cuts += left <= 0
        except ConnectionError:
            pass
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            for end in (writer, back):
                end.transport.abort()


async def test_the_client_resumes_by_itself() -> None:
    server = TestServer(streamer.create_app({"streams": {"grace_s": 0.05}}))
    await server.start_server()
    assert server.port is not None
    code = "import time\nfor n in range(300):\n    print(n)\n    time.sleep(0.002)"
    proxy = BreakingProxy(server.port, seed=7)
    events: list[Any] = []
    async with proxy as url, streamer.Client(url) as client:
        events.extend([event async for event in client.run(language="python", code=code)])
    await server.close()
    assert proxy.cuts >= 3
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    printed = "".join(event.data.data for event in events if event.kind == "output")
    assert printed == "".join(f"{n}\n" for n in range(300))


async def test_a_refusal_of_the_service_is_an_exception(start: Start) -> None:
    client = await start()
    async with streamer.Client(str(client.make_url("/"))) as remote:
        with pytest.raises(streamer.client.ServiceProblem, match="unknown language") as caught:
            await remote.submit(language="klingon", code="")
    assert (caught.value.status, caught.value.code, caught.value.path) == (
        400,
        "unknown_language",
        "$.language",
    )
