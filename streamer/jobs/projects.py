"""Projects: uploads that are checked once, stored, and used by many jobs.

An upload is first stored as it came, since the directory of a zip archive is at its end; then a
thread reads it and writes the stored project (`streamer.model.project`). Both are blobs of the
engine, so all that is stored counts.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from streamer.config.projects import ProjectsConfig
from streamer.engine.blobs import Blob, BlobFacts, Blobs
from streamer.errors import InvalidRequest, NotFound, RateLimited, TooLarge
from streamer.jobs.archives.entries import Bounds, Interrupted, Source
from streamer.jobs.archives.read import store_project
from streamer.jobs.commands import SOURCE_BYTES
from streamer.jobs.project import Contents, Project
from streamer.jobs.receiving import PIECE_BYTES, receive
from streamer.model.filenames import MAX_NAME_BYTES
from streamer.model.project import HEAD, stored_entries

__all__ = ["Projects", "too_large"]

T = TypeVar("T")

UPLOAD: Final = "upload"
PROJECT: Final = "project"

MOST_CACHED: Final = 16 * 1024 * 1024
"""Bytes of lists of files that are kept in memory, for jobs that use a project again."""
ENTRY_BYTES: Final = 400
"""What a file or folder in such a list takes besides its name."""

THREADS: Final = ThreadPoolExecutor(2, "streamer-archives")
"""Archives are read by so many threads at a time: they use the processor as a job does."""

READ_S: Final = 120.0
"""How long one may be read. The largest takes some seconds."""

UPLOAD_S: Final = 3600.0
"""What a killed process has left of an upload is deleted then; none takes as long to be read."""

LOOKING: Final = ThreadPoolExecutor(2, "streamer-projects")
"""Only to see what stored projects have: jobs wait for that."""


class Projects:
    """Upload projects, and find and delete them; see `streamer.jobs.jobs.Jobs.projects`."""

    def __init__(self, config: ProjectsConfig, blobs: Blobs) -> None:
        self.config = config
        self._blobs = blobs
        self._uploads: Counter[str] = Counter()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._listed: OrderedDict[str, Contents] = OrderedDict()
        self._listed_bytes = 0

    async def upload(
        self, data: AsyncIterator[bytes], *, tenant: str = "", boundary: bytes | None = None
    ) -> Project:
        """Store a project from the bytes of a zip, tar, tar.gz or tar.zst archive.

        With `boundary` they are a form (multipart/form-data) of files. Raises `InvalidRequest` and
        `TooLarge`, which name the entry that is at fault, and `Busy` or its `RateLimited`.
        """
        most = self.config.max_upload_bytes
        with self._counted(tenant):
            async with self._blobs.create(tenant, most, kind=UPLOAD, keep_s=UPLOAD_S) as writer:
                await receive(data, writer, most, partial(too_large, self.config))
                upload = await writer.commit()
            # Nobody would know of a project whose upload was cancelled.
            async with AsyncExitStack() as unless_returned:
                try:
                    project = await self._stored(upload, tenant, boundary, unless_returned)
                finally:
                    await self._blobs.delete(upload.id)
                unless_returned.pop_all()
            return project

    async def find(
        self, project_id: str, *, tenant: str = "", begin_of: str | None = None
    ) -> Project:
        """Return a project of a tenant, with the beginning of a file. Raises `NotFound`."""
        facts = await self._facts(project_id, tenant)
        project = self._project(facts, await self._contents(project_id))
        if begin_of is None:
            return project
        return replace(project, begin=await self._begin(project, begin_of))

    async def delete(self, project_id: str, *, tenant: str = "") -> None:
        """Delete a project; jobs that were submitted with it keep it. Raises `NotFound`."""
        await self._facts(project_id, tenant)
        await self._blobs.delete(project_id)
        self._forget(project_id)

    @contextmanager
    def _counted(self, tenant: str) -> Iterator[None]:
        """Count an upload while it lasts. A tenant with a name may have at most half of them."""
        most = self.config.max_uploads
        share = (most + 1) // 2 if tenant else most
        if self._uploads[tenant] >= share or self._uploads.total() >= most:
            raise RateLimited(
                "too many uploads are in progress (projects.max_uploads): try again later"
            )
        self._uploads[tenant] += 1
        try:
            yield
        finally:
            self._uploads[tenant] -= 1
            if not self._uploads[tenant]:
                del self._uploads[tenant]

    async def _stored(
        self, upload: Blob, tenant: str, boundary: bytes | None, unless_returned: AsyncExitStack
    ) -> Project:
        """Store what is in an upload; `unless_returned` deletes it."""
        config = self.config
        bounds = Bounds(config.max_files, config.max_bytes, config.max_ratio)
        most = bounds.total + (bounds.entries + 1) * (HEAD.size + MAX_NAME_BYTES)
        async with (
            self._blobs.open(upload.id) as fd,
            self._blobs.create(tenant, most, kind=PROJECT, keep_s=config.keep_s) as writer,
        ):
            loop = asyncio.get_running_loop()

            def read(stop: threading.Event) -> None:
                out = _Pieces(
                    lambda data: asyncio.run_coroutine_threadsafe(writer.write(data), loop).result()
                )
                with _in_time(stop):
                    store_project(Source(fd, upload.bytes, stop), bounds, out.add, boundary)
                out.flush()

            async with self._turn(tenant):
                await _interruptible(THREADS, read)
            blob = await writer.commit()
            unless_returned.push_async_callback(self._blobs.delete, blob.id)
        facts = await self._blobs.find(blob.id)
        if facts is None:  # it has expired: the time is short, or the disk slow
            raise NotFound(f"there is no project {blob.id!r}")
        return self._project(facts, await self._contents(blob.id))

    def _turn(self, tenant: str) -> AbstractAsyncContextManager[object]:
        """Return what is held while an archive is read: a tenant with a name has one at a time.

        Some archives take long, and those of others must be read meanwhile.
        """
        if not tenant:
            return nullcontext()
        return self._turns.setdefault(tenant, asyncio.Lock())

    async def _facts(self, project_id: str, tenant: str) -> BlobFacts:
        facts = await self._blobs.find(project_id)
        # Another tenant's looks like an unknown one, and so does what is no project.
        if facts is None or facts.kind != PROJECT or facts.tenant != tenant:
            raise NotFound(f"there is no project {project_id!r}")
        return facts

    @staticmethod
    def _project(facts: BlobFacts, contents: Contents) -> Project:
        assert facts.expires_at is not None
        return Project(facts.blob.id, contents, facts.expires_at)

    async def _contents(self, project_id: str) -> Contents:
        if project_id in self._listed:
            self._listed.move_to_end(project_id)
            return self._listed[project_id]
        async with self._blobs.open(project_id) as fd:

            def read(stop: threading.Event) -> Contents:
                source = Source(fd, os.fstat(fd).st_size, stop)
                return Contents.of(stored_entries(source.pread))

            contents = await _interruptible(LOOKING, read)
        self._keep(project_id, contents)
        return contents

    async def _begin(self, project: Project, name: str) -> bytes:
        found = (file for file in project.contents.files if file.name == name)
        if (file := next(found, None)) is None:
            return b""
        async with self._blobs.open(project.id) as fd:
            size = min(file.bytes, SOURCE_BYTES)
            return await _interruptible(LOOKING, lambda _: os.pread(fd, size, file.at))

    def _keep(self, project_id: str, contents: Contents) -> None:
        size = _size(contents)
        if project_id in self._listed or size > MOST_CACHED:
            return
        self._listed[project_id] = contents
        self._listed_bytes += size
        while self._listed_bytes > MOST_CACHED:
            self._forget(next(iter(self._listed)))

    def _forget(self, project_id: str) -> None:
        if (contents := self._listed.pop(project_id, None)) is not None:
            self._listed_bytes -= _size(contents)


class _Pieces:
    """Merge what comes in small parts into pieces."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._piece = bytearray()

    def add(self, data: bytes) -> None:
        self._piece += data
        if len(self._piece) >= PIECE_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._piece:
            piece = bytes(self._piece)
            self._piece.clear()
            self._write(piece)


def too_large(config: ProjectsConfig) -> TooLarge:
    return TooLarge(
        f"an upload may have at most {config.max_upload_bytes} bytes (projects.max_upload_bytes)"
    )


def _size(contents: Contents) -> int:
    names = sum(len(file.name.encode()) for file in contents.files)
    return ENTRY_BYTES * contents.entries + names


@contextmanager
def _in_time(stop: threading.Event) -> Iterator[None]:
    """Stop what reads an archive in this block after `READ_S`. Then raises `InvalidRequest`."""
    late = threading.Event()

    def give_up() -> None:
        late.set()
        stop.set()

    timer = threading.Timer(READ_S, give_up)
    timer.daemon = True  # it must not hold up the end of the process
    timer.start()
    try:
        yield
    except Interrupted:
        if not late.is_set():
            raise
        raise InvalidRequest(f"the upload could not be read within {READ_S:g} s") from None
    finally:
        timer.cancel()


async def _interruptible(threads: ThreadPoolExecutor, work: Callable[[threading.Event], T]) -> T:
    """Run work in a thread, and stop it if nobody waits for it any more.

    Returns only when the thread has ended, however often it is cancelled: the thread reads a
    descriptor that is closed next.
    """
    stop = threading.Event()
    working = threads.submit(work, stop)
    future = asyncio.wrap_future(working)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError as error:
            if working.cancel():  # it has not begun, and never will
                raise
            stop.set()
            cancelled = error
    try:
        if cancelled is not None:
            future.exception()  # nobody waits for it
            raise cancelled
        return future.result()
    finally:
        # They have the error, and that has this frame: what was read of the archive would wait for
        # the garbage collector.
        del working, future, cancelled
