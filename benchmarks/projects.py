"""Time a job with a project: from its submission to the first line of its program.

    python -m benchmarks.projects [ROUNDS] [FILES]

One service with bwrap; a job with one file, and one with a project of FILES files in 100 folders,
take turns. Their difference is what a private copy costs. The upload is timed once for each kind of
archive.
"""

from __future__ import annotations

import asyncio
import io
import statistics
import sys
import tarfile
import time
import zipfile
from collections.abc import AsyncIterator, Mapping
from typing import Final

from benchmarks.figures import Figure
from benchmarks.servers import STREAMER
from streamer.compose import Parts, build
from streamer.model.events import Output
from streamer.model.job import JobSpec

__all__ = ["starting"]

CONTENT: Final = b"x = 1\n" * 40
FILES: Final = 10_000
TURNS: Final = 7


def names(files: int) -> list[str]:
    return [f"folder{n % 100}/module{n}.py" for n in range(files - 1)]


def as_zip(files: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("main.py", "print(1)")
        for name in names(files):
            archive.writestr(name, CONTENT)
    return out.getvalue()


def as_tar(files: int, mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in (("main.py", b"print(1)"), *((n, CONTENT) for n in names(files))):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


async def sent(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 65536):
        yield data[at : at + 65536]


async def first_line_s(service: Parts, job: JobSpec) -> float:
    began = time.perf_counter()
    handle = await service.jobs.submit(job)
    first = 0.0
    async for event in handle.events():
        if isinstance(event.data, Output) and not first:
            first = time.perf_counter() - began
    if not first:
        raise RuntimeError(f"the job has printed nothing: {await handle.result()}")
    return first


async def measure(rounds: int, files: int) -> None:
    async with build({"sandbox": {"backend": "bwrap"}}) as service:
        projects = service.jobs.projects
        uploads: Mapping[str, bytes] = {
            "zip": as_zip(files),
            "tar": as_tar(files, "w"),
            "tar.gz": as_tar(files, "w:gz"),
        }
        for kind, data in uploads.items():
            began = time.perf_counter()
            project = await projects.upload(sent(data))
            print(f"upload {kind}: {time.perf_counter() - began:.3f} s, {len(data)} bytes")
        for name, taken in (await _first_lines(service, project.id, rounds, files)).items():
            print(f"{name}: {statistics.median(taken):.3f} s, at most {max(taken):.3f} s")


async def _first_lines(
    service: Parts, project_id: str, rounds: int, files: int
) -> dict[str, list[float]]:
    """Return the seconds until the first line of a job with one file and of one with a project."""
    jobs = {
        "one file": JobSpec(language="python", code="print(1)"),
        f"{files:,} files": JobSpec(language="python", project_id=project_id),
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            times[name].append(await first_line_s(service, job))
    return times


async def starting(rounds: int) -> list[Figure]:
    """From the submission of a job with a project to the first line of its program."""
    async with build({"sandbox": {"backend": "bwrap"}}) as service:
        project = await service.jobs.projects.upload(sent(as_zip(FILES)))
        times = await _first_lines(service, project.id, TURNS * rounds, FILES)
    return [
        Figure(name, "ms", {STREAMER: [each * 1e3 for each in taken]}, plotted=True)
        for name, taken in times.items()
    ]


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    asyncio.run(measure(*(given + [20, 10_000][len(given) :])))
