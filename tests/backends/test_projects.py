"""A job gets a private copy of its project, in every sandbox."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator

from streamer.model.events import Complete
from streamer.model.job import JobSpec, SourceFile
from tests.conftest import OpenService
from tests.engine import texts
from tests.jobs.archives import tar_of

LOOK = """
import os
for folder, folders, files in sorted(os.walk(".")):
    print(folder, sorted(folders), sorted(files))
print(open("data/b").read(), os.access("data/run", os.X_OK), os.stat("data/b").st_uid == os.getuid())
open("data/b", "w").write("changed"); os.remove("data/run"); os.rmdir("empty")
"""

SEEN = """\
. ['data', 'empty'] ['main.py', 'mine']
./data ['inner'] ['b', 'run']
./data/inner [] ['c']
./empty [] []
two True True
"""


def archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content, mode in (
            ("data/b", b"two", 0o600),
            ("data/run", b"#!/bin/sh", 0o755),
            ("data/inner/c", b"x" * 300_000, 0o644),
            ("main.py", b"nonsense", 0o644),
        ):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), mode
            tar.addfile(info, io.BytesIO(content))
        info = tarfile.TarInfo("empty")
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    return out.getvalue()


async def sent(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_a_private_copy(backend: str, open_service: OpenService) -> None:
    service = await open_service(backend)
    project = await service.jobs.projects.upload(sent(archive()))
    for _ in range(2):
        spec = JobSpec(
            language="python",
            code=LOOK,
            files=(SourceFile("mine", b""),),
            project_id=project.id,
        )
        job = await service.jobs.submit(spec)
        assert texts([event async for event in job.events()]) == SEEN


async def test_a_project_that_is_as_large_as_the_disk_limit(
    backend: str, open_service: OpenService
) -> None:
    """It is counted with what it takes on disk, as what the program writes."""
    service = await open_service(backend)
    files = [("main.py", b"print(1)"), *((f"{n}", b"x") for n in range(1000))]
    project = await service.jobs.projects.upload(sent(tar_of(files)))
    ends = []
    for size in (1024 * 1024, 8 * 1024 * 1024):  # it takes 4 MB
        spec = JobSpec(language="python", project_id=project.id, limits={"disk_bytes": size})
        end = await (await service.jobs.submit(spec)).result()
        assert isinstance(end, Complete)
        ends.append(end.reason)
    assert ends == ["disk", "exited"]
