"""Services that share files through a store: a folder that both have, or a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Start
from tests.jobs.archives import zip_of
from tests.redisserver import RedisServer
from tests.s3server import S3Server
from tests.support import follow, parts_of, run, submit, text, verdict
from tests.web import problem, python
from tests.web.conftest import InRedis
from tests.web.test_projects import FILES, upload

pytestmark = pytest.mark.memory_engine("its engines are its own")

LEAVES = "import os; os.mkdir('out'); open('out/a.bin', 'wb').write(bytes(range(256)) * 40)"
C = r"#include <stdio.h>" + "\n" + r'int main(void) { printf("compiled\n"); }'


@pytest.fixture(params=["folder", "s3"])
def shared(request: pytest.FixtureRequest, redis: RedisServer, tmp_path: Path) -> InRedis:
    if request.param == "folder":
        return InRedis(redis.url(), blobs_url=f"file://{tmp_path}/store")
    server: S3Server = request.getfixturevalue("s3_server")
    return InRedis(redis.url(), **server.settings())


async def test_an_upload_at_one_is_run_at_the_other(start: Start, shared: InRedis) -> None:
    one = await start(plugins=(shared,))
    project = (await upload(one, zip_of(FILES)))["projectId"]
    other = await start(plugins=(shared,))
    await one.server.close()  # what runs it now never saw the upload
    for _ in range(2):
        assert text(await run(other, language="python", projectId=project)) == "7\n"
    async with other.delete(f"/api/projects/{project}") as response:
        assert response.status == 204


async def test_what_a_job_leaves_at_one_is_downloaded_at_the_other(
    start: Start, shared: InRedis
) -> None:
    one = await start(plugins=(shared,))
    job_id = await submit(one, **python(LEAVES, artifacts=["out/*"]))
    assert verdict(await follow(one, job_id))["reason"] == "exited"
    other = await start(plugins=(shared,))
    path, whole = f"/api/jobs/{job_id}/files/out/a.bin", bytes(range(256)) * 40
    async with other.get(path) as response:
        assert (response.status, await response.read()) == (200, whole)
    for part, answer in (("bytes=5-9", whole[5:10]), ("bytes=-7", whole[-7:])):
        async with other.get(path, headers={"Range": part}) as response:
            assert (response.status, await response.read()) == (206, answer)
    async with other.get(path, params={"inline": "1"}, headers={"Range": "bytes=5-"}) as response:
        assert await response.read() == whole[5:]
    async with other.get(f"/api/jobs/{job_id}/files?archive=zip") as response:
        assert whole in await response.read()
    async with other.delete(f"/api/jobs/{job_id}?purge=1") as response:
        assert response.status < 300, await response.text()
    assert await parts_of(other).engine.blobs.used_bytes() == 0


async def test_files_of_a_session_at_one_are_read_and_written_at_the_other(
    start: Start, shared: InRedis
) -> None:
    one = await start(plugins=(shared,))
    async with one.post("/api/sessions", json={}) as response:
        session = (await response.json())["sessionId"]
    other = await start(plugins=(shared,))
    path = f"/api/sessions/{session}/files/data.bin"
    async with other.put(path, data=b"by the other") as response:
        assert response.status in (200, 201, 204), await response.text()
    for client in (one, other):
        async with client.get(path) as response:
            assert await response.read() == b"by the other"
        async with client.get(path, headers={"Range": "bytes=3-5"}) as response:
            assert (response.status, await response.read()) == (206, b"the")


async def test_one_accepts_and_another_runs(start: Start, shared: InRedis) -> None:
    """The one that has the upload has no sandbox, and the one that runs it was never sent it."""
    api = await start(plugins=(shared,), server={"role": "api"})
    await start(plugins=(shared,), server={"role": "worker"})
    project = (await upload(api, zip_of(FILES)))["projectId"]
    assert text(await run(api, language="python", projectId=project)) == "7\n"
    job_id = await submit(api, **python(LEAVES, artifacts=["out/*"]))
    await follow(api, job_id)
    async with api.get(f"/api/jobs/{job_id}/files/out/a.bin") as response:
        assert await response.read() == bytes(range(256)) * 40


async def test_a_compiled_program_comes_from_the_store(start: Start, shared: InRedis) -> None:
    client = await start(plugins=(shared,))
    seen = [verdict(await run(client, language="c", code=C)) for _ in range(2)]
    assert [one.get("cached", False) for one in seen] == [False, True]


async def test_while_the_folder_is_away(start: Start, redis: RedisServer, tmp_path: Path) -> None:
    """Files are refused with a 503, what needs none goes on, and nothing is lost."""
    store = tmp_path / "store"
    client = await start(plugins=(InRedis(redis.url(), blobs_url=f"file://{store}"),))
    project = (await upload(client, zip_of(FILES)))["projectId"]
    left = await submit(client, **python(LEAVES, artifacts=["out/*"]))
    await follow(client, left)
    file = f"/api/jobs/{left}/files/out/a.bin"
    async with client.post("/api/sessions", json={}) as response:
        in_session = f"/api/sessions/{(await response.json())['sessionId']}/files/a"
    async with client.put(in_session, data=b"before") as response:
        assert response.ok
    store.rename(tmp_path / "away")
    for asked in (
        client.post("/api/projects", data=zip_of(FILES)),
        client.put(in_session, data=b"meanwhile"),
        client.get(in_session),
        client.get(file),
    ):
        async with asked as response:
            await problem(response, 503, "engine_unavailable")
            assert int(response.headers["Retry-After"]) > 0
    assert text(await run(client, **python("print(1)"))) == "1\n"
    waits = await submit(client, language="python", projectId=project)
    leaves = await submit(client, **python(LEAVES, artifacts=["out/*"]))
    async with client.get(f"/api/stream/{leaves}") as response:
        (tmp_path / "away").rename(store)
        await response.read()
    assert text(await follow(client, waits)) == "7\n"
    async with client.get(in_session) as response:
        assert await response.read() == b"before"
    for job_id in (left, leaves):
        async with client.get(f"/api/jobs/{job_id}/files/out/a.bin") as response:
            assert await response.read() == bytes(range(256)) * 40
