"""A session by the client: a context manager, its jobs and its files; and `streamer session`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

import streamer
from streamer import JobSpec, ServiceProblem
from streamer.errors import StreamerError
from tests.cli.test_commands import command
from tests.conftest import Start


async def printed(session: Any, job: JobSpec | None = None, **fields: Any) -> str:
    events = [event async for event in session.run(job, **fields)]
    return "".join(event.data.data for event in events if event.kind == "output")


async def test_a_session_is_a_context_manager(start: Start, tmp_path: Path) -> None:
    service = await start()
    async with streamer.Client(str(service.make_url("/"))) as client:
        async with client.session(idle_s=60, limits={"disk_bytes": "8MiB"}) as session:
            assert [one["sessionId"] for one in await client.sessions()] == [session.id]
            document = await session.document()
            assert (document["idleS"], document["limits"]["diskBytes"]) == (60, 8 * 2**20)
            await session.write("a b/ä?#%.txt", "text")
            await session.write("bytes", b"\x00\xff")
            (tmp_path / "run.sh").write_text("#!/bin/sh\necho ran")
            with (tmp_path / "run.sh").open("rb") as file:
                await session.write("run.sh", file, mode=0o755)
            assert await session.read("a b/ä?#%.txt") == b"text"
            assert await session.read("bytes") == b"\x00\xff"
            assert await printed(session, command=["./run.sh"]) == "ran\n"
            job = JobSpec(language="python", code="print(open('a b/ä?#%.txt').read())")
            assert await printed(session, job) == "text\n"
            job_id = await session.submit(job)
            async for _ in client.events(job_id):
                pass
            assert (await client.job(job_id))["sessionId"] == session.id
            names = {file["name"]: file["kind"] for file in await session.files()}
            assert names["a b"] == "folder"
            assert names["a b/ä?#%.txt"] == "file"
            await session.remove("bytes")
            with pytest.raises(ServiceProblem) as refusal:
                await session.read("bytes")
            assert refusal.value.status == 404
        with pytest.raises(ServiceProblem) as refusal:
            await session.document()
        assert (refusal.value.status, refusal.value.code) == (410, "gone")
        await session.end()  # without effect
        with pytest.raises(ServiceProblem) as refusal:
            await client.session("x" * len(session.id)).end()
        assert refusal.value.status == 404
        assert await client.sessions() == []


async def test_a_session_by_its_id(start: Start) -> None:
    service = await start()
    async with streamer.Client(str(service.make_url("/"))) as client:
        unopened = client.session()
        with pytest.raises(StreamerError, match="open the session first"):
            await unopened.files()
        document = await unopened.open()
        with pytest.raises(TypeError):
            client.session(document["sessionId"], idle_s=1)
        async with client.session(document["sessionId"]) as session:
            assert await session.files() == []
        with pytest.raises(ServiceProblem):
            await unopened.files()


async def test_the_commands(start: Start, tmp_path: Path) -> None:
    service = await start()
    server = service.server
    assert isinstance(server, TestServer)
    url = ("--url", str(server.make_url("/")))
    (tmp_path / "first.py").write_text("open('note', 'w').write('left')")
    (tmp_path / "second.py").write_text("print(open('note').read())")

    async def run(*arguments: str) -> str:
        done = await asyncio.to_thread(command, tmp_path, *arguments, *url)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    session = (await run("session", "create", "--idle", "60", "--limit", "disk_bytes=8MiB")).strip()
    assert session in await run("session", "list")
    assert await run("run", "-n", "first.py", "--session", session) == ""
    assert await run("run", "-n", "second.py", "--session", session) == "left\n"
    assert "note" in await run("session", "show", session)
    assert '"kind": "file"' in await run("session", "show", "--json", session)
    assert await run("session", "read", session, "note") == "left"
    await run("session", "read", session, "note", "-o", "copies/")
    assert (tmp_path / "copies/note").read_text() == "left"
    (tmp_path / "run.sh").write_text("#!/bin/sh\necho ran")
    await run("session", "write", session, "bin/run", "run.sh", "--mode", "755")
    (tmp_path / "third.sh").write_text("bin/run; cat piped")
    piped = await asyncio.to_thread(
        command, tmp_path, "session", "write", session, "piped", *url, stdin=b"by a pipe"
    )
    assert piped.returncode == 0, piped.stderr
    assert await run("run", "-n", "third.sh", "--session", session) == "ran\nby a pipe"
    await run("session", "remove", session, "note")
    assert "note" not in await run("session", "show", session)
    await run("session", "end", session)
    assert await run("session", "list", "--json") == "[]\n"
    done = await asyncio.to_thread(command, tmp_path, "session", "show", session, *url)
    assert done.returncode == 125
    assert b"the session has ended" in done.stderr
    done = await asyncio.to_thread(command, tmp_path, "run", "first.py", "--session", session)
    assert done.returncode == 2
