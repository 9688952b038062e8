"""The files of jobs over HTTP: the list, a whole file, parts, an archive, what a browser shows."""

from __future__ import annotations

import asyncio
import hashlib
import io
import zipfile
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientPayloadError, ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

import streamer
from tests.conftest import Start
from tests.support import AnyClient, Received, follow, parts_of, submit, until_stored, verdict
from tests.web import job_of, problem, python, until_state
from tests.web.test_downloads import sessions_of, stalled
from tests.web.test_shares import ALICE, BOB, TOKENS

CONTENT = bytes(range(256)) * 4
LEAVES = """
import os
os.makedirs("out/a b")
open("out/data.bin", "wb").write(bytes(range(256)) * 4)
open("out/a b/x\\ny.txt", "w").write("two")
open("out/\u00e9?%#&+.txt", "w").write("\u00fc")
open("out/empty", "w").close()
open("page.html", "w").write("<script>alert(1)</script>")
open("plot.png", "wb").write(b"\\x89PNG\\r\\n\\x1a\\n" + bytes(100))
"""
NAMES = {
    "out/data.bin": CONTENT,
    "out/a b/x\ny.txt": b"two",
    "out/\u00e9?%#&+.txt": "\u00fc".encode(),
    "out/empty": b"",
    "page.html": b"<script>alert(1)</script>",
    "plot.png": b"\x89PNG\r\n\x1a\n" + bytes(100),
}


async def left(client: AnyClient, code: str = LEAVES, *patterns: str) -> str:
    """Run a program that leaves files, and return the id of its job."""
    job_id = await submit(client, **python(code, artifacts=[*patterns] or ["**"]))
    await follow(client, job_id)
    return job_id


async def listed(client: AnyClient, job_id: str) -> list[dict[str, Any]]:
    async with client.get(f"/api/jobs/{job_id}/files") as response:
        assert response.status == 200, await response.text()
        document = await response.json()
    assert document.keys() == {"files"}
    files: list[dict[str, Any]] = document["files"]
    return files


def encoded(path: str) -> URL:
    return URL(path, encoded=True)


def check_safe(response: ClientResponse) -> None:
    """Nothing that a program has left may be run by a browser."""
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"


async def test_files_are_listed_told_and_sent(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python(LEAVES, artifacts=["**", "none"]))
    events = await follow(client, job_id)
    files = await listed(client, job_id)
    assert {file["name"]: file["bytes"] for file in files} == {
        **{name: len(data) for name, data in NAMES.items()},
        "main.py": len(LEAVES.encode()),
    }
    assert [file["name"] for file in files] == sorted(file["name"] for file in files)
    assert [event.data for event in events if event.kind == "artifact"] == files
    assert verdict(events)["artifactsFailed"] == [{"reason": "no_match", "name": "none"}]
    for file in files:
        name = file["name"]
        assert file["url"] == f"/api/jobs/{job_id}/files/{quote(name)}"
        async with client.get(encoded(file["url"])) as response:
            data = await response.read()
            assert response.status == 200
            check_safe(response)
            assert response.headers["Content-Type"] == "application/octet-stream"
            assert response.headers["Content-Disposition"].startswith("attachment; ")
            assert response.headers["Accept-Ranges"] == "bytes"
            assert response.headers["Etag"] == f'"{file["sha256"]}"'
            assert response.headers["Content-Length"] == str(file["bytes"])
        assert hashlib.sha256(data).hexdigest() == file["sha256"]
        assert name == "main.py" or data == NAMES[name]
    async with client.get(f"/api/jobs/{job_id}") as response:
        document = await response.json()
    assert document["links"]["files"] == f"/api/jobs/{job_id}/files"
    assert document["result"]["artifactsFailed"] == [{"reason": "no_match", "name": "none"}]


async def test_a_job_that_asks_for_none_has_none(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python("open('a', 'w')"))
    assert "artifactsFailed" not in verdict(await follow(client, job_id))
    assert await listed(client, job_id) == []
    job_id = await submit(client, command=["sleep", "60"], artifacts=["a"])
    await until_state(client, job_id, "running")
    assert await listed(client, job_id) == []


async def test_a_name_in_the_header_of_a_download(start: Start) -> None:
    client = await start()
    job_id = await left(client)
    for name, said in (
        ("out/a b/x\ny.txt", "filename=\"x_y.txt\"; filename*=UTF-8''x%0Ay.txt"),
        (
            "out/\u00e9?%#&+.txt",
            "filename=\"______.txt\"; filename*=UTF-8''%C3%A9%3F%25%23%26%2B.txt",
        ),
    ):
        path = f"/api/jobs/{job_id}/files/{quote(name, safe='')}"
        async with client.get(encoded(path)) as response:
            assert response.headers["Content-Disposition"] == f"attachment; {said}"


@pytest.mark.parametrize(
    ("headers", "status", "part"),
    [
        ({}, 200, slice(None)),
        ({"Range": "bytes=0-0"}, 206, slice(1)),
        ({"Range": "bytes=1000-"}, 206, slice(1000, None)),
        ({"Range": "bytes=-24"}, 206, slice(1000, None)),
        ({"Range": "bytes=10-2000"}, 206, slice(10, None)),
        ({"Range": "bytes=0-1,5-6"}, 200, slice(None)),
        ({"Range": "lines=1-2"}, 200, slice(None)),
        ({"Range": "bytes=5-9", "If-Range": "TAG"}, 206, slice(5, 10)),
        ({"Range": "bytes=5-9", "If-Range": '"other"'}, 200, slice(None)),
        ({"Range": "bytes=5-9", "If-Range": "W/TAG"}, 200, slice(None)),
        ({"Range": "bytes=5-9", "If-Range": "Sat, 28 Nov 2026 11:00:00 GMT"}, 200, slice(None)),
        ({"If-None-Match": "TAG"}, 304, slice(0)),
        ({"If-None-Match": 'W/"x", W/TAG'}, 304, slice(0)),
        ({"If-None-Match": "*", "Range": "bytes=5-9"}, 304, slice(0)),
        ({"If-None-Match": '"other"'}, 200, slice(None)),
        ({"Range": "bytes=1024-"}, 416, slice(0)),
    ],
)
async def test_parts_and_what_the_client_has(
    start: Start, headers: dict[str, str], status: int, part: slice
) -> None:
    client = await start()
    job_id = await left(client, LEAVES, "out/data.bin")
    tag = f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    sent = {name: value.replace("TAG", tag) for name, value in headers.items()}
    path = f"/api/jobs/{job_id}/files/out/data.bin"
    for method in ("GET", "HEAD"):
        async with client.request(method, path, headers=sent) as response:
            body = await response.read()
            assert response.status == status
            if status == 416:
                assert response.headers["Content-Range"] == "bytes */1024"
                continue
            wanted = CONTENT[part]
            assert response.headers["Etag"] == tag
            assert response.headers["Cache-Control"] == "private, no-cache"
            assert body == (wanted if method == "GET" else b"")
            if status != 304:
                assert response.headers["Content-Length"] == str(len(wanted))
            if status == 206:
                first, behind, _ = part.indices(1024)
                assert response.headers["Content-Range"] == f"bytes {first}-{behind - 1}/1024"


@pytest.mark.parametrize(
    ("name", "media"),
    [
        ("page.html", "text/plain; charset=utf-8"),
        ("out/a b/x\ny.txt", "text/plain; charset=utf-8"),
        ("plot.png", "image/png"),
        ("out/data.bin", "application/octet-stream"),
    ],
)
async def test_what_a_browser_may_show(start: Start, name: str, media: str) -> None:
    client = await start()
    job_id = await left(client)
    path = f"/api/jobs/{job_id}/files/{quote(name)}?inline=1"
    async with client.get(encoded(path)) as response:
        check_safe(response)
        kind = "attachment" if media == "application/octet-stream" else "inline"
        assert response.headers["Content-Type"] == media
        assert response.headers["Content-Disposition"].startswith(f"{kind}; ")
        assert await response.read() == NAMES[name]


async def test_an_archive_of_all_files(start: Start) -> None:
    client = await start()
    job_id = await left(client, LEAVES, "out/**", "*.png")
    path = f"/api/jobs/{job_id}/files?archive=zip"
    async with client.get(path) as response:
        data = await response.read()
        check_safe(response)
        assert response.status == 200
        assert response.content_type == "application/zip"
        assert response.headers["Content-Length"] == str(len(data))
        saved = f"attachment; filename=\"{job_id}.zip\"; filename*=UTF-8''{job_id}.zip"
        assert response.headers["Content-Disposition"] == saved
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        found = {info.filename: archive.read(info) for info in archive.infolist()}
    assert found == {name: data for name, data in NAMES.items() if name != "page.html"}
    async with client.head(path) as response:
        assert response.headers["Content-Length"] == str(len(data))
    empty = await left(client, "", "none")
    async with client.get(f"/api/jobs/{empty}/files?archive=zip") as response:
        with zipfile.ZipFile(io.BytesIO(await response.read())) as archive:
            assert archive.infolist() == []
    async with client.get(f"/api/jobs/{job_id}/files?archive=tar") as response:
        assert (await problem(response, 400, "invalid_request"))["path"] == "?archive"


@pytest.mark.parametrize("name", ["../x", "..%2Fx", "a/../b", "/etc/passwd", "a%00b", "a%5Cb", "."])
async def test_a_path_that_no_file_has(start: Start, name: str) -> None:
    client = await start()
    job_id = await left(client, LEAVES, "out/**")
    raw = f"GET /api/jobs/{job_id}/files/{name} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(raw.encode())
    answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 400 "), answer


async def test_files_that_are_not_there(start: Start) -> None:
    client = await start(auth=TOKENS)
    job_id = await job_of(client, ALICE, **python(LEAVES, artifacts=["out/**"]))
    await until_state(client, job_id, "complete", headers=ALICE)
    path = f"/api/jobs/{job_id}/files"
    for target in (path, f"{path}/out/data.bin", f"{path}?archive=zip"):
        async with client.get(target, headers=ALICE) as response:
            assert response.status == 200
        async with client.get(target, headers=BOB) as response:
            await problem(response, 404, "not_found")
        async with client.get(target) as response:
            await problem(response, 401, "unauthorized")
    for target in (f"{path}/main.py", f"{path}/out", f"{path}/out/data.bin/x", f"{path}/%FF"):
        async with client.get(encoded(target), headers=ALICE) as response:
            await problem(response, 404, "not_found")
    async with client.delete(f"/api/jobs/{job_id}?purge=1", headers=ALICE) as response:
        assert response.status == 204
    async with client.get(f"{path}/out/data.bin", headers=ALICE) as response:
        await problem(response, 404, "not_found")
    await until_stored(parts_of(client).engine.blobs, 0)


LARGE = "open('large', 'wb').write(b'0123456789abcdef' * 2_000_000)"


async def test_a_reader_of_a_purged_job_has_the_rest(start: Start) -> None:
    client = await start()
    job_id = await left(client, LARGE, "large")
    async with client.get(f"/api/jobs/{job_id}/files/large") as response:
        first = await response.content.readexactly(16)
        async with client.delete(f"/api/jobs/{job_id}?purge=1") as purged:
            assert purged.status == 204
        rest = await response.read()
    assert first + rest == b"0123456789abcdef" * 2_000_000
    await until_stored(parts_of(client).engine.blobs, 0)


async def test_an_archive_of_a_purged_job_breaks_off(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    client = await start()
    job_id = await left(client, f"{LARGE}; open('more', 'w').write('x')", "large", "more")
    async with client.get(f"/api/jobs/{job_id}/files?archive=zip") as response:
        await response.content.readexactly(16)
        async with client.delete(f"/api/jobs/{job_id}?purge=1") as purged:
            assert purged.status == 204
        with pytest.raises(ClientPayloadError):
            await response.read()
    await until_stored(parts_of(client).engine.blobs, 0)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("bound", ["max_readers_per_job", "max_readers_per_client"])
async def test_a_download_counts_as_a_reader(start: Start, bound: str) -> None:
    client = await start(streams={bound: 2})
    job_id = await left(client, LARGE, "large")
    target = f"/api/jobs/{job_id}/files/large"
    with stalled(client, target), stalled(client, f"/api/jobs/{job_id}/files?archive=zip"):
        await sessions_of(client, 2)
        async with client.get(f"/api/jobs/{job_id}/sessions") as response:
            assert [one["position"] for one in (await response.json())["sessions"]] == [0, 0]
        async with client.get(target) as response:
            await problem(response, 429, "rate_limited")
    await sessions_of(client, 0)


async def test_a_download_that_stalls_is_cut_off(start: Start) -> None:
    client = await start(streams={"write_timeout_s": 1.0})
    job_id = await left(client, LARGE, "large")
    target = f"/api/jobs/{job_id}/files/large"
    with stalled(client, target), stalled(client, f"/api/jobs/{job_id}/files?archive=zip"):
        await sessions_of(client, 2)
        await sessions_of(client, 0)
    async with client.get(target) as response:
        assert len(await response.read()) == 32_000_000


async def test_addresses_have_the_prefix_of_the_mount() -> None:
    host = web.Application()
    streamer.setup(host, {"sandbox": {"backend": "bwrap"}}, prefix="/code")
    async with TestClient(TestServer(host)) as client:
        job = python("open('a', 'w')", artifacts=["a"])
        async with client.post("/code/api/execute?", json=job) as response:
            links = (await response.json())["links"]
        async with client.get(links["stream"]) as response:
            told = await response.text()
        async with client.get(links["files"]) as response:
            (file,) = (await response.json())["files"]
        assert file["url"] == f"{links['files']}/a"
        assert f'"url":"{file["url"]}"' in told
        async with client.get(file["url"]) as response:
            assert response.status == 200


async def test_addresses_have_the_public_url(start: Start) -> None:
    client = await start(server={"public_url": "https://example.org/x/"})
    job_id = await submit(client, **python("open('a', 'w')", artifacts=["a"]))
    events: list[Received] = await follow(client, job_id)
    address = f"https://example.org/x/api/jobs/{job_id}/files/a"
    assert [event.data["url"] for event in events if event.kind == "artifact"] == [address]
    assert [file["url"] for file in await listed(client, job_id)] == [address]


@pytest.mark.parametrize(
    ("artifacts", "path"),
    [
        (["a", "/b"], "$.artifacts[1]"),
        (["../a"], "$.artifacts[0]"),
        ([""], "$.artifacts[0]"),
        (["a**"], "$.artifacts[0]"),
        (["a"] * 33, "$.artifacts"),
        (["x" * 200] * 21, "$.artifacts"),
        ("a", "$.artifacts"),
        ([1], "$.artifacts[0]"),
        (["\ud800"], "$.artifacts[0]"),
    ],
)
async def test_patterns_that_are_refused(start: Start, artifacts: Any, path: str) -> None:
    client = await start()
    job = python("", artifacts=artifacts)
    async with client.post("/api/execute", json=job) as response:
        code = "invalid_json" if artifacts == ["\ud800"] else "invalid_request"
        document = await problem(response, 400, code)
    assert code == "invalid_json" or document["path"] == path
