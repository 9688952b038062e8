"""Jobs and the folder in which services keep files: it is not there for them."""

from __future__ import annotations

from pathlib import Path

from tests.backends.conftest import checked_runs
from tests.conftest import OpenService
from tests.redisserver import RedisServer
from tests.running import program

SEARCH = r"""
import os
secret, found = b"bytes of another tenant", []
places = [PLACE, *(f"/proc/{pid}/root{PLACE}" for pid in os.listdir("/proc") if pid.isdigit()),
          *(f"/proc/{pid}/cwd/../../..{PLACE}" for pid in os.listdir("/proc") if pid.isdigit())]
for place in places:
    try:
        os.listdir(place)
        found.append(place)
    except OSError:
        pass
    try:
        with open(place + "/SPACE/BLOB", "rb") as file:
            found.append(file.read())
    except OSError:
        pass
    for name in ("/SPACE/BLOB", "/planted", "/SPACE/planted"):
        try:
            os.close(os.open(place + name, os.O_RDWR | os.O_CREAT))
            found.append(place + name)
        except OSError:
            pass
for mount in open("/proc/self/mountinfo"):
    if PLACE in mount:
        found.append(mount)
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            if "BLOB" in os.readlink(f"/proc/{pid}/fd/{fd}"):
                found.append(fd)
    except OSError:
        pass
print("found", found)
"""


async def test_a_job_cannot_reach_the_folder_with_all_files(
    open_service: OpenService, isolating_backend: str, redis: RedisServer, place: Path
) -> None:
    # In a place that every user of the host can enter.
    folder = place / "store"
    service = await open_service(
        isolating_backend,
        engine={"url": redis.url(), "blobs_url": f"file://{folder}"},
    )
    async with service.engine.blobs.create("", 100) as writer:
        await writer.write(b"bytes of another tenant")
        blob = await writer.commit()
    (space,) = (path.name for path in folder.iterdir())
    search = SEARCH.replace("SPACE", space).replace("BLOB", blob.id)
    source = f"PLACE = {str(folder)!r}\n{search}"
    before = sorted(folder.rglob("*"))
    async for run in checked_runs(service):
        assert (await run(**program(source))).text() == "found []\n"
    assert sorted(folder.rglob("*")) == before
    assert (folder / space / blob.id).read_bytes() == b"bytes of another tenant"
