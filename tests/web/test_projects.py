"""Projects over HTTP: upload, show, use in a job, delete; and what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import FormData

from tests.conftest import Start
from tests.jobs.archives import MIB, form_of, packed, tar_of, zip_of
from tests.support import AnyClient, parts_of, run, text, until_stored
from tests.web import job_of, problem, until_state
from tests.web.raw import connection

FILES = [("main.py", b"import lib.a; print(lib.a.x)\n"), ("lib/a.py", b"x = 7\n")]

TOKENS = {
    "tokens": [
        {"tenant": name, "sha256": hashlib.sha256(name.encode()).hexdigest()}
        for name in ("alice", "bob")
    ]
}
ALICE = {"Authorization": "Bearer alice"}
BOB = {"Authorization": "Bearer bob"}


async def upload(client: AnyClient, data: Any, **how: Any) -> dict[str, Any]:
    async with client.post("/api/projects", data=data, **how) as response:
        document: dict[str, Any] = await response.json()
        assert response.status == 201, document
        assert response.headers["Location"] == f"/api/projects/{document['projectId']}"
    return document


async def refused(client: AnyClient, data: Any, status: int, code: str, **how: Any) -> str:
    async with client.post("/api/projects", data=data, **how) as response:
        return str((await problem(response, status, code))["detail"])


async def project_bytes(client: AnyClient) -> int:
    return await parts_of(client).engine.blobs.used_bytes()


async def test_the_life_of_a_project(start: Start) -> None:
    client = await start()
    document = await upload(client, zip_of(FILES))
    assert document.keys() == {"projectId", "files", "expiresAt"}
    assert document["files"] == [{"name": name, "bytes": len(data)} for name, data in FILES]
    path = f"/api/projects/{document['projectId']}"
    async with client.get(path) as response:
        assert (response.status, await response.json()) == (200, document)
    for _ in range(2):
        events = await run(client, language="python", projectId=document["projectId"])
        assert text(events) == "7\n"
    async with client.delete(path) as response:
        assert (response.status, await response.read()) == (204, b"")
    for method in (client.get, client.delete):
        async with method(path) as response:
            await problem(response, 404, "not_found")
    body = {"language": "python", "projectId": document["projectId"]}
    async with client.post("/api/execute", json=body) as response:
        assert (await problem(response, 400, "unknown_project"))["path"] == "$.projectId"
    assert await project_bytes(client) == 0


@pytest.mark.parametrize("kind", ["tar", "gz", "zst"])
async def test_other_archives(start: Start, kind: str) -> None:
    client = await start()
    document = await upload(client, packed(kind, tar_of(FILES)))
    assert [file["name"] for file in document["files"]] == ["main.py", "lib/a.py"]


@pytest.mark.parametrize("quoted", [True, False])
async def test_a_form_of_files(start: Start, *, quoted: bool) -> None:
    client = await start()
    form = FormData(quote_fields=quoted)
    for name, content in FILES:
        form.add_field("files", content, filename=name)
    document = await upload(client, form)
    events = await run(client, language="python", projectId=document["projectId"])
    assert text(events) == "7\n"


async def test_files_and_code_lie_over_a_project(start: Start) -> None:
    client = await start()
    project = (await upload(client, zip_of(FILES)))["projectId"]
    over = [{"name": "lib/a.py", "content": "x = 8"}, {"name": "lib/new/b.py", "content": ""}]
    assert text(await run(client, language="python", projectId=project, files=over)) == "8\n"
    code = "import lib.a; print(-lib.a.x)"
    assert text(await run(client, language="python", projectId=project, code=code)) == "-7\n"
    assert text(await run(client, language="python", projectId=project)) == "7\n"
    entry = {"entry": "lib/a.py", "args": ["x"]}
    assert text(await run(client, language="python", projectId=project, **entry)) == ""
    command = ["cat", "lib/a.py"]
    assert text(await run(client, command=command, projectId=project)) == "x = 7\n"


async def test_a_class_has_the_package_of_its_file(start: Start) -> None:
    """Whichever way the file comes: it has another name for the program that runs it."""
    client = await start(runtimes={"j": {"entry": "Main.j", "run": ["echo", "{class}"]}})
    files = [("Main.j", b"package a;"), ("src/x/Other.j", b"package x;"), ("Plain.j", b"")]
    project = (await upload(client, zip_of(files)))["projectId"]
    over = [{"name": "Main.j", "content": "package b;"}]
    for fields, said in (
        ({"projectId": project}, "a.Main"),
        ({"projectId": project, "entry": "src/x/Other.j"}, "x.Other"),
        ({"projectId": project, "entry": "Plain.j"}, "Plain"),
        ({"projectId": project, "files": over}, "b.Main"),
        ({"projectId": project, "code": "package c;"}, "c.Main"),
        ({"files": over}, "b.Main"),
        ({"code": "package c;", "cases": [{"args": ["1"]}], "args": ["2"]}, "c.Main 1"),
        ({"code": "package c;", "cases": [{"limits": {"wallTimeS": 5}}]}, "c.Main"),
    ):
        assert text(await run(client, language="j", **fields)) == f"{said}\n", fields


async def test_a_job_changes_its_own_copy_only(start: Start) -> None:
    client = await start()
    code = b"import os; open('lib/a.py', 'a').write('x = 9'); os.remove('main.py')\nimport lib.a\nprint(lib.a.x)"
    project = (await upload(client, zip_of([("main.py", code), FILES[1]])))["projectId"]
    for _ in range(2):
        assert text(await run(client, language="python", projectId=project)) == "9\n"


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"entry": "none.py"}, "$.entry"),
        ({"files": [{"name": "lib", "content": ""}]}, "$.files[0].name"),
        ({"files": [{"name": "main.py/x", "content": ""}]}, "$.files[0].name"),
        ({"files": [{"name": "ok", "content": ""}, {"name": "lib/a.py/x/y", "content": ""}]}, "$.files[1].name"),
        ({"limits": {"diskBytes": 4096}}, "$.projectId"),
        ({"projectId": "0" * 32}, "$.projectId"),
        ({"projectId": "../x"}, "$.projectId"),
        ({"projectId": ""}, "$.projectId"),
        ({"projectId": 7}, "$.projectId"),
    ],
)  # fmt: skip
async def test_jobs_that_do_not_go_with_the_project(
    start: Start, fields: dict[str, Any], path: str
) -> None:
    client = await start()
    project = (await upload(client, zip_of([*FILES, ("large", bytes(5000))])))["projectId"]
    body = {"language": "python", "projectId": project, **fields}
    async with client.post("/api/execute", json=body) as response:
        document = json.loads(await response.read())
    assert (response.status, document["path"]) == (400, path), document


async def test_a_program_in_the_folder_of_an_archive_is_pointed_out(start: Start) -> None:
    """As GitHub, npm and the Finder make them."""
    client = await start()
    files = [
        ("repo-main/lib/main.py", b""),
        ("repo-main/main.py", b"print(1)"),
        ("a/xmain.py", b""),
    ]
    project = (await upload(client, packed("gz", tar_of(files))))["projectId"]
    body = {"language": "python", "projectId": project}
    async with client.post("/api/execute", json=body) as response:
        said = (await problem(response, 400, "invalid_request"))["detail"]
    assert said.endswith("name the one to run in entry, such as 'repo-main/main.py'")
    assert text(await run(client, **body, entry="repo-main/main.py")) == "1\n"


async def test_more_files_than_the_disk_limit_allows(start: Start) -> None:
    client = await start()
    # The least number of files is 10,000, with that of the workspace.
    files = [("main.py", b"print(1)"), *((f"f{n}", b"") for n in range(9_999))]
    archive = packed("gz", tar_of(files))
    project = (await upload(client, archive))["projectId"]
    body = {"language": "python", "projectId": project, "limits": {"diskBytes": "1MiB"}}
    async with client.post("/api/execute", json=body) as response:
        assert (await problem(response, 400, "invalid_request"))["path"] == "$.projectId"
    assert text(await run(client, language="python", projectId=project)) == "1\n"


async def test_a_waiting_job_keeps_its_project(start: Start) -> None:
    client = await start(queue={"concurrency": 1})
    project = (await upload(client, zip_of(FILES)))["projectId"]
    first = await job_of(client, {})
    await until_state(client, first, "running")
    waiting = await job_of(client, {}, language="python", projectId=project)
    async with client.delete(f"/api/projects/{project}") as response:
        assert response.status == 204
    assert await project_bytes(client) > 0
    async with client.post(
        "/api/execute", json={"language": "python", "projectId": project}
    ) as response:
        await problem(response, 400, "unknown_project")
    async with client.delete(f"/api/jobs/{first}") as response:
        assert response.status == 202
    document = await until_state(client, waiting, "complete")
    assert document["result"]["stdout"] == "7\n"
    await until_stored(parts_of(client).engine.blobs, 0)


async def test_a_repeated_submission_finds_its_job_though_the_project_is_gone(
    start: Start,
) -> None:
    client = await start()
    project = (await upload(client, zip_of(FILES)))["projectId"]
    body = {"language": "python", "projectId": project}
    key = {"Idempotency-Key": "one"}
    async with client.post("/api/execute", json=body, headers=key) as response:
        first = (await response.json())["jobId"]
    await until_state(client, first, "complete")
    async with client.delete(f"/api/projects/{project}") as response:
        assert response.status == 204
    async with client.post("/api/execute", json=body, headers=key) as response:
        assert response.status == 202
        assert response.headers["Idempotency-Replayed"] == "true"
        assert (await response.json())["jobId"] == first
    async with client.post("/api/execute", json={**body, "code": "1"}, headers=key) as response:
        await problem(response, 409, "conflict")
    async with client.post(
        "/api/execute", json=body, headers={"Idempotency-Key": "two"}
    ) as response:
        await problem(response, 400, "unknown_project")


async def test_a_project_of_another_tenant(start: Start) -> None:
    client = await start(auth=TOKENS)
    project = (await upload(client, zip_of(FILES), headers=ALICE))["projectId"]
    for method in (client.get, client.delete):
        async with method(f"/api/projects/{project}", headers=BOB) as response:
            await problem(response, 404, "not_found")
    body = {"language": "python", "projectId": project}
    async with client.post("/api/execute", json=body, headers=BOB) as response:
        theirs = await problem(response, 400, "unknown_project")
    body = {"language": "python", "projectId": "0" * 32}
    async with client.post("/api/execute", json=body, headers=BOB) as response:
        none = await problem(response, 400, "unknown_project")
    assert theirs["detail"].replace(project, "") == none["detail"].replace("0" * 32, "")
    async with client.post("/api/projects", data=zip_of(FILES)) as response:
        await problem(response, 401, "unauthorized")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"print(1)", "neither multipart/form-data nor a zip"),
        (zip_of([("../evil", b"")]), "'../evil'"),
        (packed("gz", tar_of(FILES))[:-20], "truncated"),
        (b"", "neither"),
    ],
)
async def test_uploads_that_are_refused(start: Start, data: bytes, said: str) -> None:
    client = await start()
    assert said in await refused(client, data, 400, "invalid_request")
    assert await project_bytes(client) == 0


async def test_what_a_header_says_that_cannot_be(start: Start) -> None:
    client = await start()
    for headers, said in (
        ({"Content-Type": "multipart/form-data"}, "boundary"),
        ({"Content-Type": f"multipart/form-data; boundary={'x' * 71}"}, "boundary"),
        ({"Content-Type": "multipart/form-data; boundary=a%0d"}, "boundary"),
        ({"Content-Encoding": "gzip"}, "Content-Encoding"),
    ):
        data = packed("gz", tar_of(FILES))
        assert said in await refused(client, data, 400, "invalid_request", headers=headers)
    form = form_of([(b'filename="a"', b"1")], b"a b'c")
    for said in (
        'multipart/form-data; charset=utf-8; boundary="a b\'c"',
        'Multipart/Form-Data ;x="; boundary=y";; BOUNDARY="a\\ b\'c"; boundary=z',
    ):
        assert await upload(client, form, headers={"Content-Type": said})
    for said in ("(" * 5000, "a/b" + ";" * 5000, "multipart/form-datas; boundary=x"):
        assert await upload(client, data, headers={"Content-Type": said})


async def test_a_bomb(start: Start) -> None:
    client = await start(projects={"max_bytes": 20 * MIB, "max_files": 100})
    for data, said in (
        (zip_of([("a", bytes(8 * MIB))]), "max_ratio"),
        (packed("zst", tar_of([("a", bytes(21 * MIB))])), "max_bytes"),
        (zip_of([(str(n), b"") for n in range(101)]), "max_files"),
    ):
        assert said in await refused(client, data, 413, "payload_too_large")
    assert await project_bytes(client) == 0


async def test_an_upload_of_gigabytes_is_refused_at_its_limit(start: Start) -> None:
    client = await start(projects={"max_upload_bytes": MIB})
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(32 * 1024):
            yield bytes(64 * 1024)
            sent += 64 * 1024

    assert "max_upload_bytes" in await refused(client, endless(), 413, "payload_too_large")
    assert sent < 64 * MIB  # the rest of the connection's buffers
    async with connection(client) as (reader, writer):
        writer.write(
            b"POST /api/projects HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2147483648\r\n\r\n"
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")


async def test_a_client_that_asks_before_it_sends(start: Start) -> None:
    client = await start(projects={"max_upload_bytes": MIB})
    archive = zip_of(FILES)
    for size, expect, answer in (
        (2 * MIB, b"100-continue", b"HTTP/1.1 413 "),
        (10, b"something", b"HTTP/1.1 400 "),
        (len(archive), b"100-Continue", b"HTTP/1.1 100 "),
    ):
        async with connection(client) as (reader, writer):
            writer.write(
                b"POST /api/projects HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n"
                b"Expect: %s\r\n\r\n" % (size, expect)
            )
            assert (await reader.readline()).startswith(answer)
            if answer.endswith(b"100 "):
                writer.write(archive)
                assert await reader.readline() == b"\r\n"
                assert (await reader.readline()).startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"server": {"body_timeout_s": 0.05}}, "without long pauses"),
        ({"projects": {"upload_timeout_s": 0.05}}, "within 0.05 s"),
    ],
)
async def test_an_upload_that_does_not_go_on(
    start: Start, config: dict[str, Any], said: str
) -> None:
    client = await start(**config)
    async with connection(client) as (reader, writer):
        writer.write(
            b"POST /api/projects HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nPK"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert said.encode() in await reader.readuntil(b"}")
    assert await project_bytes(client) == 0


async def test_a_client_that_leaves_during_its_upload(start: Start) -> None:
    client = await start()
    async with connection(client) as (_, writer):
        writer.write(
            b"POST /api/projects HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nPK"
        )
        while not await project_bytes(client):
            await asyncio.sleep(0)
    await until_stored(parts_of(client).engine.blobs, 0)


async def test_a_service_that_is_leaving(start: Start) -> None:
    client = await start()
    await parts_of(client).drain(0)
    assert await refused(client, zip_of(FILES), 503, "shutting_down")


async def test_the_disk_space_of_projects(start: Start) -> None:
    client = await start(engine={"blob_bytes": 100_000})
    assert await refused(client, tar_of([("a", bytes(60_000))]), 429, "storage_full")
    assert await project_bytes(client) == 0
