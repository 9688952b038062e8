"""What callers make a running service hold, seen from outside: its resident memory.

Each case tries one way in with many times what its bounds allow, and what the process has grown by
afterwards is compared with those bounds. docs/configuration.md ("Memory of the service") names
them and adds them up.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from unittest.mock import ANY

import pytest
from aiohttp import ClientError

from tests.jobs.archives import packed, tar_of
from tests.test_process import Server, serving, state

__all__ = ["state"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MIB: Final = 1024 * 1024

WAITING, RETENTION, BUFFERED, BODIES = 16 * MIB, 16 * MIB, 8 * MIB, 12 * MIB
READERS: Final = 400
ONE_LOG: Final = 2 * MIB
"""log_memory_bytes, and a block on either side of it."""
BOUNDS: Final = {
    "queue.concurrency": 1,
    "queue.max_waiting_bytes": WAITING,
    "streams.retention_bytes": RETENTION,
    "streams.log_memory_bytes": MIB,
    "streams.disk_bytes": 64 * MIB,
    "streams.max_readers": READERS,
    "streams.max_buffered_bytes": BUFFERED,
    "streams.write_timeout_s": 600,
    "server.bodies_bytes": BODIES,
    "projects.max_upload_bytes": 8 * MIB,
    "server.max_body_bytes": 4 * MIB,
}

BASE: Final = 24 * MIB
"""What reading a request takes for the moment, and what the allocator does not give back.

A body of 4 MiB is bytes, text and a job at once; arenas and heaps keep holes (mallopt(3))."""

READER: Final = 48 * 1024
"""An open stream besides what it has to send: its connection, its request, its task. 28 kB measured."""

RUNNING: Final = {"language": "bash", "code": "sleep 600", "limits": {"wallTimeS": 600}}


def resident(server: Server) -> int:
    """Return what the process has in memory (proc(5))."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the service is gone")


async def submitted(server: Server, **job: Any) -> str | None:
    """Submit a job; return None if it is refused for lack of room."""
    key = job.pop("key", None)
    headers = {} if key is None else {"Idempotency-Key": key}
    body = json.dumps({"language": "bash", "code": "true", **job}).encode()
    sent = io.BytesIO(body)  # aiohttp warns of large bytes
    async with server.session.post("/api/execute", data=sent, headers=headers) as response:
        if response.status in (413, 429, 503):
            return None
        assert response.status == 202, await response.text()
        return str((await response.json())["jobId"])


async def occupied(server: Server) -> None:
    """Occupy the only place with a job, so that all others wait."""
    job_id = await submitted(server, **RUNNING)
    async with server.session.get(f"/api/stream/{job_id}") as response:
        async for line in response.content:
            if b'"running"' in line:
                return


async def waiting(server: Server, count: int, **job: Any) -> None:
    await occupied(server)
    accepted = [await submitted(server, **job) for _ in range(count)]
    assert any(accepted)
    assert not all(accepted), "there was room for all of it: the case shows nothing"


async def cancelled(server: Server, count: int, **job: Any) -> None:
    """Leave the records of many jobs that are over; those that wait end at once."""
    await occupied(server)
    for number in range(count):
        job_id = await submitted(server, **job, key=f"{number:0255}")
        assert job_id is not None
        async with server.session.delete(f"/api/jobs/{job_id}") as response:
            assert response.status == 202


async def bodies(server: Server) -> None:
    await waiting(server, 60, stdin="x" * (3 * MIB + 500_000))


async def small_files(server: Server) -> None:
    files = [{"name": f"f{number}", "content": ""} for number in range(9000)]
    await waiting(server, 60, files=[*files, {"name": "main.sh", "content": ""}], code=None)


async def arguments(server: Server) -> None:
    await waiting(server, 150, args=["é" * 100] * 4096)


async def environments(server: Server) -> None:
    await waiting(server, 300, env={f"V{number}": "x" * 900 for number in range(1000)})


async def inboxes(server: Server) -> None:
    await occupied(server)
    taken = []
    for _ in range(150):
        job_id = await submitted(server, interactive=True)
        if job_id is None:
            break
        data = b"x" * 1_000_000
        async with server.session.post(f"/api/jobs/{job_id}/stdin", data=data) as response:
            taken.append(response.status == 202)
    assert any(taken)
    assert not all(taken)


async def records(server: Server) -> None:
    """Leave records that are as large as possible."""
    await cancelled(server, 2500, metadata={f"k{number}": "é" * 120 for number in range(64)})


async def records_of_large_jobs(server: Server) -> None:
    await cancelled(server, 150, args=["x" * 200] * 4096)


async def flood(server: Server, size: int = 3_000_000) -> str:
    job_id = await submitted(server, code=f"head -c {size} /dev/zero")
    assert job_id is not None
    async with server.session.get(f"/api/stream/{job_id}") as response:
        async for _ in response.content.iter_any():
            pass
    return job_id


async def logs_read_late(server: Server) -> None:
    """Each NUL takes six bytes in a log, and each log is read again when it is on disk."""
    job_ids = [await flood(server, 1_500_000) for _ in range(30)]
    for job_id in job_ids:
        for target in (f"/api/stream/{job_id}", f"/api/jobs/{job_id}"):
            async with server.session.get(target) as response:
                async for _ in response.content.iter_any():
                    pass


def stalled(server: Server, target: str, stack: contextlib.ExitStack) -> None:
    host, port = server.session._base_url.host, server.session._base_url.port  # type: ignore[union-attr]
    sock = stack.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((host, port))
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())


def slow_readers(target: str) -> Callable[[Server], Awaitable[None]]:
    async def read_slowly(server: Server) -> None:
        job_id = await flood(server)
        with contextlib.ExitStack() as stack:
            for number in range(READERS):
                stalled(server, target.format(job_id=job_id), stack)
                if number % 10 == 0:
                    await buffered(server)
                    await measured(server)
            # Each takes what the kernel takes for its client, and stalls only then.
            before, same = (0, 0), 0
            async with asyncio.timeout(120):
                while same < 20:
                    now = await buffered(server)
                    await measured(server)
                    same = same + 1 if now == before and any(now) else 0
                    before = now
                    await asyncio.sleep(0.05)

    return read_slowly


async def buffered(server: Server) -> tuple[int, int]:
    """Return what clients have yet to take, and how many were cut."""
    async with server.session.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return int(values["streamer_buffered_bytes"]), int(values["streamer_clients_cut_total"])


async def idle_readers(server: Server) -> None:
    await occupied(server)
    job_id = await submitted(server)
    with contextlib.ExitStack() as stack:
        for _ in range(2 * READERS):
            stalled(server, f"/api/stream/{job_id}", stack)
        async with asyncio.timeout(60):
            while True:
                async with server.session.get("/healthz") as response:
                    if json.loads(await response.text())["streams"] == READERS:
                        break
        await measured(server)


async def readers_of_forgotten_logs(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(25):
            job_id = await flood(server, 1_500_000)
            stalled(server, f"/api/stream/{job_id}", stack)
        await measured(server)


peaks: dict[int, int] = {}


async def uploads(server: Server) -> None:
    """Send more than may be sent, many at a time."""

    async def zeros() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield bytes(64 * 1024)

    async def upload() -> int:
        try:
            async with server.session.post("/api/projects", data=zeros()) as response:
                return response.status
        except ClientError:  # it was refused while it was still being sent
            return 413

    assert {*await asyncio.gather(*(upload() for _ in range(60)))} <= {413, 429}


async def lists_of_projects(server: Server) -> None:
    """Upload projects of which the names alone are megabytes, and use them again."""
    folder = "/".join(["x" * 200] * 4)
    files = [(f"{folder}/{number}", b"") for number in range(4000)]
    archive = packed("gz", tar_of([("main.sh", b"true"), *files]))
    for _ in range(16):
        async with server.session.post("/api/projects", data=io.BytesIO(archive)) as response:
            document = await response.json()
        job = {"language": "bash", "projectId": document["projectId"], "entry": "none.sh"}
        async with server.session.post("/api/execute", json=job) as response:
            assert (await response.json())["path"] == "$.entry"


async def measured(server: Server) -> None:
    """Record the memory of the process while connections are still open."""
    pid = server.process.pid
    peaks[pid] = max(peaks.get(pid, 0), resident(server))


UPLOADS: Final = (8 * 4 + 16 + 16) * MIB
"""projects.max_uploads, and the lists of files and decompressors that docs/configuration.md names."""

LISTS: Final = 32 * MIB
"""Those that are kept, and one that is being made and sent."""

SLOW: Final = BUFFERED + ONE_LOG + READERS * READER

CASES: Final[dict[Callable[[Server], Awaitable[None]], tuple[str, int]]] = {
    bodies: ("bodies", WAITING + BODIES),
    small_files: ("small files", WAITING + BODIES),
    arguments: ("arguments", WAITING + BODIES),
    environments: ("environments", WAITING + BODIES),
    inboxes: ("inboxes", WAITING + BODIES),
    records: ("records", RETENTION),
    records_of_large_jobs: ("records of large jobs", RETENTION),
    logs_read_late: ("logs read late", RETENTION),
    idle_readers: ("idle readers", READERS * READER),
    readers_of_forgotten_logs: ("readers of forgotten logs", RETENTION + BUFFERED + READER * 25),
    uploads: ("uploads", UPLOADS),
    lists_of_projects: ("lists of projects", LISTS),
    slow_readers("/api/stream/{job_id}"): ("slow streams", SLOW),
    slow_readers("/api/stream/{job_id}?speed=0.001"): ("slow replays", SLOW),
    slow_readers("/api/jobs/{job_id}/output/stdout"): ("slow outputs", SLOW),
    slow_readers("/api/jobs/{job_id}/cast"): ("slow recordings", SLOW),
    slow_readers("/api/jobs/{job_id}"): ("slow records", SLOW),
}


@pytest.mark.parametrize(
    ("attack", "bound"),
    [pytest.param(attack, bound, id=name) for attack, (name, bound) in CASES.items()],
)
async def test_it_holds_no_more_than_its_bounds_name(
    state: Path,
    attack: Callable[[Server], Awaitable[None]],
    bound: int,
) -> None:
    options = [part for key, value in BOUNDS.items() for part in ("--set", f"{key}={value}")]
    async with serving(state, *options) as server:
        await flood(server, 1000)  # what is made once
        before = resident(server)
        await attack(server)
        await measured(server)
        grown = peaks.pop(server.process.pid) - before
        assert grown <= bound + BASE, f"grown by {grown / MIB:.1f} MiB"
        assert server.process.returncode is None


@pytest.mark.thorough
async def test_an_upload_of_two_gigabytes_is_refused_at_its_limit_with_memory_flat(
    state: Path,
) -> None:
    most, piece = 2048 * MIB, bytes(256 * 1024)
    archive = tarfile.TarInfo("zeros")
    archive.size = 2 * most
    bounds = {
        "projects.max_upload_bytes": most,
        "projects.max_bytes": 4 * most,
        "engine.blob_bytes": 4 * most,
        "engine.blob_bytes_per_client": 4 * most,
    }
    options = [part for key, value in bounds.items() for part in ("--set", f"{key}={value}")]
    sent = 0
    async with serving(state, *options) as server:

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            yield archive.tobuf()
            while True:
                yield piece
                sent += len(piece)
                if sent % (64 * MIB) == 0:
                    await measured(server)

        async with server.session.post("/api/projects", data=piece) as response:
            assert response.status == 400  # no archive; what is made once is made
        before = resident(server)
        async with server.session.post("/api/projects", data=endless()) as response:
            assert (response.status, await response.json()) == (413, ANY)
        assert most - 64 * MIB < sent < most + 64 * MIB
        grown = peaks.pop(server.process.pid) - before
        assert grown <= BASE, f"grown by {grown / MIB:.1f} MiB"
        async with server.session.get("/metrics") as response:
            assert "\nstreamer_blob_bytes 0\n" in await response.text()
