"""`streamer serve --workers N`: several processes that serve one port, as one service."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, TCPConnector

from tests.redisserver import RedisServer
from tests.support import Received, processes_with, received
from tests.test_process import Server, serving, until_gone

WAITS = "echo up; sleep 600"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def alive(pid: int) -> bool:
    """Return whether a process runs: its parent may be gone, and who has it now reaps nothing."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def redis_of(server: Server) -> int:
    (pid,) = (
        pid
        for pid in children(server.process.pid)
        if "redis" in name_of(pid) or "valkey" in name_of(pid)
    )
    return pid


def processes_of(server: Server) -> list[int]:
    """Return the processes that serve."""
    return [pid for pid in children(server.process.pid) if pid != redis_of(server)]


@asynccontextmanager
async def served(folder: Path, *options: str, workers: int = 2) -> AsyncIterator[Server]:
    """Serve with two processes; each request has a connection of its own."""
    async with serving(folder, "--workers", str(workers), *options) as server:
        base = re.search(r"listens on (http://[\d.]+:\d+)", server.listens)
        assert base
        async with ClientSession(base[1], connector=TCPConnector(force_close=True)) as session:
            server.session = session
            yield server


async def metric(server: Server, name: str) -> dict[str, float]:
    """Return the values of a metric by the number of the process."""
    async with server.session.get("/metrics") as answer:
        text = await answer.text()
    found = re.findall(rf'^{name}{{process="(\d+)"[^}}]*}} (\S+)$', text, re.MULTILINE)
    values = dict.fromkeys((process for process, _ in found), 0.0)
    for process, value in found:
        values[process] += float(value)
    return values


async def until_ready(server: Server) -> None:
    async with asyncio.timeout(60):
        while (await server.session.get("/readyz")).status != 200:
            await asyncio.sleep(0.02)


async def until_running(server: Server, count: int) -> None:
    async with asyncio.timeout(30):
        while (await (await server.session.get("/api/queue")).json())["running"] != count:
            await asyncio.sleep(0.02)


async def test_any_process_answers_for_any_job(place: Path) -> None:
    """Each request may come to another process, and so may each part of a stream."""
    async with served(place, "--set", "queue.concurrency=2") as server:
        queue = await (await server.session.get("/api/queue")).json()
        assert queue["capacity"] == 4, "each process runs queue.concurrency"

        async def one(number: int) -> None:
            job_id = await server.submit(f"for i in 1 2 3; do echo {number}.$i; done")
            seen: list[Received] = []
            while not seen or seen[-1].kind != "complete":
                headers = {"Last-Event-ID": str(seen[-1].id)} if seen else {}
                async with server.session.get(f"/api/stream/{job_id}", headers=headers) as stream:
                    assert stream.status == 200
                    async for event in received(stream):
                        seen.append(event)
                        break
                    stream.close()
            assert [event.id for event in seen] == list(range(1, len(seen) + 1))
            text = "".join(e.data["data"] for e in seen if e.kind == "output")
            assert text == "".join(f"{number}.{i}\n" for i in (1, 2, 3))
            for path in (f"/api/jobs/{job_id}", f"/api/jobs/{job_id}/output/stdout"):
                assert (await server.session.get(path)).status == 200

        await asyncio.gather(*(one(number) for number in range(40)))
        finished = await metric(server, "streamer_jobs_finished_total")
        assert sum(finished.values()) == 40
        assert sorted(finished) == ["1", "2"], "both have run some"


async def test_no_secret_is_where_others_of_the_account_may_look(place: Path) -> None:
    async with served(place) as server:
        for pid in (server.process.pid, *children(server.process.pid)):
            for name in ("cmdline", "environ"):
                assert b"redis+unix" not in Path(f"/proc/{pid}/{name}").read_bytes()
        (folder,) = place.glob("streamer-processes-*")
        assert folder.stat().st_mode & 0o077 == 0


async def test_each_part_of_a_service_may_have_several_processes(
    place: Path, redis: RedisServer
) -> None:
    shared = ("--set", f"engine.url={redis.url()}")
    one_each = (*shared, "--set", "queue.concurrency=1")
    async with (
        served(place, "--role", "worker", *one_each) as workers,
        served(place, "--role", "api", *shared) as api,
    ):
        await until_ready(api)
        await until_ready(workers)
        queue = await (await api.session.get("/api/queue")).json()
        assert queue["capacity"] == 2
        ends = await asyncio.gather(*(runs(api, number) for number in range(6)))
        assert ends == [*range(6)]
        finished = await metric(workers, "streamer_jobs_finished_total")
        assert sum(finished.values()) == 6
        assert len(children(api.process.pid)) == 2, "they need no server of their own"


async def runs(server: Server, code: int) -> int:
    events = await server.events(await server.submit(f"exit {code}"))
    return int(events[-1].data["exitCode"])


async def leaves_a_file(server: Server) -> None:
    """Run a job that leaves a file, and fetch that."""
    job = {"language": "bash", "code": "head -c 300000 /dev/zero > out", "artifacts": ["out"]}
    async with server.session.post("/api/execute", json=job) as answer:
        job_id = (await answer.json())["jobId"]
    assert (await server.events(job_id))[-1].kind == "complete"
    async with server.session.get(f"/api/jobs/{job_id}/files/out") as answer:
        assert (answer.status, len(await answer.read())) == (200, 300_000)


async def test_a_file_that_a_job_has_left_is_on_the_disk_and_to_be_had_anywhere(
    place: Path,
) -> None:
    async with served(place) as server:
        for _ in range(6):
            await leaves_a_file(server)
        (folder,) = place.glob("streamer-processes-*/files")
        assert [file.stat().st_size for file in folder.rglob("*") if file.is_file()].count(
            300_000
        ) == 6
        assert folder.stat().st_mode & 0o077 == 0
        server.process.terminate()
        await asyncio.wait_for(server.process.wait(), 45)
    assert list(place.glob("streamer-*")) == []


async def test_readers_of_one_job_are_listed_wherever_they_are(place: Path) -> None:
    async with served(place) as server:
        job_id = await server.submit(WAITS)
        streams = [await server.session.get(f"/api/stream/{job_id}") for _ in range(20)]
        opened = await metric(server, "streamer_streams_open")
        assert sum(opened.values()) == 20
        for _ in range(5):
            async with server.session.get(f"/api/jobs/{job_id}/sessions") as answer:
                readers = (await answer.json())["sessions"]
            assert len({reader["id"] for reader in readers}) == 20
        for stream in streams:
            stream.close()


async def test_jobs_of_all_processes_have_their_own_users_and_groups(place: Path) -> None:
    """As root each has a user of its own, and where there are control groups one of its own."""
    settings = ("queue.concurrency=2", "sandbox.backend=plain", "sandbox.warm=false")
    options = [part for one in settings for part in ("--set", one)]
    async with served(place, *options) as server:
        code = "echo $(id -u) $(sort /proc/self/cgroup | tr '\\n' ' '); sleep 600"
        jobs = [await server.submit(code) for _ in range(4)]

        async def said(job_id: str) -> str:
            async with server.session.get(f"/api/stream/{job_id}") as stream:
                async for event in received(stream):
                    if event.kind == "output":
                        return str(event.data["data"])
            raise AssertionError("it has said nothing")

        users, groups = zip(
            *(text.split(" ", 1) for text in await asyncio.gather(*map(said, jobs))), strict=True
        )
        assert len(set(users)) == (4 if os.geteuid() == 0 else 1)
        assert len(set(groups)) == (4 if "streamer-" in groups[0] else 1)


async def test_a_signal_drains_all_and_leaves_nothing(place: Path) -> None:
    mark = secrets.token_hex(8)
    settings = ("queue.concurrency=1", "server.drain_s=0.2", "logging.format=json")
    options = [part for one in settings for part in ("--set", one)]
    async with served(place, *options) as server:
        code = f"trap '' TERM; echo up; bash -c 'exec -a {mark} sleep 600' & sleep 600"
        jobs = [await server.submit(code) for _ in range(4)]
        streams = [asyncio.create_task(server.events(job)) for job in jobs for _ in range(2)]
        async with asyncio.timeout(30):
            while len(processes_with(mark)) < 2:  # one at each process, and two wait
                await asyncio.sleep(0.01)
            while sum((await metric(server, "streamer_streams_open")).values()) < len(streams):
                await asyncio.sleep(0.01)
        pids = children(server.process.pid)
        server.process.send_signal(signal.SIGINT)
        for stream in streams:
            events = await asyncio.wait_for(stream, 45)
            assert [e.kind for e in events if e.kind in ("complete", "error")] == ["error"]
            assert events[-1].data["code"] == "shutting_down"
        assert await asyncio.wait_for(server.process.wait(), 45) == 0
        lines = [json.loads(line) for line in (await server.log).decode().splitlines()]
        assert json.loads(server.listens)["process"] == "main"
        assert {line["process"] for line in lines} == {"1", "2"}
        assert {line["level"] for line in lines} == {"info"}, lines
    assert processes_with(mark) == []
    assert list(place.glob("streamer-*")) == []
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


async def test_a_second_signal_hurries_and_one_to_a_process_does_not(place: Path) -> None:
    async with served(place, "--set", "server.drain_s=600") as server:
        job = await server.submit(WAITS)
        stream = asyncio.create_task(server.events(job))
        await until_running(server, 1)
        server.process.terminate()
        async with asyncio.timeout(30):
            while (await server.session.get("/readyz")).status == 200:
                await asyncio.sleep(0.01)
        for pid in processes_of(server):  # as systemd may, which signals the whole group
            os.kill(pid, signal.SIGTERM)
        os.kill(redis_of(server), signal.SIGTERM)
        body = {"language": "bash", "code": "true"}
        async with server.session.post("/api/execute", json=body) as response:
            assert (response.status, (await response.json())["code"]) == (503, "shutting_down")
        await until_running(server, 1)
        assert not stream.done()
        server.process.terminate()
        assert (await asyncio.wait_for(stream, 45))[-1].kind == "error"
        assert await asyncio.wait_for(server.process.wait(), 45) == 0


async def test_nothing_outlives_a_killed_supervisor(place: Path) -> None:
    mark = secrets.token_hex(8)
    async with served(place) as server:
        await server.submit(f"trap '' TERM; (setsid bash -c 'exec -a {mark} sleep 600' &); {WAITS}")
        while not processes_with(mark):
            await asyncio.sleep(0.01)
        pids = children(server.process.pid)
        assert len(pids) == 3
        server.process.kill()
        await server.process.wait()
        async with asyncio.timeout(30):
            while any(map(alive, pids)):
                await asyncio.sleep(0.01)
        await until_gone(mark)
    left = list(place.glob("streamer-*"))
    assert left
    for folder in left:
        os.utime(folder, (0, 0))
    async with served(place):
        assert not [folder for folder in left if folder.exists()]


async def test_a_killed_process_is_replaced_and_its_jobs_end(place: Path) -> None:
    """Readers at the other process do not notice, and no connection that waited is lost."""
    async with served(place, "--set", "queue.concurrency=1") as server:
        jobs = [await server.submit(WAITS) for _ in range(2)]
        await until_running(server, 2)
        victim, other = processes_of(server)
        os.kill(victim, signal.SIGSTOP)
        waiting = [asyncio.create_task(ask(server, "/healthz")) for _ in range(50)]
        os.kill(victim, signal.SIGKILL)
        await until_ready(server)
        assert other in processes_of(server)
        assert victim not in processes_of(server)
        assert await asyncio.gather(*waiting) == [200] * 50
        ends = await first_ended([asyncio.create_task(server.events(job)) for job in jobs])
        assert (ends[-1].kind, ends[-1].data["code"]) == ("error", "worker_lost")
        # The replacement takes jobs: the other has no place.
        assert (await server.events(await server.submit("exit 3")))[-1].data["exitCode"] == 3


async def ask(server: Server, path: str) -> int:
    async with server.session.get(path) as answer:
        return answer.status


async def first_ended(streams: list[asyncio.Task[list[Received]]]) -> list[Received]:
    """Return the events of the first stream that ends, and give up the others."""
    done, others = await asyncio.wait(streams, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    (first,) = done
    return first.result()


async def test_without_its_redis_server_all_is_lost_and_goes_on(place: Path) -> None:
    mark = secrets.token_hex(8)
    async with served(place) as server:
        job = await server.submit(f"echo up; exec -a {mark} sleep 600")
        stream = asyncio.create_task(server.events(job))
        async with asyncio.timeout(30):
            while not processes_with(mark):
                await asyncio.sleep(0.01)
            while not sum((await metric(server, "streamer_streams_open")).values()):
                await asyncio.sleep(0.01)
        old = redis_of(server)
        os.kill(old, signal.SIGKILL)
        events = await asyncio.wait_for(stream, 60)
        assert events[-1].kind == "gap"
        assert (await server.session.get(f"/api/jobs/{job}")).status == 404
        await until_gone(mark)
        await until_ready(server)
        assert redis_of(server) != old
        assert (await server.events(await server.submit("exit 3")))[-1].data["exitCode"] == 3
        await leaves_a_file(server)


CONNECT = """
import os, socket
path = {path!r}
sock = socket.socket(socket.AF_UNIX)
try:
    sock.connect(path)
    sock.sendall(b"PING\\r\\nKEYS *\\r\\n")
    print("connected", sock.recv(100))
except OSError as error:
    print("refused", error)
"""


@pytest.mark.parametrize("backend", ["plain", "bwrap", "firejail"])
async def test_no_job_reaches_the_redis_server(
    place: Path, need: Callable[[str], str], backend: str
) -> None:
    """In plain a job of the same account can connect, and is told nothing without a password."""
    async with served(place, "--sandbox", need(backend)) as server:
        (path,) = place.glob("streamer-processes-*/redis.sock")
        job = {"language": "python", "code": CONNECT.format(path=str(path))}
        async with server.session.post("/api/execute", json=job) as answer:
            job_id = (await answer.json())["jobId"]
        async with server.session.get(f"/api/jobs/{job_id}/output/stdout") as answer:
            told = await answer.text()
        if backend == "plain" and os.geteuid() != 0:
            assert told.startswith("connected b'-NOAUTH"), told
        else:
            assert told.startswith("refused"), told


async def failing(folder: Path, *options: str, path: str | None = None) -> tuple[int, str]:
    """Start the service, which must end by itself; return its code, and what it has said."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamer", "serve", "--port", "0", "--workers", "3"),
        *("--set", f"server.state_dir={folder}", *options),
        cwd=folder,
        env=environ if path is None else {**environ, "PATH": path},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, said.decode()


@pytest.mark.parametrize(
    ("options", "path", "words"),
    [
        (("--set", "server.host=192.0.2.1"), None, "server.host"),
        (("--set", "engine.url=other://x"), None, "engine.url"),
        (("--set", "streams.on_full=wait"), None, "server.workers"),
        (("--sandbox", "nonsense"), None, "nonsense"),
        ((), "/nowhere", "redis-server"),
        # What only shows in a process, of which each finds it.
        (
            ("--sandbox", "bwrap", "--set", "sandbox.bwrap.path=/nowhere/bwrap"),
            None,
            "/nowhere/bwrap",
        ),
        (("--set", 'sandbox.require=["memory:nonsense"]'), None, "sandbox.require"),
    ],
    ids=["address", "engine", "readers", "backend", "server", "sandbox", "limits"],
)
async def test_what_is_wrong_is_said_once(
    place: Path, options: tuple[str, ...], path: str | None, words: str
) -> None:
    code, said = await failing(place, *options, path=path)
    assert code == 2, said
    lines = [line for line in said.splitlines() if words in line]
    assert len(lines) == 1, said
    assert lines[0].startswith("streamer: "), said
    assert list(place.glob("streamer-*")) == []
