"""Keep the files that a job asked for, when its programs have ended and before its last event.

The workspace is a program's work: names, types, sizes and permissions are hostile. Files are opened
by the init, beneath the workspace, with no link followed and as the sandbox's user; only regular
ones are read, no further than their size was when they were opened, and into blobs, which count.
Nothing here changes the verdict: what is not kept is told.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from streamer.config.artifacts import ArtifactsConfig
from streamer.engine.blobs import Blobs, JobFile
from streamer.errors import Busy, EngineUnavailable, SandboxFailure, cut
from streamer.model.events import Artifact, ArtifactFailure, FailureReason
from streamer.model.filenames import MAX_NAME_BYTES
from streamer.model.globs import Glob
from streamer.model.job import ResolvedJob
from streamer.sandbox.listing import Listing
from streamer.sandbox.sandbox import Sandbox
from streamer.worker.matching import MOST_TOLD, Matching
from streamer.worker.stop import Stop, Stopped
from streamer.worker.verdict import StopReason

__all__ = ["Collected", "Collection", "discard"]

log: Final = logging.getLogger(__name__)

ARTIFACT: Final = "artifact"
"""The kind of their blobs."""

ORPHAN_S: Final = 3600.0
"""How long a file is kept that no job got, as its worker died: longer than any job takes to end."""

PIECE_BYTES: Final = 1024 * 1024

AWAY_PAUSE_S: Final = 0.5
"""How often it is tried again to store a file while the engine cannot be reached."""

DISCARD_S: Final = 10.0
"""How long to wait for the deletion of files that no job got."""

MISSING: Final = frozenset({errno.ENOENT, errno.ENOTDIR})
NOT_A_FILE: Final = frozenset({errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EXDEV})
"""What opening a folder, link, pipe, socket, device or mount says."""

GONE: Final[frozenset[StopReason]] = frozenset({"lost", "shutting_down"})
"""Stops that end a collection: a job that is cancelled still has its files."""

THREADS: Final = ThreadPoolExecutor(2, "streamer-artifacts")
"""Only to read files, so that this delays nothing else."""

MATCHING: Final = ThreadPoolExecutor(1, "streamer-matching")
"""Only to match names. Jobs take turns of 20 ms: matching may take minutes, and the files of
others must not be lost by that."""


@dataclass(slots=True)
class Collected:
    """What was kept, and what was not."""

    files: list[JobFile] = field(default_factory=list)
    failed: list[ArtifactFailure] = field(default_factory=list)

    def fail(
        self, reason: FailureReason, *, name: str | None = None, glob: str | None = None
    ) -> None:
        if len(self.failed) < MOST_TOLD:
            shown = None if name is None else _shown(name)
            self.failed.append(ArtifactFailure(reason, shown, glob))

    def events(self, job: ResolvedJob) -> list[Artifact]:
        """Return an event for each file that was kept."""
        return [
            Artifact(file.name, file.blob.bytes, file.blob.sha256, job.files_url + quote(file.name))
            for file in self.files
        ]


class Collection:
    """The files of one job. What runs in its sandbox has ended, but must not be relied on to."""

    def __init__(
        self,
        sandbox: Sandbox,
        blobs: Blobs,
        tenant: str,
        bounds: ArtifactsConfig,
        collected: Collected,
    ) -> None:
        self._sandbox = sandbox
        self._blobs = blobs
        self._tenant = tenant
        self._bounds = bounds
        self._left = bounds.max_bytes
        self.collected = collected

    async def run(self, patterns: Sequence[str], stop: Stop) -> None:
        """Keep what the patterns stand for. Whatever happens, `collected` has what was kept."""
        globs = [Glob(pattern) for pattern in dict.fromkeys(patterns)]
        names: list[str] = []
        try:
            async with stop.unless_requested(self._bounds.timeout_s, by=GONE):
                names += await self._found(globs)
                globs.clear()
                while names:
                    await self._keep(names[0])
                    del names[0]
        except (TimeoutError, Stopped):
            self._give_up("timeout", globs, names)
        except SandboxFailure as failure:
            log.info("a workspace cannot be searched: %s", failure)
            self._give_up("sandbox_gone", globs, names)
        except OSError:  # a program can take the permissions of the workspace itself away
            self._give_up("unreadable", globs, names)
        except Exception:
            log.exception("the files of a job could not be kept")
            self._give_up("internal", globs, names)
        self.collected.files.sort(key=lambda file: file.name)

    def _give_up(self, reason: FailureReason, globs: Iterable[Glob], names: Iterable[str]) -> None:
        for glob in globs:
            self.collected.fail(reason, glob=glob.pattern)
        for name in names:
            self.collected.fail(reason, name=name)

    async def _found(self, globs: Sequence[Glob]) -> list[str]:
        """Return the names of the files that the patterns stand for, as many as may be kept."""
        listing = Listing((), complete=True)
        if not all(glob.is_name for glob in globs):
            listing = await self._sandbox.list_files()
        matching = Matching(globs, listing, self._bounds.max_files)
        loop = asyncio.get_running_loop()
        while not await loop.run_in_executor(MATCHING, matching.go_on):
            pass  # it is the turn of others
        for failure in matching.failures:
            self.collected.fail(failure.reason, name=failure.name, glob=failure.glob)
        return list(matching.names)

    async def _keep(self, name: str) -> None:
        while True:  # until the time for all is up
            try:
                return await self._keep_now(name)
            except EngineUnavailable:
                await asyncio.sleep(AWAY_PAUSE_S)

    async def _keep_now(self, name: str) -> None:
        try:
            fd = await self._sandbox.open_path(name, os.O_RDONLY)
        except OSError as error:
            self.collected.fail(_why_not_opened(error), name=name)
            return
        with closing(_Open(fd)) as file:
            if why := file.why_not_kept(self._left):
                self.collected.fail(why, name=name)
                return
            try:
                kept = await self._stored(name, file)
            except _Unreadable:
                self.collected.fail("unreadable", name=name)
            except Busy:
                self.collected.fail("storage_full", name=name)
            except EngineUnavailable:
                raise
            except OSError as error:
                log.error("a file of a job could not be stored: %s", error)
                self.collected.fail("internal", name=name)
            else:
                self._left -= kept.blob.bytes
                self.collected.files.append(kept)

    async def _stored(self, name: str, file: _Open) -> JobFile:
        async with self._blobs.create(
            self._tenant, file.size, kind=ARTIFACT, keep_s=ORPHAN_S
        ) as writer:
            while piece := await file.piece():
                await writer.write(piece)
            return JobFile(name, await writer.commit(), file.crc32)


class _Unreadable(Exception):
    """A file was opened but cannot be read."""


class _Open:
    """A file of the workspace, open for reading up to the size that it has now. Close it."""

    def __init__(self, fd: int) -> None:
        found = os.fstat(fd)
        self.size = found.st_size
        self.crc32 = 0
        """Of what was read so far."""
        self._is_file = stat.S_ISREG(found.st_mode)
        self._fd = fd
        self._left = found.st_size
        self._reading: asyncio.Future[tuple[bytes, int]] | None = None

    def why_not_kept(self, most_bytes: int) -> FailureReason | None:
        if not self._is_file:  # the init hands out only files, but who knows what it was before
            return "not_a_file"
        return "too_large" if self.size > most_bytes else None

    async def piece(self) -> bytes:
        """Return the next bytes, none at the end. Raises `_Unreadable`."""
        most = min(self._left, PIECE_BYTES)
        if not most:
            return b""
        loop = asyncio.get_running_loop()
        self._reading = loop.run_in_executor(THREADS, _read, self._fd, most, self.crc32)
        try:
            data, self.crc32 = await asyncio.shield(self._reading)
        except OSError as error:
            raise _Unreadable from error
        self._left -= len(data)
        return data

    def close(self) -> None:
        """Close it, as soon as no thread reads it any more."""
        if self._reading is None or self._reading.done():
            os.close(self._fd)
        else:
            self._reading.add_done_callback(self._closed)

    def _closed(self, reading: asyncio.Future[tuple[bytes, int]]) -> None:
        os.close(self._fd)
        reading.exception()  # nobody waits for it


def _read(fd: int, most: int, crc32: int) -> tuple[bytes, int]:
    data = os.read(fd, most)
    return data, zlib.crc32(data, crc32)


def _why_not_opened(error: OSError) -> FailureReason:
    if error.errno in MISSING:
        return "no_match"
    return "not_a_file" if error.errno in NOT_A_FILE else "unreadable"


def _shown(name: str) -> str:
    """Return a name as text: that of a program's file may be any bytes."""
    return cut(name.encode(errors="surrogateescape").decode(errors="replace"), MAX_NAME_BYTES)


async def discard(blobs: Blobs, files: Sequence[JobFile]) -> None:
    """Delete files that no job got, within a time limit: what is left expires."""
    try:
        async with asyncio.timeout(DISCARD_S):
            for file in files:
                await blobs.delete(file.blob.id)
    except Exception:
        log.exception("files of a job could not be deleted")
