"""Sessions over HTTP: jobs that share a workspace, its files, its end; and what is refused."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientResponse

from tests.conftest import Start
from tests.jobs.archives import zip_of
from tests.support import AnyClient, follow, parts_of, run, submit, text, until_stored, verdict
from tests.web import problem, until_state

TOKENS = {
    "tokens": [
        {"tenant": name, "sha256": hashlib.sha256(name.encode()).hexdigest()}
        for name in ("alice", "bob")
    ]
}
ALICE = {"Authorization": "Bearer alice"}
BOB = {"Authorization": "Bearer bob"}


async def opened(client: AnyClient, headers: Any = None, **fields: Any) -> str:
    """Open a session and return the path of its document."""
    async with client.post("/api/sessions", json=fields, headers=headers) as response:
        document = await response.json()
        assert response.status == 201, document
        path = f"/api/sessions/{document['sessionId']}"
        assert response.headers["Location"] == path
        assert document["links"] == {"session": path, "files": f"{path}/files"}
        return path


def id_of(path: str) -> str:
    return path.rpartition("/")[2]


async def python(client: AnyClient, path: str, code: str, **job: Any) -> str:
    """Run a program of Python in a session and return what it has printed."""
    events = await run(client, language="python", code=code, sessionId=id_of(path), **job)
    assert verdict(events).get("exitCode") == 0, events
    return text(events)


async def put(client: AnyClient, path: str, data: Any, **how: Any) -> dict[str, Any]:
    async with client.put(path, data=data, **how) as response:
        document: dict[str, Any] = await response.json()
        assert response.status == 200, document
        return document


async def got(client: AnyClient, path: str) -> bytes:
    async with client.get(path) as response:
        assert response.status == 200, await response.text()
        return await response.read()


def same_of(response: ClientResponse) -> dict[str, str]:
    """Return the headers that are the same whatever the method of a request is."""
    return {
        name: value
        for name, value in response.headers.items()
        if name not in ("Date", "X-Request-Id")
    }


async def names(client: AnyClient, path: str) -> dict[str, tuple[str, int]]:
    async with client.get(f"{path}/files") as response:
        document = await response.json()
        assert response.status == 200, document
        assert document["complete"]
        return {one["name"]: (one["kind"], one["bytes"]) for one in document["files"]}


async def ended(client: AnyClient, path: str) -> str:
    """Wait for the end of a session, and return what the service says of it."""
    while True:
        async with client.get(path) as response:
            if response.status != 200:
                return str((await problem(response, 410, "gone"))["detail"])
        await asyncio.sleep(0.01)


async def test_a_session_says_whether_it_keeps_processes(start: Start) -> None:
    client = await start()
    for kept in (False, True):
        async with client.post("/api/sessions", json={"keepProcesses": kept}) as response:
            document = await response.json()
            if kept and response.status == 400:
                pytest.skip("needs control groups")
            assert document["keepProcesses"] is kept
        async with client.get(document["links"]["session"]) as response:
            assert (await response.json())["keepProcesses"] is kept


async def test_the_life_of_a_session(start: Start) -> None:
    client = await start()
    path = await opened(client, metadata={"k": "v"}, idleS=30)
    async with client.get(path) as response:
        document = await response.json()
    assert document["status"] == "idle"
    assert document["metadata"] == {"k": "v"}
    assert document["idleS"] == 30
    assert document["environment"] is None
    async with client.get("/api/sessions") as response:
        listed = (await response.json())["sessions"]
    assert [one["sessionId"] for one in listed] == [document["sessionId"]]
    await python(client, path, "open('note', 'w').write('left')")
    assert await python(client, path, "print(open('note').read())") == "left\n"
    job_id = await submit(client, language="bash", code="pwd; ls", sessionId=id_of(path))
    assert "note\n" in text(await follow(client, job_id))
    async with client.get(f"/api/jobs/{job_id}") as response:
        assert (await response.json())["sessionId"] == document["sessionId"]
    async with client.delete(path) as response:
        assert (response.status, await response.read()) == (204, b"")
    for method in (client.get, client.delete):
        async with method(path) as response:
            assert "ended by a request" in (await problem(response, 410, "gone"))["detail"]
    body = {"language": "python", "code": "", "sessionId": id_of(path)}
    async with client.post("/api/execute", json=body) as response:
        assert (await problem(response, 410, "gone"))["path"] == "$.sessionId"
    async with client.get("/api/sessions") as response:
        assert await response.json() == {"sessions": []}


async def test_without_a_body_a_session_is_as_configured(start: Start) -> None:
    client = await start(sessions={"idle_s": 7.0})
    async with client.post("/api/sessions") as response:
        assert response.status == 201
        assert (await response.json())["idleS"] == 7.0


async def test_files_go_in_and_out(start: Start) -> None:
    client = await start()
    path = await opened(client)
    assert await put(client, f"{path}/files/a/b/in.txt", b"hello") == {
        "name": "a/b/in.txt",
        "bytes": 5,
    }
    assert await names(client, path) == {
        "a": ("folder", 0),
        "a/b": ("folder", 0),
        "a/b/in.txt": ("file", 5),
    }
    code = "text = open('a/b/in.txt').read(); open('out', 'w').write(text.upper()); print(text)"
    assert await python(client, path, code) == "hello\n"
    assert await got(client, f"{path}/files/out") == b"HELLO"
    await put(client, f"{path}/files/a/b/in.txt", b"x")  # shorter than before
    assert await got(client, f"{path}/files/a/b/in.txt") == b"x"
    await put(client, f"{path}/files/empty", b"")
    assert await got(client, f"{path}/files/empty") == b""
    async with client.delete(f"{path}/files/a/b") as response:
        assert "not empty" in (await problem(response, 409, "conflict"))["detail"]
    for name in ("a/b/in.txt", "a/b"):
        async with client.delete(f"{path}/files/{name}") as response:
            assert response.status == 204
    async with client.delete(f"{path}/files/a/b") as response:
        await problem(response, 404, "not_found")
    for name in ("none", "none/x"):
        async with client.get(f"{path}/files/{name}") as response:
            await problem(response, 404, "not_found")
    await until_stored(parts_of(client).engine.blobs, 0)


async def test_a_written_file_can_be_executable(start: Start) -> None:
    client = await start()
    path = await opened(client)
    await put(client, f"{path}/files/run.sh", b"#!/bin/sh\necho ran", params={"mode": "755"})
    events = await run(client, command=["./run.sh"], sessionId=id_of(path))
    assert text(events) == "ran\n"
    async with client.put(f"{path}/files/x", data=b"", params={"mode": "4755"}) as response:
        assert (await problem(response, 400, "invalid_request"))["path"] == "?mode"


async def test_a_file_is_streamed_in_and_out(start: Start) -> None:
    client = await start()
    path = await opened(client)
    piece = bytes(range(256)) * 256

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield piece

    await put(client, f"{path}/files/large", pieces())
    assert await got(client, f"{path}/files/large") == piece * 64
    code = "import hashlib; print(hashlib.sha256(open('large', 'rb').read()).hexdigest())"
    assert await python(client, path, code) == hashlib.sha256(piece * 64).hexdigest() + "\n"


@pytest.mark.parametrize(
    ("asked", "status", "body", "told"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=8-", 206, b"89", "bytes 8-9/10"),
        ("bytes=8-100", 206, b"89", "bytes 8-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-30", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=3-2", 200, b"0123456789", None),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
async def test_parts_of_a_file(
    start: Start, asked: str, status: int, body: bytes | None, told: str | None
) -> None:
    client = await start()
    path = f"{await opened(client)}/files/digits"
    await put(client, path, b"0123456789")
    async with client.get(path, headers={"Range": asked}) as response:
        assert response.headers.get("Content-Range") == told
        if body is None:
            await problem(response, status, "range_not_satisfiable")
        else:
            assert (response.status, await response.read()) == (status, body)
            assert response.headers["Content-Length"] == str(len(body))
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Content-Disposition"].startswith("attachment; ")
        headers = same_of(response)
    async with client.head(path, headers={"Range": asked}) as response:
        assert (response.status, await response.read()) == (status, b"")
        assert same_of(response) == headers
    await until_stored(parts_of(client).engine.blobs, 0)


async def test_the_head_of_a_file_says_what_a_request_for_it_would(start: Start) -> None:
    client = await start()
    path = f"{await opened(client)}/files/x"
    await put(client, path, b"0123456789")
    tag = (await client.head(path)).headers["ETag"]
    for name, headers in (("x", {}), ("x", {"If-None-Match": tag}), ("none", {})):
        path = f"{path.rpartition('/')[0]}/{name}"
        answers = [
            await client.request(method, path, headers=headers) for method in ("GET", "HEAD")
        ]
        assert answers[0].status == answers[1].status
        assert same_of(answers[0]) == same_of(answers[1])


async def test_the_tag_of_a_file_is_that_of_all_that_was_done(start: Start) -> None:
    client = await start()
    session = await opened(client)
    path = f"{session}/files/digits"
    await put(client, path, b"0123456789")
    tags = set()
    changes: dict[str, Callable[[], Awaitable[object]]] = {
        "a job": lambda: python(client, session, "open('other', 'w').close()"),
        "a file": lambda: put(client, f"{session}/files/another", b""),
        "nothing": lambda: got(client, path),
    }
    for what, change in changes.items():
        async with client.get(path, headers={"Range": "bytes=0-3"}) as response:
            tag = response.headers["ETag"]
        await change()
        tags.add(tag)
        same = what == "nothing"
        goes_on = {"Range": "bytes=4-", "If-Range": tag}
        async with client.get(path, headers=goes_on) as response:
            assert await response.read() == (b"456789" if same else b"0123456789")
            assert response.status == (206 if same else 200)
            assert (response.headers["ETag"] == tag) == same
        for known in (tag, f'"x", W/{tag}'):
            async with client.get(path, headers={"If-None-Match": known}) as response:
                assert response.status == (304 if same else 200)
                assert (response.headers["ETag"] == tag) == same
    assert len(tags) == 3
    for other in ('"x"', f"W/{tag}", "Sat, 28 Nov 2026 12:00:00 GMT"):
        headers = {"Range": "bytes=0-1", "If-Range": other}
        async with client.get(path, headers=headers) as response:
            assert (response.status, await response.read()) == (200, b"0123456789")
    async with client.get(path, headers={"If-None-Match": "*"}) as response:
        assert response.status == 304
    async with client.delete(path) as response:
        assert response.status == 204
    async with client.get(path, headers={"If-None-Match": "*"}) as response:
        await problem(response, 404, "not_found")
    await until_stored(parts_of(client).engine.blobs, 0)


async def test_what_jobs_leave_that_is_no_file_is_not_read(start: Start) -> None:
    client = await start()
    path = await opened(client)
    code = """if True:
        import os, socket
        os.symlink('/etc/passwd', 'link')
        os.symlink('/etc', 'away')
        os.symlink('..', 'up')
        os.mkfifo('pipe')
        socket.socket(socket.AF_UNIX).bind('socket')
        os.mkdir('folder')
        open('secret', 'w').close(); os.chmod('secret', 0)
        os.mkdir('closed'); open('closed/x', 'w').close(); os.chmod('closed', 0)
        open(b'\\xff', 'w').close()
    """
    await python(client, path, code)
    for name in ("link", "away/passwd", "up/up", "pipe", "socket", "folder"):
        async with client.get(f"{path}/files/{name}") as response:
            await problem(response, 409, "conflict")
        async with client.put(f"{path}/files/{name}", data=b"x") as response:
            await problem(response, 409, "conflict")
    async with client.get(f"{path}/files") as response:
        listed = await response.json()
    kinds = {one["name"]: one["kind"] for one in listed["files"]}
    assert kinds["link"] == kinds["away"] == "link"
    assert kinds["pipe"] == kinds["socket"] == "other"
    assert not listed["complete"]  # a name is not UTF-8
    for name in ("link", "away", "pipe", "folder"):  # themselves, not what they lead to
        async with client.delete(f"{path}/files/{name}") as response:
            assert response.status == 204
    async with client.delete(f"{path}/files/up/x") as response:
        await problem(response, 409, "conflict")


async def test_a_list_of_files_has_bounds(start: Start) -> None:
    client = await start()
    path = await opened(client)
    code = """if True:
        import os
        folder = '/'.join(['x' * 240] * 4)
        os.makedirs(folder)
        for number in range(2000):
            open(f'{folder}/{number:240}', 'w').close()
    """
    await python(client, path, code)
    async with client.get(f"{path}/files") as response:
        listed = await response.json()
    assert not listed["complete"]
    sizes = [len(one["name"]) for one in listed["files"]]
    assert 2**20 - max(sizes) < sum(sizes) <= 2**20


async def test_a_workspace_that_a_job_has_closed_is_a_conflict(start: Start) -> None:
    client = await start()
    path = await opened(client)
    await python(client, path, "import os; os.chmod('.', 0)")
    async with client.get(f"{path}/files") as response:
        said = await problem(response, 409, "conflict")
    assert "inaccessible" in said["detail"]
    for method in ("GET", "PUT", "DELETE"):
        async with client.session.request(
            method, client.make_url(f"{path}/files/main.py")
        ) as response:
            await problem(response, 409, "conflict")


@pytest.mark.parametrize(
    "name",
    ["%2e%2e/x", "a/%2e%2e/%2e%2e/x", "%2fetc%2fpasswd", "a%00b", "a%5cb", "a//b", "x" * 256],
)
async def test_names_are_checked(start: Start, name: str) -> None:
    from yarl import URL

    client = await start()
    path = await opened(client)
    url = URL(f"{client.make_url(path)}/files/{name}", encoded=True)
    for method in ("GET", "PUT", "DELETE"):
        async with client.session.request(method, url) as response:
            assert response.status in (400, 404), await response.text()
            if response.status == 400:
                await problem(response, 400, "invalid_request")


async def test_large_files_are_refused(start: Start) -> None:
    client = await start(sessions={"max_file_bytes": 1000})
    path = await opened(client)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield bytes(100)

    for data in (bytes(1001), pieces()):
        async with client.put(f"{path}/files/x", data=data) as response:
            await problem(response, 413, "payload_too_large")
    await put(client, f"{path}/files/x", bytes(1000))
    await python(client, path, "open('big', 'wb').write(bytes(1001))")
    async with client.get(f"{path}/files/big") as response:
        await problem(response, 413, "payload_too_large")
    async with client.get(f"{path}/files/big", headers={"Range": "bytes=500-1000"}) as response:
        assert (response.status, len(await response.read())) == (206, 501)
    await until_stored(parts_of(client).engine.blobs, 0)


async def test_a_compressed_file_is_refused(start: Start) -> None:
    client = await start()
    path = await opened(client)
    headers = {"Content-Encoding": "gzip"}
    data = gzip.compress(b"x")
    async with client.put(f"{path}/files/x", data=data, headers=headers) as response:
        await problem(response, 400, "invalid_request")
    assert await names(client, path) == {}


async def test_few_files_are_received_at_a_time(start: Start) -> None:
    client = await start()
    path = await opened(client)
    arriving, sent = asyncio.Semaphore(0), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"x"
        arriving.release()
        await sent.wait()

    first = [asyncio.create_task(put(client, f"{path}/files/{n}", slowly())) for n in range(2)]
    for _ in first:
        await arriving.acquire()
    while parts_of(client).jobs.sessions._arriving[id_of(path)] < 2:
        await asyncio.sleep(0.01)
    async with client.put(f"{path}/files/x", data=b"x") as response:
        await problem(response, 429, "rate_limited")
    sent.set()
    await asyncio.gather(*first)
    await put(client, f"{path}/files/x", b"x")
    assert not parts_of(client).jobs.sessions._arriving


async def test_a_full_workspace_takes_no_file(start: Start) -> None:
    client = await start()
    path = await opened(client, limits={"diskBytes": "1MiB"})
    async with client.put(f"{path}/files/x", data=io.BytesIO(bytes(2 * 1024 * 1024))) as response:
        await problem(response, 413, "payload_too_large")
    await put(client, f"{path}/files/x", bytes(1000))
    assert await names(client, path) == {"x": ("file", 1000)}


async def test_files_may_be_more_than_the_memory_of_a_job(start: Start) -> None:
    client = await start()
    path = await opened(client, limits={"memoryBytes": "48MiB", "diskBytes": "160MiB"})
    await python(client, path, "print(1)")  # from now on its group has limits
    for name in "abc":
        await put(client, f"{path}/files/{name}", io.BytesIO(bytes(48 * 1024 * 1024)))
    # Without control groups the init has to look first.
    waits = "import time; time.sleep(60)"
    events = await run(client, language="python", code=waits, sessionId=id_of(path))
    assert verdict(events)["reason"] == "memory"
    for name in "abc":
        async with client.delete(f"{path}/files/{name}") as response:
            assert response.status == 204
    assert await python(client, path, "print(1)") == "1\n"


async def test_files_wait_for_no_job(start: Start) -> None:
    client = await start()
    path = await opened(client)
    job_id = await submit(
        client, language="python", code="input()", interactive=True, sessionId=id_of(path)
    )
    await until_state(client, job_id, "running")
    async with client.get(path) as response:
        assert (await response.json())["status"] == "running"
    for method, at in (
        ("GET", "/files"),
        ("GET", "/files/main.py"),
        ("PUT", "/files/x"),
        ("DELETE", "/files/main.py"),
    ):
        async with client.request(method, f"{path}{at}") as response:
            await problem(response, 409, "conflict")
    async with client.post(f"/api/jobs/{job_id}/stdin?close=1", data=b"\n"):
        pass
    assert verdict(await follow(client, job_id))["exitCode"] == 0
    while not await _is_idle(client, path):
        pass
    assert await got(client, f"{path}/files/main.py") == b"input()"


async def _is_idle(client: AnyClient, path: str) -> bool:
    async with client.get(f"{path}/files") as response:
        return response.status == 200


async def test_jobs_of_a_session_run_in_their_order(start: Start) -> None:
    client = await start()
    path = await opened(client)
    code = "open('log', 'a').write('{}'); print(open('log').read())"
    jobs = [
        await submit(client, language="python", code=code.format(n), sessionId=id_of(path))
        for n in range(4)
    ]
    assert [text(await follow(client, job)) for job in jobs] == ["0\n", "01\n", "012\n", "0123\n"]


async def test_no_process_outlives_its_job(start: Start) -> None:
    client = await start()
    path = await opened(client)
    code = """if True:
        import subprocess, sys
        subprocess.Popen([sys.executable, '-c', '''if True:
            import time
            while True:
                open('alive', 'a').write('x')
                time.sleep(0.001)
        '''], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        import os
        while not os.path.exists('alive'): pass
    """
    await python(client, path, code)
    size = len(await got(client, f"{path}/files/alive"))
    look = "import os; print([p for p in os.listdir('/proc') if p.isdigit() and int(p) > 1 and int(p) != os.getpid()])"
    await python(client, path, look)
    assert len(await got(client, f"{path}/files/alive")) == size


async def test_the_end_of_a_session_cancels_its_jobs(start: Start) -> None:
    client = await start()
    path = await opened(client)
    runs = await submit(
        client, language="python", code="input()", interactive=True, sessionId=id_of(path)
    )
    waits = await submit(client, language="python", code="print(1)", sessionId=id_of(path))
    await until_state(client, runs, "running")
    async with client.delete(path) as response:
        assert response.status == 204
    for job_id in (runs, waits):
        assert verdict(await follow(client, job_id))["reason"] == "cancelled"
    sessions = parts_of(client).worker.sessions
    while len(sessions):
        await asyncio.sleep(0.01)


async def test_a_project_has_to_fit_into_the_workspace(start: Start) -> None:
    client = await start()
    files = zip_of([(f"{number}", b"x") for number in range(400)])
    async with client.post(
        "/api/projects", data=files, headers={"Content-Type": "application/zip"}
    ) as response:
        project = (await response.json())["projectId"]
    asked = {"projectId": project, "limits": {"diskBytes": "256KiB"}}
    async with client.post("/api/sessions", json=asked) as response:
        said = await problem(response, 400, "invalid_request")
    assert said["path"] == "$.projectId"
    assert "diskBytes" in said["detail"]
    assert (await parts_of(client).engine.stats()).sessions == 0
    await opened(client, projectId=project, limits={"diskBytes": "8MiB"})


async def test_a_job_may_be_of_what_is_there(start: Start) -> None:
    client = await start()
    project = b""
    async with client.post(
        "/api/projects",
        data=zip_of([("main.py", b"import lib; print(lib.x)"), ("lib.py", b"x = 7")]),
    ) as response:
        project = (await response.json())["projectId"]
    path = await opened(client, projectId=project)
    async with client.delete(f"/api/projects/{project}"):
        pass
    for _ in range(2):
        assert text(await run(client, language="python", sessionId=id_of(path))) == "7\n"
    await put(client, f"{path}/files/lib.py", b"x = 8")
    assert text(await run(client, language="python", sessionId=id_of(path))) == "8\n"


async def test_the_files_that_a_job_asks_for_outlive_its_session(start: Start) -> None:
    client = await start()
    path = await opened(client)
    await python(client, path, "open('first', 'w').write('1')")
    code = "open('first', 'a').write('2'); open('second', 'w').write('3')"
    asked = ["first", "sec*", "none"]
    job_id = await submit(
        client, language="python", code=code, sessionId=id_of(path), artifacts=asked
    )
    events = await follow(client, job_id)
    told = [event.data for event in events if event.kind == "artifact"]
    assert [file["name"] for file in told] == ["first", "second"]
    assert verdict(events)["artifactsFailed"] == [{"reason": "no_match", "name": "none"}]
    assert await names(client, path) == {
        "first": ("file", 2),
        "main.py": ("file", len(code)),
        "second": ("file", 1),
    }
    async with client.delete(path) as response:
        assert response.status == 204
    assert [await got(client, file["url"]) for file in told] == [b"12", b"3"]


async def test_a_cancelled_job_of_a_session_leaves_its_files(start: Start) -> None:
    client = await start()
    path = await opened(client)
    job_id = await submit(
        client,
        language="python",
        code="open('a', 'w').close(); print('made', flush=True); input()",
        interactive=True,
        sessionId=id_of(path),
        artifacts=["a"],
    )
    async with client.get(f"/api/jobs/{job_id}/output/stdout") as response:
        assert await response.content.readline() == b"made\n"
        async with client.delete(path) as ending:
            assert ending.status == 204
    events = await follow(client, job_id)
    assert verdict(events)["reason"] == "cancelled"
    assert [event.data["name"] for event in events if event.kind == "artifact"] == ["a"]


async def test_a_repeated_submission_finds_its_job_though_the_session_has_ended(
    start: Start,
) -> None:
    client = await start()
    path = await opened(client)
    body = {"language": "python", "code": "", "sessionId": id_of(path)}
    key = {"Idempotency-Key": "one"}
    async with client.post("/api/execute", json=body, headers=key) as response:
        first = (await response.json())["jobId"]
    await follow(client, first)
    async with client.delete(path) as response:
        assert response.status == 204
    async with client.post("/api/execute", json=body, headers=key) as response:
        assert (response.status, (await response.json())["jobId"]) == (202, first)
    async with client.post(
        "/api/execute", json=body, headers={"Idempotency-Key": "two"}
    ) as response:
        assert (await problem(response, 410, "gone"))["path"] == "$.sessionId"


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"projectId": "0" * 26}, "$.projectId"),
        ({"sandbox": "plain"}, "$.sandbox"),
        ({"network": True}, "$.network"),
        ({"limits": {"memoryBytes": "65MiB"}}, "$.limits.memoryBytes"),
        ({"limits": {"memoryBytes": 1}}, "$.limits.memoryBytes"),
        ({"limits": {"diskBytes": "1MiB"}}, "$.limits.diskBytes"),
        ({"cases": [{}]}, "$.cases"),
        ({"environment": "none"}, "$.environment"),
    ],
)
async def test_a_job_fits_into_its_session(start: Start, fields: dict[str, Any], path: str) -> None:
    client = await start()
    session = await opened(client, limits={"memoryBytes": "64MiB"})
    body = {"language": "python", "code": "", "sessionId": id_of(session), **fields}
    async with client.post("/api/execute", json=body) as response:
        document = await response.json()
        assert (response.status, document["path"]) == (400, path)


@pytest.mark.parametrize(
    ("fields", "status", "path"),
    [
        ({"idleS": 0}, 400, "$.idleS"),
        ({"idleS": 1e9}, 400, "$.idleS"),
        ({"limits": {"memoryBytes": 1}}, 400, "$.limits.memoryBytes"),
        ({"projectId": "none"}, 400, "$.projectId"),
        ({"environment": "none"}, 400, "$.environment"),
        ({"sandbox": "none"}, 400, "$.sandbox"),
        ({"sandbox": "plain"}, 403, "$.sandbox"),
        ({"network": True}, 403, "$.network"),
        ({"metadata": {"k": "v" * 20_000}}, 400, "$.metadata"),
        ({"unknown": 1}, 400, "$.unknown"),
    ],
)
async def test_a_session_is_checked(
    start: Start, fields: dict[str, Any], status: int, path: str
) -> None:
    client = await start()
    async with client.post("/api/sessions", json=fields) as response:
        document = await response.json()
        assert (response.status, document["path"]) == (status, path)


async def test_another_tenants_session_is_unknown(start: Start) -> None:
    client = await start(auth=TOKENS)
    path = await opened(client, ALICE)
    async with client.put(f"{path}/files/x", data=b"x", headers=ALICE) as response:
        assert response.status == 200
    requests = [("GET", path), ("DELETE", path), ("GET", f"{path}/files")]
    requests += [(method, f"{path}/files/x") for method in ("GET", "PUT", "DELETE")]
    for method, at in requests:
        async with client.request(method, at, headers=BOB) as response:
            await problem(response, 404, "not_found")
    body = {"language": "python", "code": "", "sessionId": id_of(path)}
    async with client.post("/api/execute", json=body, headers=BOB) as response:
        assert (await problem(response, 404, "not_found"))["path"] == "$.sessionId"
    async with client.get("/api/sessions", headers=BOB) as response:
        assert (await response.json())["sessions"] == []
    async with client.delete(path, headers=ALICE) as response:
        assert response.status == 204
    async with client.get(path, headers=BOB) as response:  # nor that it was there
        await problem(response, 404, "not_found")
    async with client.get(path, headers=ALICE) as response:
        assert "ended by a request" in (await problem(response, 410, "gone"))["detail"]
    async with client.post("/api/execute", json=body, headers=ALICE) as response:
        assert (await problem(response, 410, "gone"))["path"] == "$.sessionId"


async def test_sessions_have_bounds(start: Start) -> None:
    client = await start(auth=TOKENS, sessions={"max": 3, "max_per_client": 2})
    paths = [await opened(client, ALICE) for _ in range(2)]
    async with client.post("/api/sessions", headers=ALICE) as response:
        await problem(response, 429, "rate_limited")
    await opened(client, BOB)
    async with client.post("/api/sessions", headers=BOB) as response:
        assert "sessions.max" in (await problem(response, 429, "queue_full"))["detail"]
    async with client.delete(paths[0], headers=ALICE):
        pass
    await opened(client, ALICE)


async def test_sessions_can_be_switched_off(start: Start) -> None:
    client = await start(sessions={"max": 0})
    async with client.post("/api/sessions") as response:
        assert "sessions.max" in (await problem(response, 403, "forbidden"))["detail"]


async def test_an_idle_session_ends(start: Start) -> None:
    client = await start(sessions={"idle_s": 1.0})
    path = await opened(client)
    # To look at a session is not to use it.
    assert "idle" in await ended(client, path)


async def test_a_job_does_not_outlive_the_total_time(start: Start) -> None:
    client = await start(sessions={"total_s": 1.5})
    path = await opened(client)
    job_id = await submit(
        client, language="python", code="input()", interactive=True, sessionId=id_of(path)
    )
    assert verdict(await follow(client, job_id))["reason"] == "cancelled"
    assert "time is up" in await ended(client, path)


async def test_the_limits_of_a_run_are_its_own(start: Start) -> None:
    client = await start()
    path = await opened(client)
    slow = "import time\nwhile time.process_time() < 0.5: pass"
    for _ in range(2):
        events = await run(
            client, language="python", code=slow, sessionId=id_of(path), limits={"cpuTimeS": 0.9}
        )
        end = verdict(events)
        assert end["reason"] == "exited"
        assert 500 <= end["cpuTimeMs"] < 900
    spins = await run(
        client,
        language="python",
        code="while True: pass",
        sessionId=id_of(path),
        limits={"wallTimeS": 0.3},
    )
    assert verdict(spins)["reason"] == "wall_time"
    assert await python(client, path, "print('goes on')") == "goes on\n"


async def test_memory_is_given_back_between_jobs(start: Start) -> None:
    client = await start()
    path = await opened(client)
    events = await run(
        client,
        language="python",
        code="x = b'x' * 2**28",
        sessionId=id_of(path),
        limits={"memoryBytes": "64MiB"},
    )
    assert verdict(events)["reason"] == "memory"
    # The kernel may have killed the init with it: then the session has ended, and says so.
    async with client.get(path) as response:
        assert response.status in (200, 410)
        if response.status == 200:
            assert await python(client, path, "x = b'x' * 2**24; print(1)") == "1\n"


async def test_three_spoilt_sessions_are_no_failure_of_the_backend(start: Start) -> None:
    client = await start()
    path = await opened(client)
    await python(client, path, "import os; os.symlink('/', 'x')")
    for _ in range(4):
        events = await run(
            client,
            language="python",
            code="",
            files=[{"name": "x/y", "content": ""}],
            sessionId=id_of(path),
        )
        end = verdict(events)
        assert end["code"] == "sandbox_error"
        assert "in the way" in end["message"]
    async with client.get("/readyz") as response:
        assert response.status == 200
    assert await python(client, path, "print(1)") == "1\n"


async def test_a_session_may_have_a_terminal_and_a_compiler(start: Start) -> None:
    client = await start()
    path = await opened(client)
    events = await run(
        client,
        language="python",
        code="import os; print(os.isatty(1))",
        sessionId=id_of(path),
        terminal={"cols": 80, "rows": 24},
    )
    assert "True" in text(events)
    code = '#include <stdio.h>\nint main(void) { puts("compiled"); }'
    for _ in range(2):
        assert (
            text(await run(client, language="c", code=code, sessionId=id_of(path))) == "compiled\n"
        )


async def test_a_client_that_leaves_has_no_session(start: Start) -> None:
    client = await start()
    opening = asyncio.create_task(client.post("/api/sessions", json={}))
    sessions = parts_of(client).engine.sessions
    while not await sessions.of(""):
        await asyncio.sleep(0)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    while await sessions.of(""):
        await asyncio.sleep(0.01)
