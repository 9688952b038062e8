"""Keep bytes as objects in a bucket of a server that speaks the protocol of S3."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store as Bucket

from streamer.engine.blobs import Blob
from streamer.engine.stores.address import S3Address
from streamer.engine.stores.fetched import new_file, reopened, write_at
from streamer.engine.stores.store import Reach, damaged
from streamer.errors import ConfigError, EngineUnavailable, ServiceError
from streamer.eventlog.spool import check_room

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ClientConfig, RetryConfig, S3Config

__all__ = ["S3Store"]

PART_BYTES: Final = 8 * 1024 * 1024
"""What is smaller goes in one request. S3 takes 10,000 parts, so a blob may have 80 GB."""

PARTS: Final = 2
"""So many are sent at a time for each writer."""

PIECE_BYTES: Final = 1024 * 1024

IN_USE: Final = "in-use"
"""The object that says when a space was used last."""

ABANDON_S: Final = 10.0

AT_ONCE: Final = 500

RETRY: Final[RetryConfig] = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=15),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=2),
        "base": 2,
    },
}


class S3Store:
    """See `streamer.engine.stores.store.Store`."""

    def __init__(self, address: S3Address) -> None:
        self.space = ""
        self.reach = Reach(str(address))
        self._address = address
        self.bucket = _bucket(address)

    async def prepare(self) -> None:
        try:
            await obstore.list_with_delimiter_async(self.bucket)
        except (OSError, BaseError) as error:
            raise ServiceError(
                f"engine.blobs_url: {self._address} cannot be used: "
                f"{str(error).partition(chr(10))[0]}; check the endpoint, the region, the bucket "
                "and the keys"
            ) from None

    def writer(self, blob_id: str) -> _Writer:
        return _Writer(self, self.path(blob_id))

    def path(self, name: str) -> str:
        return f"{self.space}/{name}"

    @asynccontextmanager
    async def open(self, blob: Blob, part: range | None, folder: Path | None) -> AsyncIterator[int]:
        with self.reach():
            file = await asyncio.to_thread(new_file, folder)
            try:
                await self._fetch(blob, part, file)
                fd = await asyncio.to_thread(reopened, file)
            finally:
                await asyncio.to_thread(os.close, file)
        try:
            yield fd
        finally:
            os.close(fd)

    async def _fetch(self, blob: Blob, part: range | None, file: int) -> None:
        wanted = range(blob.bytes) if part is None else part
        await asyncio.to_thread(check_room, file, len(wanted))
        digest = hashlib.sha256()
        at = wanted.start
        if wanted:
            async for data in self._read(blob, wanted):
                await asyncio.to_thread(write_at, file, data, at)
                if part is None:
                    await asyncio.to_thread(digest.update, data)
                at += len(data)
        if at != wanted.stop and wanted:
            raise damaged(self._address, blob, f"ends at byte {at}")
        if part is None and digest.hexdigest() != blob.sha256:
            raise damaged(self._address, blob, "has other bytes than were stored")

    async def _read(self, blob: Blob, part: range) -> AsyncIterator[bytes]:
        asked: GetOptions = {"range": (part.start, part.stop)}
        try:
            with self.reach(BaseError):
                found = await obstore.get_async(self.bucket, self.path(blob.id), options=asked)
                size = found.meta["size"]
                if size == blob.bytes:
                    async for data in found.stream(min_chunk_size=PIECE_BYTES):
                        yield bytes(data)
        except EngineUnavailable as error:
            missing = isinstance(error.__cause__, FileNotFoundError)
            if missing and await self.has_space(self.space):  # and so the bucket is there
                raise damaged(self._address, blob, "has no object") from None
            raise
        if size != blob.bytes:
            raise damaged(self._address, blob, f"has {size} bytes instead of {blob.bytes}")

    async def delete(self, blob_ids: Sequence[str]) -> None:
        await self._delete([self.path(blob_id) for blob_id in blob_ids])

    async def _delete(self, paths: Sequence[str]) -> None:
        with self.reach(BaseError):
            await obstore.delete_async(self.bucket, paths)

    async def older_than(self, age_s: float) -> AsyncGenerator[Sequence[str], None]:
        before = await self._touch(self.space) - age_s
        async for found in self._listed(self.space):
            yield [
                name
                for name, modified in found
                if modified < before and name != IN_USE and "/" not in name
            ]

    async def _listed(self, space: str) -> AsyncIterator[Sequence[tuple[str, float]]]:
        with self.reach(BaseError):
            async for found in obstore.list(self.bucket, space, chunk_size=AT_ONCE):
                yield [
                    (one["path"].rpartition("/")[2], one["last_modified"].timestamp())
                    for one in found
                ]

    async def has_space(self, space: str) -> bool:
        with self.reach(BaseError):
            try:
                await obstore.head_async(self.bucket, f"{space}/{IN_USE}")
            except FileNotFoundError:
                return False
        return True

    async def touch_space(self, space: str) -> None:
        await self._touch(space)

    async def _touch(self, space: str) -> float:
        """Return the time of the server."""
        path = f"{space}/{IN_USE}"
        with self.reach(BaseError):
            await obstore.put_async(self.bucket, path, b"", use_multipart=False)
            found = await obstore.head_async(self.bucket, path)
        return found["last_modified"].timestamp()

    async def unused_spaces(self, age_s: float) -> Sequence[str]:
        before = await self._touch(self.space) - age_s
        with self.reach(BaseError):
            listed = await obstore.list_with_delimiter_async(self.bucket)
        unused = []
        for space in listed["common_prefixes"]:
            used = [modified async for found in self._listed(space) for name, modified in found]
            if space != self.space and max(used, default=before) < before:
                unused.append(space)
        return unused

    async def delete_space(self, space: str) -> None:
        async for found in self._listed(space):
            await self._delete([f"{space}/{name}" for name, _ in found])

    async def close(self) -> None:
        """Do nothing: connections that nobody uses end by themselves."""


def _bucket(address: S3Address) -> Bucket:
    config: S3Config = {
        # What no store needs to have.
        "disable_bulk_delete": True,
        "virtual_hosted_style_request": address.virtual_hosts,
    }
    if address.endpoint:
        config["endpoint"] = address.endpoint
    if address.region:
        config["region"] = address.region
    if address.access_key:
        config["access_key_id"] = address.access_key
        config["secret_access_key"] = address.secret_key
    client: ClientConfig = {
        "allow_http": address.endpoint.startswith("http://"),
        "connect_timeout": "5s",
        "read_timeout": "30s",
        "timeout": "10m",
    }
    try:
        if address.ca_certs:
            client["root_certificate"] = Path(address.ca_certs).read_bytes()
        return Bucket(
            address.bucket,
            prefix=address.prefix or None,
            config=config,
            client_options=client,
            retry_config=RETRY,
        )
    except (OSError, BaseError, ValueError) as error:
        said = str(error).partition("\n")[0]
        raise ConfigError(f"engine.blobs_url: {address}: {said}") from None


class _Abandoned(Exception):
    """The writer was left: the parts that were sent are to be deleted."""


class _Writer:
    """See `streamer.engine.stores.store.StoreWriter`.

    What is sent in parts is sent by a task, which ends by itself: a request that is cancelled would
    leave its parts in the bucket.
    """

    def __init__(self, store: S3Store, path: str) -> None:
        self._store = store
        self._path = path
        self._digest = hashlib.sha256()
        self._pending = bytearray()
        self._parts: asyncio.Queue[bytes | _Abandoned | None] = asyncio.Queue(1)
        self._sending: asyncio.Task[object] | None = None

    async def begin(self) -> None:
        pass

    async def write(self, data: bytes) -> None:
        await asyncio.to_thread(self._digest.update, data)
        self._pending += data
        while len(self._pending) >= PART_BYTES:
            part = bytes(self._pending[:PART_BYTES])
            del self._pending[:PART_BYTES]
            await self._send(part)

    async def commit(self) -> str:
        if self._sending is None:
            with self._store.reach(BaseError):
                await obstore.put_async(
                    self._store.bucket, self._path, bytes(self._pending), use_multipart=False
                )
        else:
            if self._pending:
                await self._send(bytes(self._pending))
            await self._send(None)
            with self._store.reach(BaseError):
                await asyncio.shield(self._sending)
        self._pending.clear()
        return self._digest.hexdigest()

    async def _send(self, part: bytes | None) -> None:
        """Hand a part over. Raises what has ended the sending of earlier ones."""
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_all(), name="streamer-upload")
        handing = asyncio.create_task(self._parts.put(part))
        try:
            await asyncio.wait({handing, self._sending}, return_when=asyncio.FIRST_COMPLETED)
            if self._sending.done():
                with self._store.reach(BaseError):
                    self._sending.result()
        finally:
            handing.cancel()

    async def _send_all(self) -> object:
        return await obstore.put_async(
            self._store.bucket,
            self._path,
            self._taken(),
            use_multipart=True,
            chunk_size=PART_BYTES,
            max_concurrency=PARTS,
        )

    async def _taken(self) -> AsyncIterator[bytes]:
        while (part := await self._parts.get()) is not None:
            if isinstance(part, _Abandoned):
                raise part
            yield part

    async def abandon(self) -> None:
        if self._sending is None or self._sending.done():
            return
        with contextlib.suppress(asyncio.QueueEmpty):
            self._parts.get_nowait()
        self._parts.put_nowait(_Abandoned())
        self._sending.add_done_callback(_forgotten)
        await asyncio.wait({self._sending}, timeout=ABANDON_S)


def _forgotten(sending: asyncio.Task[object]) -> None:
    if not sending.cancelled():
        sending.exception()  # nobody waits for it
