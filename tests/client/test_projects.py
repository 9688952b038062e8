"""The client uploads folders and archives, and follows what the service says of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import streamer
from streamer import ServiceProblem
from streamer.errors import InvalidRequest
from streamer.packing import opened_upload
from tests.conftest import Start
from tests.jobs.archives import files_in, zip_of


def folder(tmp_path: Path) -> Path:
    top = tmp_path / "hello"
    (top / "lib").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "main.py").write_text("import lib.a")
    (top / "lib" / "a.py").write_text("print(7)")
    (top / "run").write_text("")
    (top / "run").chmod(0o700)
    return top


async def test_a_folder_and_an_archive(start: Start, tmp_path: Path) -> None:
    service = await start()
    (tmp_path / "hello.zip").write_bytes(zip_of([("main.py", b"print(8)")]))
    async with streamer.Client(str(service.make_url("/"))) as client:
        for path, printed in ((folder(tmp_path), "7\n"), (str(tmp_path / "hello.zip"), "8\n")):
            project = await client.upload(path)
            assert await client.project(project["projectId"]) == project
            job_id = await client.submit(language="python", project_id=project["projectId"])
            async for _ in client.events(job_id):
                pass
            assert (await client.job(job_id))["result"]["stdout"] == printed
            await client.delete_project(project["projectId"])
            with pytest.raises(ServiceProblem) as refusal:
                await client.project(project["projectId"])
            assert refusal.value.status == 404


def test_a_folder_becomes_an_archive_in_order(tmp_path: Path) -> None:
    with opened_upload(folder(tmp_path)) as file:
        packed = file.read()
    assert files_in(packed) == {"lib/a.py": b"print(7)", "main.py": b"import lib.a", "run": b""}
    with opened_upload(folder(tmp_path / "again")) as file:
        assert file.read() == packed  # no times, users or order of the disk


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_cannot_be_uploaded_is_named(tmp_path: Path, kind: str) -> None:
    top = folder(tmp_path)
    if kind == "link":
        (top / "lib" / "bad").symlink_to("/etc/passwd")
    else:
        os.mkfifo(top / "lib" / "bad")
    with pytest.raises(InvalidRequest, match=r"^lib/bad: a (symbolic link|special file)"):
        opened_upload(top).__enter__()


async def test_a_path_that_cannot_be_read(start: Start, tmp_path: Path) -> None:
    service = await start()
    async with streamer.Client(str(service.make_url("/"))) as client:
        with pytest.raises(FileNotFoundError):
            await client.upload(tmp_path / "none")


async def test_an_upload_is_repeated_from_its_beginning_when_nothing_was_done() -> None:
    got: list[bytes] = []

    async def handle(request: web.Request) -> web.Response:
        got.append(await request.read())
        if len(got) == 1:
            problem = {"status": 503, "code": "shutting_down", "detail": "later", "title": "x"}
            return web.json_response(
                problem,
                status=503,
                headers={"Retry-After": "0"},
                content_type="application/problem+json",
            )
        document = {"projectId": "p", "files": [], "expiresAt": "2026-01-01T00:00:00.000Z"}
        return web.json_response(document, status=201)

    app = web.Application()
    app.router.add_post("/api/projects", handle)
    async with TestServer(app) as server, streamer.Client(str(server.make_url("/"))) as client:
        path = Path(__file__)
        assert (await client.upload(path))["projectId"] == "p"
    assert got == [path.read_bytes()] * 2


@pytest.mark.parametrize(
    "answer",
    [{}, {"projectId": 7, "files": []}, {"projectId": "p"}, {"projectId": "p", "files": 1}],
)
async def test_an_answer_that_is_no_project(answer: dict[str, Any]) -> None:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(text=json.dumps(answer), content_type="application/json", status=201)

    app = web.Application()
    app.router.add_post("/api/projects", handle)
    async with TestServer(app) as server, streamer.Client(str(server.make_url("/"))) as client:
        with pytest.raises(ServiceProblem):
            await client.upload(Path(__file__))
