"""Files that jobs leave, with the Python client; over connections that break."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientPayloadError, web
from aiohttp.test_utils import TestServer

import streamer
from streamer.errors import InvalidRequest
from tests.conftest import Start
from tests.web import python

LEAVES = """
import os
os.mkdir("a b")
open("a b/\u00e9?.txt", "w").write("two")
open("empty", "w").close()
open("large", "wb").write(b"0123456789abcdef" * 100_000)
"""


async def content(client: streamer.Client, job_id: str, name: str) -> bytes:
    return b"".join([piece async for piece in client.read_file(job_id, name)])


async def test_files_are_listed_and_read(start: Start) -> None:
    service = await start()
    async with streamer.Client(str(service.make_url("/"))) as client:
        run = client.run(**python(LEAVES), artifacts=["**/*.txt", "empty", "large"])
        told = [event.data async for event in run if event.kind == "artifact"]
        assert run.job_id is not None
        files = await client.files(run.job_id)
        assert [file["name"] for file in files] == ["a b/\u00e9?.txt", "empty", "large"]
        assert [vars_of(one) for one in told] == files
        for file in files:
            data = await content(client, run.job_id, file["name"])
            assert hashlib.sha256(data).hexdigest() == file["sha256"]
        with pytest.raises(streamer.ServiceProblem) as refused:
            await content(client, run.job_id, "none")
        assert refused.value.status == 404
        for name in ("../../queue", "/etc/passwd", "", "a\\b"):
            with pytest.raises(InvalidRequest):
                await content(client, run.job_id, name)


def vars_of(event: Any) -> dict[str, Any]:
    return {name: getattr(event, name) for name in ("name", "bytes", "sha256", "url")}


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def served() -> AsyncIterator[Callable[[Handler], Awaitable[streamer.Client]]]:
    """Return a function that connects a client with a server of the test's own."""
    servers: list[TestServer] = []
    clients: list[streamer.Client] = []

    async def serve(handler: Handler) -> streamer.Client:
        app = web.Application()
        app.router.add_get("/{path:.*}", handler)
        servers.append(TestServer(app))
        await servers[-1].start_server()
        clients.append(streamer.Client(str(servers[-1].make_url("/")), retries=1))
        return await clients[-1].__aenter__()

    yield serve
    for client in clients:
        await client.__aexit__(None, None, None)
    for server in servers:
        await server.close()


DATA = bytes(range(256)) * 40


async def test_a_broken_download_goes_on_where_it_broke(
    served: Callable[[Handler], Awaitable[streamer.Client]],
) -> None:
    asked: list[tuple[str | None, str | None]] = []

    async def cutting(request: web.Request) -> web.StreamResponse:
        """Send a third of the file, and close the connection."""
        ranges = request.headers.get("Range")
        asked.append((ranges, request.headers.get("If-Range")))
        first = int(ranges[6:-1]) if ranges else 0
        response = web.StreamResponse(status=206 if ranges else 200, headers={"ETag": '"tag"'})
        response.content_length = len(DATA) - first
        await response.prepare(request)
        await response.write(DATA[first : first + 4000])
        if first + 4000 < len(DATA):
            assert request.transport is not None
            request.transport.close()
        return response

    client = await served(cutting)
    assert await content(client, "job", "a") == DATA
    assert asked == [(None, None), ("bytes=4000-", '"tag"'), ("bytes=8000-", '"tag"')]


async def test_a_part_of_a_file_goes_on_where_it_broke(
    served: Callable[[Handler], Awaitable[streamer.Client]],
) -> None:
    asked: list[str | None] = []

    async def cutting(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Range"))
        first, last = (int(one) for one in request.headers["Range"][6:].split("-"))
        response = web.StreamResponse(status=206, headers={"ETag": '"tag"'})
        response.content_length = last + 1 - first
        await response.prepare(request)
        await response.write(DATA[first : min(first + 4000, last + 1)])
        if first + 4000 <= last:
            assert request.transport is not None
            request.transport.close()
        return response

    client = await served(cutting)
    part = b"".join([piece async for piece in client.read_file("job", "a", start=10, end=6000)])
    assert part == DATA[10:6000]
    assert asked == ["bytes=10-5999", "bytes=4010-5999"]
    for start, end in ((-1, None), (5, 5), (5, 4)):
        with pytest.raises(InvalidRequest, match="0 <= start < end"):
            client.read_file("job", "a", start=start, end=end)


async def test_files_are_saved_beneath_a_folder(start: Start, tmp_path: Path) -> None:
    service = await start()
    async with streamer.Client(str(service.make_url("/"))) as client:
        job_id = await client.submit(**python(LEAVES), artifacts=["**/*.txt", "empty", "large"])
        await client.wait(job_id)
        saved = await client.download(job_id, tmp_path / "new")
        assert saved == [tmp_path / "new" / one for one in ("a b/\u00e9?.txt", "empty", "large")]
        assert saved[0].read_text() == "two"
        assert [*await client.download(job_id, tmp_path, ["empty"])] == [tmp_path / "empty"]
        with pytest.raises(streamer.ServiceProblem) as refused:
            await client.download(job_id, tmp_path, ["none"])
        assert refused.value.status == 404
        end = [piece async for piece in client.read_file(job_id, "large", start=1_599_990)]
        assert b"".join(end) == b"6789abcdef"
        with pytest.raises(streamer.ServiceProblem) as refused:
            _ = [piece async for piece in client.read_file(job_id, "large", start=1_600_000)]
        assert refused.value.status == 416
        with pytest.raises(InvalidRequest):
            await client.download(job_id, tmp_path / "new", ["../x"])


async def test_a_file_that_is_not_the_listed_one_is_told(
    served: Callable[[Handler], Awaitable[streamer.Client]], tmp_path: Path
) -> None:
    listed = {"name": "link/a", "bytes": 1, "sha256": "0" * 64, "url": "http://example.org/a"}

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/files"):
            return web.json_response({"files": [listed]})
        return web.Response(body=b"x", headers={"ETag": '"tag"'})

    client = await served(answer)
    with pytest.raises(OSError, match="download it again"):
        await client.download("job", tmp_path / "new")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"directory|symbolic"):
        await client.download("job", tmp_path)
    assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_a_download_that_gets_nowhere_is_given_up(
    served: Callable[[Handler], Awaitable[streamer.Client]],
) -> None:
    asked = []

    async def silent(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        response = web.StreamResponse(headers={"Content-Length": "10", "ETag": '"tag"'})
        await response.prepare(request)
        assert request.transport is not None
        request.transport.close()
        return response

    client = await served(silent)
    with pytest.raises(ClientPayloadError):
        await content(client, "job", "a")
    assert asked == ["/api/jobs/job/files/a"] * 2


async def test_another_file_in_its_place_is_not_joined(
    served: Callable[[Handler], Awaitable[streamer.Client]],
) -> None:
    async def replaced(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "10", "ETag": '"tag"'})
        await response.prepare(request)
        await response.write(b"12345")
        assert request.transport is not None
        request.transport.close()
        return response

    client = await served(replaced)
    with pytest.raises(streamer.ServiceProblem, match="not from the service"):
        await content(client, "job", "a")


@pytest.mark.parametrize("answer", [{}, {"files": 1}, {"files": [1]}, {"files": [{"name": 1}]}])
async def test_what_is_not_a_list_of_files(
    served: Callable[[Handler], Awaitable[streamer.Client]], answer: dict[str, Any]
) -> None:
    async def strange(_: web.Request) -> web.StreamResponse:
        return web.json_response(answer)

    client = await served(strange)
    with pytest.raises(streamer.ServiceProblem, match="not from the service"):
        await client.files("job")
