"""A service in parts: two API nodes, two workers of different languages, one Redis server."""

from __future__ import annotations

import asyncio
import io
import tempfile
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.nodes import Node, node
from tests.redisserver import RedisServer
from tests.support import Received, received, text, verdict
from tests.web import problem, python, until_output

NO_BWRAP = ("sandbox.bwrap.path=/nonexistent/bwrap", "sandbox.firejail.path=/nonexistent/firejail")
"""What makes a host look as if no sandbox were installed."""

ECHO = "import sys\nfor line in sys.stdin: print('got', line, end='', flush=True)"
WAITER = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
os.write(1, b"up\\n")
signal.sigwait([signal.SIGUSR1])
os.write(1, b"signalled\\n")
"""
SIZES = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
os.write(1, b"up\\n")
signal.sigwait([signal.SIGWINCH])
os.write(1, b"%d x %d\\n" % os.get_terminal_size(1))
"""


@dataclass(frozen=True)
class Fleet:
    one: Node
    other: Node
    """An API node of two processes."""
    pythons: Node
    """The worker for Python and C."""
    shells: Node
    """The worker for Bash."""


def started(
    stack: ExitStack, folder: Path, role: str, engine: str, languages: str = "", *more: str
) -> Node:
    """Start a part of the service; a worker takes jobs in these languages, as a TOML array."""
    settings = ("sandbox.backend=bwrap", *more)
    if role == "worker":
        settings = (*settings, f"worker.languages={languages}", "queue.concurrency=4")
    else:
        settings = (*settings, *NO_BWRAP)
    return stack.enter_context(node(folder, role, engine, *settings))


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Return a folder that the users of jobs can pass through."""
    with tempfile.TemporaryDirectory(prefix="streamer-roles-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture(scope="module")
def fleet(redis: RedisServer, place: Path, backend_reasons: dict[str, str]) -> Iterator[Fleet]:
    if backend_reasons["bwrap"]:
        pytest.skip(f"bwrap: {backend_reasons['bwrap']}")
    engine = redis.url()
    with ExitStack() as stack:
        parts = Fleet(
            started(stack, place / "one", "api", engine),
            started(stack, place / "other", "api", engine, "", "server.workers=2"),
            started(stack, place / "pythons", "worker", engine, '["python", "c"]'),
            started(stack, place / "shells", "worker", engine, '["bash"]'),
        )
        # They start beside each other.
        assert all(each.url for each in (parts.one, parts.other, parts.pythons, parts.shells))
        yield parts


@pytest.fixture
async def one(fleet: Fleet) -> AsyncIterator[ClientSession]:
    async with ClientSession(fleet.one.url) as session:
        await until_ready(session, "python", "bash")
        yield session


@pytest.fixture
async def other(fleet: Fleet) -> AsyncIterator[ClientSession]:
    async with ClientSession(fleet.other.url) as session:
        await until_ready(session, "python", "bash")
        yield session


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():
            await asyncio.sleep(0.02)


async def languages_at(session: ClientSession) -> set[str]:
    async with session.get("/api/runtimes") as response:
        assert response.status == 200
        return {one["name"] for one in (await response.json())["runtimes"] if one["available"]}


async def until_ready(session: ClientSession, *languages: str) -> None:
    async def ready() -> bool:
        return {*languages} <= await languages_at(session)

    await until(ready)


async def submit(session: ClientSession, **job: Any) -> str:
    async with session.post("/api/execute", json=job) as response:
        body = await response.json()
        assert response.status == 202, body
        return str(body["jobId"])


async def follow(session: ClientSession, job_id: str, after: int = 0) -> list[Received]:
    headers = {"Last-Event-ID": str(after)} if after else {}
    async with session.get(f"/api/stream/{job_id}", headers=headers) as response:
        assert response.status == 200, await response.text()
        return [event async for event in received(response)]


async def test_each_api_node_serves_each_job_alike(
    one: ClientSession, other: ClientSession
) -> None:
    for first, second, job in (
        (one, other, python("print('hello')\nprint('again')")),
        (other, one, {"language": "bash", "code": "echo hello; echo again"}),
    ):
        job_id = await submit(first, **job)
        whole = await follow(second, job_id)
        assert [event.id for event in whole] == list(range(1, len(whole) + 1))
        assert text(whole) == "hello\nagain\n"
        assert verdict(whole)["exitCode"] == 0
        assert await follow(first, job_id) == whole
        for event in whole[:-1]:
            assert await follow(second, job_id, after=event.id) == whole[event.id :]
        async with first.get(
            f"/api/stream/{job_id}", headers={"Last-Event-ID": str(len(whole))}
        ) as response:
            assert response.status == 204


async def test_an_api_node_tells_what_the_workers_have_and_starts_no_sandbox(
    one: ClientSession, fleet: Fleet
) -> None:
    async with one.get("/api/runtimes") as response:
        runtimes = {each["name"]: each for each in (await response.json())["runtimes"]}
    available = {name for name, each in runtimes.items() if each["available"]}
    assert available == {"python", "c", "bash"}
    assert runtimes["perl"]["reason"] == "no worker that runs it is there at the moment"
    async with one.get("/api/sandboxes") as response:
        sandboxes = await response.json()
    assert sandboxes["default"] == "bwrap"
    bwrap = next(each for each in sandboxes["sandboxes"] if each["name"] == "bwrap")
    assert (bwrap["available"], bwrap["isolation"]) == (True, "namespaces")
    assert bwrap["enforces"]["wallTimeS"] == "timer"
    async with one.get("/api/queue") as response:
        assert (await response.json())["capacity"] == 8
    async with one.get("/readyz") as response:
        assert response.status == 200, await response.text()
    tasks = Path(f"/proc/{fleet.one.process.pid}/task")
    assert [each.read_text() for each in tasks.glob("*/children")].count("") > 0
    assert not any(each.read_text() for each in tasks.glob("*/children"))

    async def said() -> bool:
        async with one.get("/api/runtimes") as response:
            listed = (await response.json())["runtimes"]
        return all(each["version"] for each in listed if each["available"])

    await until(said)


async def test_a_language_that_no_worker_takes_is_refused_with_a_time(one: ClientSession) -> None:
    async with one.post("/api/execute", json={"language": "perl", "code": ""}) as response:
        document = await problem(response, 503, "sandbox_unavailable")
        assert int(response.headers["Retry-After"]) > 0
    assert "no worker that runs perl" in document["detail"]
    async with one.post("/api/execute", json={"language": "klingon", "code": ""}) as response:
        await problem(response, 400, "unknown_language")


async def test_input_comes_from_every_api_node(one: ClientSession, other: ClientSession) -> None:
    job_id = await submit(one, **python(ECHO, interactive=True))
    async with other.get(f"/api/stream/{job_id}") as response:
        events = received(response)
        async with one.post(f"/api/jobs/{job_id}/stdin", data=b"a\n") as answer:
            assert answer.status == 202
        await until_output(events, "got a\n")
        async with other.post(f"/api/jobs/{job_id}/stdin?close=1", data=b"b\n") as answer:
            assert answer.status == 202
        rest = [event async for event in events]
    assert text(rest) == "got b\n"
    assert verdict(rest)["exitCode"] == 0


async def test_a_signal_a_size_and_a_cancellation_reach_the_job(
    one: ClientSession, other: ClientSession
) -> None:
    job_id = await submit(one, **python(WAITER))
    async with one.get(f"/api/stream/{job_id}") as response:
        events = received(response)
        await until_output(events, "up\n")
        async with other.post(f"/api/jobs/{job_id}/signal", json={"signal": "SIGUSR1"}) as answer:
            assert answer.status == 202
        rest = [event async for event in events]
    assert text(rest) == "signalled\n"
    job_id = await submit(one, **python(SIZES, terminal={"cols": 80, "rows": 24}))
    async with one.get(f"/api/stream/{job_id}") as response:
        events = received(response)
        await until_output(events, "up")
        size = {"cols": 100, "rows": 30}
        async with other.post(f"/api/jobs/{job_id}/resize", json=size) as answer:
            assert answer.status == 202
        rest = [event async for event in events]
    assert "100 x 30" in text(rest)
    job_id = await submit(one, language="bash", code="echo up; sleep 600")
    async with one.get(f"/api/stream/{job_id}") as response:
        events = received(response)
        await until_output(events, "up\n")
        async with other.delete(f"/api/jobs/{job_id}") as answer:
            assert answer.status == 202
        rest = [event async for event in events]
    assert verdict(rest)["reason"] == "cancelled"


async def test_stats_come_from_another_process(one: ClientSession, other: ClientSession) -> None:
    job_id = await submit(one, **python(WAITER))
    async with other.get(f"/api/stream/{job_id}?stats=1") as response:
        async for event in received(response):
            if event.kind == "stats":
                assert event.data["memoryBytes"] > 0
                break
        response.close()
    async with one.delete(f"/api/jobs/{job_id}") as answer:
        assert answer.status == 202
    assert verdict(await follow(one, job_id))["reason"] == "cancelled"


async def test_projects_come_and_files_go_at_different_nodes(
    one: ClientSession, other: ClientSession
) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("main.py", "import lib\nopen('out.txt', 'w').write(lib.word)")
        file.writestr("lib.py", "word = 'kept'")
    headers = {"Content-Type": "application/zip"}
    async with one.post("/api/projects", data=archive.getvalue(), headers=headers) as response:
        project = (await response.json())["projectId"]
        assert response.status == 201
    job_id = await submit(other, language="python", projectId=project, artifacts=["*.txt"])
    events = await follow(one, job_id)
    assert [event.data["name"] for event in events if event.kind == "artifact"] == ["out.txt"]
    assert verdict(events)["exitCode"] == 0
    async with one.get(f"/api/jobs/{job_id}/files/out.txt") as response:
        assert await response.text() == "kept"
    async with other.get(f"/api/jobs/{job_id}/files?archive=zip") as response:
        archive = io.BytesIO(await response.read())
    assert zipfile.ZipFile(archive).read("out.txt") == b"kept"


async def test_what_was_compiled_is_found_again(one: ClientSession, other: ClientSession) -> None:
    job = {"language": "c", "code": '#include <stdio.h>\nint main(void) { puts("c"); }'}
    ends = []
    for session in (one, other):
        events = await follow(session, await submit(session, **job))
        assert text(events) == "c\n"
        ends.append(verdict(events).get("cached", False))
    assert ends == [False, True]


async def test_a_session_lives_at_the_worker_that_has_its_language(
    one: ClientSession, other: ClientSession
) -> None:
    async with one.post("/api/sessions", json={"languages": ["bash"]}) as response:
        session = await response.json()
        assert (response.status, session["languages"]) == (201, ["bash"])
    files = session["links"]["files"]
    async with other.put(f"{files}/note", data=b"from outside") as response:
        assert response.status == 200
    job = {
        "language": "bash",
        "code": "cat note; echo more > note",
        "sessionId": session["sessionId"],
    }
    assert text(await follow(one, await submit(other, **job))) == "from outside"
    async with one.get(f"{files}/note") as response:
        assert await response.text() == "more\n"
    body = {"language": "python", "code": "", "sessionId": session["sessionId"]}
    async with one.post("/api/execute", json=body) as response:
        document = await problem(response, 400, "invalid_request")
    assert document["path"] == "$.language"
    async with other.delete(session["links"]["session"]) as response:
        assert response.status == 204
    async with one.post("/api/sessions", json={"languages": ["bash", "python"]}) as response:
        document = await problem(response, 503, "sandbox_unavailable")
    assert "bash and python" in document["detail"]
    # The one with the most languages, if none is asked for.
    async with one.post("/api/sessions") as response:
        session = await response.json()
    assert session["languages"] == ["c", "python"]
    async with one.delete(session["links"]["session"]) as response:
        assert response.status == 204


async def test_a_worker_says_how_it_is_and_nothing_else(fleet: Fleet) -> None:
    async with ClientSession(fleet.shells.url) as worker:
        for path in ("/healthz", "/readyz"):
            async with worker.get(path) as response:
                assert response.status == 200, await response.text()
        async with worker.get("/metrics") as response:
            assert "streamer_jobs_finished_total" in await response.text()
        for method, path in (("GET", "/"), ("GET", "/api/runtimes"), ("POST", "/api/execute")):
            async with worker.request(method, path) as response:
                document = await problem(response, 404, "not_found")
                assert "is a worker" in document["detail"]
    assert "role worker, sandbox bwrap" in fleet.shells.log.read_text()
    assert "role api, at most" in fleet.one.log.read_text()


async def test_a_stopped_worker_ends_its_job_in_time_and_is_forgotten_at_once(
    one: ClientSession, fleet: Fleet, place: Path
) -> None:
    with ExitStack() as stack:
        perl = started(stack, place / "perl", "worker", fleet.one.engine, '["perl"]')
        address = perl.url
        await until_ready(one, "perl")
        code = "$| = 1; print 'up'; my $line = <STDIN>; print $line;"
        job_id = await submit(one, language="perl", code=code, interactive=True)
        async with one.get(f"/api/stream/{job_id}") as response:
            events = received(response)
            await until_output(events, "up")
            perl.process.terminate()

            async def refused() -> bool:
                async with ClientSession(address) as worker, worker.get("/readyz") as ready:
                    return ready.status == 503

            await until(refused)
            async with one.post(f"/api/jobs/{job_id}/stdin?close=1", data=b"down") as answer:
                assert answer.status == 202
            rest = [event async for event in events]
        assert text(rest) == "down"
        assert verdict(rest)["exitCode"] == 0
        assert perl.process.wait(60) == 0
    assert "perl" not in await languages_at(one)


@pytest.mark.thorough
async def test_an_api_node_that_stops_sends_its_readers_to_the_other(
    one: ClientSession, fleet: Fleet, place: Path
) -> None:
    with ExitStack() as stack:
        third = started(stack, place / "third", "api", fleet.one.engine)
        async with ClientSession(third.url) as session:
            await until_ready(session, "python")
            job_id = await submit(session, **python(ECHO, interactive=True))
            seen: list[Received] = []
            async with session.get(f"/api/stream/{job_id}") as response:
                async for event in received(response):
                    if event.data.get("state") == "running":
                        third.process.terminate()
                    seen.append(event)
        assert third.process.wait(60) == 0
    assert seen[-1].data["state"] == "running", "the job goes on"
    async with one.post(f"/api/jobs/{job_id}/stdin?close=1", data=b"x\n") as answer:
        assert answer.status == 202
    rest = await follow(one, job_id, after=seen[-1].id)
    assert rest[0].id == seen[-1].id + 1
    assert text(rest) == "got x\n"


@pytest.mark.thorough
async def test_a_killed_worker_is_noticed_where_no_other_lives(
    redis: RedisServer, place: Path, need: Callable[[str], str]
) -> None:
    need("bwrap")
    engine = redis.url()
    with ExitStack() as stack:
        api = started(stack, place / "lonely", "api", engine)
        async with ClientSession(api.url) as session:
            async with session.get("/readyz") as response:
                assert response.status == 503
                assert not (await response.json())["checks"]["sandbox"]
            async with session.post("/api/execute", json=python("print(1)")) as response:
                document = await problem(response, 503, "sandbox_unavailable")
                assert document["detail"] == "no worker is there at the moment"
                assert int(response.headers["Retry-After"]) > 0
            async with session.post("/api/sessions") as response:
                await problem(response, 503, "sandbox_unavailable")
            worker = started(stack, place / "killed", "worker", engine, '["python"]')
            await until_ready(session, "python")
            job_id = await submit(session, **python(WAITER))
            async with session.get(f"/api/stream/{job_id}") as response:
                events = received(response)
                await until_output(events, "up\n")
                worker.process.kill()
                async with asyncio.timeout(60):
                    rest = [event async for event in events]
            assert verdict(rest)["code"] == "worker_lost"
            assert await languages_at(session) == set()
            async with session.get("/readyz") as response:
                assert response.status == 503
