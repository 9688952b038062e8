"""Stores of bytes beside the Redis engine: a shared folder, and a bucket of a real S3 server.

What holds for the blobs of every engine is in ``test_blobs.py``, which runs with both too.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Self

import obstore
import pytest

from streamer.compose import build
from streamer.config.load import effective
from streamer.config.schema import Config
from streamer.engine.blobs import Blob, Blobs
from streamer.engine.redis import sweep
from streamer.engine.redis.engine import RedisEngine
from streamer.engine.redis.limits import GARBAGE_S, WRITER_S
from streamer.engine.stores.address import FolderAddress, S3Address, parse_store
from streamer.engine.stores.folder import FolderStore
from streamer.engine.stores.s3 import PART_BYTES, S3Store
from streamer.engine.stores.store import Store
from streamer.errors import ConfigError, EngineUnavailable, NotFound, ServiceError
from tests.redisserver import RedisServer, free_port, redis_server
from tests.s3server import S3Server

from .conftest import RedisBench

MOST = 64 * 1024 * 1024

OLD_S = -60.0
"""With this age all bytes are old."""


class Place:
    """A place for bytes, as the tests look at it from outside."""

    def __init__(self, kind: str, make: Callable[[], Store]) -> None:
        self.kind = kind
        self.make = make

    async def names(self) -> list[str]:
        """Return what is there beside the marks of the spaces."""
        store = self.make()
        if isinstance(store, FolderStore):
            return sorted(p.name for p in store._root.glob("*/*") if p.name != "in-use")
        assert isinstance(store, S3Store)
        listed = [one async for part in _all(store) for one in part]
        names = [path.rpartition("/")[2] for path in listed]
        return sorted(name for name in names if name != "in-use")

    async def spaces(self) -> list[str]:
        store = self.make()
        if isinstance(store, FolderStore):
            return sorted(path.name for path in store._root.iterdir())
        assert isinstance(store, S3Store)
        paths = [one async for part in _all(store) for one in part]
        return sorted({path.partition("/")[0] for path in paths})


async def _all(store: S3Store) -> AsyncIterator[Sequence[str]]:
    async for part in obstore.list(store.bucket):
        yield [one["path"] for one in part]


@pytest.fixture(params=["redis-folder", "redis-s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place_of(request, request.param, tmp_path)


def place_of(request: pytest.FixtureRequest, kind: str, folder: Path) -> Place:
    if kind == "redis-folder":
        return Place(kind, lambda: FolderStore(FolderAddress(folder / "store")))
    server: S3Server = request.getfixturevalue("s3_server")
    address = server.address()
    return Place(kind, lambda: S3Store(address))


@pytest.fixture
async def bench(redis: RedisServer, place: Place) -> AsyncIterator[RedisBench]:
    """Return one whose engines share their keys and their store."""
    url = redis.url()
    bench = RedisBench(lambda: url, place.make)
    yield bench
    await bench.close()


Start = Callable[[], Awaitable[RedisEngine]]


@pytest.fixture
def node(bench: RedisBench, tmp_path: Path) -> Start:
    """Return a function that starts one more node."""

    async def start() -> RedisEngine:
        engine = await bench.make_redis()
        await engine.start(tmp_path)
        return engine

    return start


@pytest.fixture
async def blobs(node: Start) -> Blobs:
    return (await node()).blobs


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "SWEEP_S", 0.01)


class Looks:
    """The looks of all nodes for what has no record."""

    def __init__(self) -> None:
        self._ended: list[Store] = []

    def ended(self, store: Store) -> None:
        self._ended.append(store)

    async def one_more(self, engine: RedisEngine | None = None) -> None:
        """Wait for a look of a node, or of any, that begins now or later."""
        store = None if engine is None else engine.blobs._store
        before = self._of(store)

        async def twice() -> bool:
            return self._of(store) >= before + 2  # one may have begun earlier

        await until(twice)

    def _of(self, store: Store | None) -> int:
        return sum(store is None or one is store for one in self._ended)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    looks, look = Looks(), sweep.Sweep._look

    async def counted(self: sweep.Sweep) -> None:
        await look(self)
        looks.ended(self._store)

    monkeypatch.setattr(sweep.Sweep, "_look", counted)
    monkeypatch.setattr(sweep, "LOOK_S", 0.0)
    return looks


async def stored(blobs: Blobs, data: bytes = b"x", **how: Any) -> Blob:
    async with blobs.create("", MOST, **how) as writer:
        await writer.write(data)
        return await writer.commit()


async def content(blobs: Blobs, blob_id: str) -> bytes:
    async with blobs.open(blob_id) as fd:
        return os.pread(fd, MOST, 0)


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await is_so():
            await asyncio.sleep(0.01)


# -- what is where ----------------------------------------------------------------------------


async def test_the_server_has_the_record_and_the_store_the_bytes(
    blobs: Blobs, place: Place, redis: RedisServer
) -> None:
    secret = os.urandom(1024).hex().encode()
    blob = await stored(blobs, secret)
    assert await place.names() == [blob.id]
    assert await content(blobs, blob.id) == secret
    assert b"pieces:" + blob.id.encode() not in redis.said("KEYS", "*pieces*")
    await blobs.delete(blob.id)
    await until(lambda: _none(place))


async def _none(place: Place) -> bool:
    return await place.names() == []


async def test_what_is_larger_than_a_part(blobs: Blobs, place: Place) -> None:
    data = os.urandom(2 * PART_BYTES + 3)
    async with blobs.create("", MOST) as writer:
        for at in range(0, len(data), 1_000_003):
            await writer.write(data[at : at + 1_000_003])
        blob = await writer.commit()
    assert blob == Blob(blob.id, len(data), hashlib.sha256(data).hexdigest())
    assert await content(blobs, blob.id) == data


MIB = 1024 * 1024


@pytest.mark.timeout(600)
async def test_two_gigabytes_take_no_memory(
    bench: RedisBench, place: Place, tmp_path: Path
) -> None:
    engine = await bench.make_redis(blob_bytes=3 * 1024 * MIB, blob_bytes_per_client=3 * 1024 * MIB)
    await engine.start(tmp_path)
    blobs, piece = engine.blobs, os.urandom(MIB)
    # Of S3 less: its server takes more of the processors than all else here.
    size = (2048 if place.kind == "redis-folder" else 256) * MIB
    digest = hashlib.sha256()
    before = peak_now()
    async with blobs.create("", size) as writer:
        for _ in range(size // MIB):
            await writer.write(piece)
            digest.update(piece)
        blob = await writer.commit()
    assert blob.sha256 == digest.hexdigest()
    async with blobs.open(blob.id) as fd:  # it is compared as a whole
        assert os.fstat(fd).st_size == size
        assert os.pread(fd, MIB, size - MIB) == piece
    grown = peak() - before
    print(f"it took {grown >> 20} MiB of memory")  # noqa: T201 - shown with a failure
    # Three parts of 8 MiB on their way, and what is made of them; steps of 16 MiB that are compared.
    assert grown < 96 * MIB
    await blobs.delete(blob.id)


def peak_now() -> int:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    return peak()


def peak() -> int:
    """Return the most memory that this process has had, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


async def test_a_part_is_at_its_place(blobs: Blobs) -> None:
    data = os.urandom(300_000)
    blob = await stored(blobs, data)
    for part in (range(1), range(100, 200_000), range(299_999, 300_000), range(5, 5)):
        async with blobs.open(blob.id, part=part) as fd:
            assert os.pread(fd, len(part), part.start) == data[part.start : part.stop]


async def test_what_one_node_stores_another_reads(node: Start) -> None:
    one, other = await node(), await node()
    blob = await stored(one.blobs, b"shared")
    assert await content(other.blobs, blob.id) == b"shared"
    await other.blobs.delete(blob.id)
    with pytest.raises(NotFound):
        await content(one.blobs, blob.id)


async def test_a_writer_that_is_left_leaves_nothing(blobs: Blobs, place: Place) -> None:
    for size in (1, 2 * PART_BYTES):
        with pytest.raises(ValueError, match="on purpose"):
            async with blobs.create("", MOST) as writer:
                await writer.write(bytes(size))
                raise ValueError("on purpose")
    await until(lambda: _none(place))
    assert await blobs.used_bytes() == 0


async def test_what_a_dead_node_was_writing_is_deleted(
    node: Start, bench: RedisBench, place: Place
) -> None:
    dead, living = await node(), await node()
    async with contextlib.AsyncExitStack() as left:
        writer = await left.enter_async_context(dead.blobs.create("", MOST))
        await writer.write(b"x")
        dying = left.pop_all()  # as if the process had been killed
    await bench.pass_time(WRITER_S)
    assert await living.blobs.used_bytes() == 0
    await until(lambda: _none(place))
    with pytest.raises(OSError, match=r"gone|cannot be used"):
        await writer.commit()
    await dying.aclose()
    assert await place.names() == []


async def test_bytes_without_a_record_are_deleted(
    node: Start, place: Place, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await node()
    known = await stored(engine.blobs)
    store = place.make()
    store.space = engine.blobs._store.space  # type: ignore[union-attr]
    for number in (1, 2):
        out = store.writer(f"{number:032x}")
        await out.begin()
        await out.write(b"lost")
        if number == 1:
            await out.commit()
    await looks.one_more()
    assert f"{1:032x}" in await place.names(), "it is too new"
    monkeypatch.setattr(sweep, "ORPHAN_S", OLD_S)
    await until(lambda: _only(place, known))
    assert await content(engine.blobs, known.id) == b"x"


async def _only(place: Place, blob: Blob) -> bool:
    return await place.names() == [blob.id]


# -- bytes that are not those of the record ---------------------------------------------------


@pytest.mark.parametrize("harm", ["deleted", "shorter", "other"])
async def test_lost_and_damaged_bytes_are_never_read(
    blobs: Blobs, place: Place, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    blob = await stored(blobs, b"as it was stored")
    store = place.make()
    store.space = blobs._store.space  # type: ignore[attr-defined]
    await store.delete([blob.id])
    if harm != "deleted":
        out = store.writer(blob.id)
        await out.begin()
        await out.write(b"as it was" if harm == "shorter" else b"something else..")
        await out.commit()
    with pytest.raises(NotFound, match="lost or damaged"):
        await content(blobs, blob.id)
    assert blob.id in caplog.text
    if harm != "other":
        with pytest.raises(NotFound):
            async with blobs.open(blob.id, part=range(4)):
                pass
    assert await blobs.find(blob.id) is not None, "an operator may bring the bytes back"


async def test_no_link_is_followed(redis: RedisServer, tmp_path: Path) -> None:
    url, store = redis.url(), FolderStore(FolderAddress(tmp_path / "store"))
    bench = RedisBench(lambda: url, lambda: store)
    engine = await bench.make_redis()
    await engine.start(tmp_path)
    blob = await stored(engine.blobs, b"secret")
    target = tmp_path / "elsewhere"
    target.write_bytes(b"secret")
    store.path(blob.id).unlink()
    store.path(blob.id).symlink_to(target)
    with pytest.raises(NotFound):
        await content(engine.blobs, blob.id)
    store.path(blob.id).unlink()
    os.mkfifo(store.path(blob.id))
    with pytest.raises(NotFound):
        await content(engine.blobs, blob.id)
    await bench.close()


async def test_only_its_own_account_can_read_the_folder(blobs: Blobs, tmp_path: Path) -> None:
    blob = await stored(blobs)
    if (root := tmp_path / "store").exists():
        (space,) = root.iterdir()
        assert [path.stat().st_mode & 0o777 for path in (root, space, space / blob.id)] == [
            *(0o700, 0o700, 0o600)
        ]


# -- stores that are away ---------------------------------------------------------------------


async def test_a_folder_that_is_not_mounted_for_a_while(
    redis: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried, delete = asyncio.Event(), FolderStore.delete

    async def seen(self: FolderStore, blob_ids: Sequence[str]) -> None:
        try:
            await delete(self, blob_ids)
        finally:
            tried.set()

    monkeypatch.setattr(FolderStore, "delete", seen)
    url = redis.url()
    bench = RedisBench(lambda: url, lambda: FolderStore(FolderAddress(tmp_path / "store")))
    engine = await bench.make_redis()
    await engine.start(tmp_path)
    blobs, kept = engine.blobs, await stored(engine.blobs, b"kept")
    kept_not = await stored(blobs)
    async with blobs.create("", MOST) as writer:
        await writer.write(b"before, ")
        (tmp_path / "store").rename(tmp_path / "away")
        (tmp_path / "store").mkdir(mode=0o700)  # the mount point
        for _ in range(2):
            with pytest.raises(EngineUnavailable):
                await content(blobs, kept.id)
            with pytest.raises(EngineUnavailable):
                await stored(blobs)
        tried.clear()
        await blobs.delete(kept_not.id)
        await tried.wait()
        assert list((tmp_path / "store").iterdir()) == []
        (tmp_path / "store").rmdir()
        (tmp_path / "away").rename(tmp_path / "store")
        await writer.write(b"and after")
        blob = await writer.commit()
    assert await content(blobs, blob.id) == b"before, and after"
    assert await content(blobs, kept.id) == b"kept"
    await bench.pass_time(GARBAGE_S)
    await until(lambda: _gone(tmp_path, kept_not))
    assert caplog.text.count("cannot be used") == 1
    assert caplog.text.count("can be used again") == 1
    await bench.close()


async def _gone(folder: Path, blob: Blob) -> bool:
    return not list(folder.glob(f"store/*/{blob.id}"))


async def test_a_folder_that_is_mounted_while_a_file_is_opened(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the file was not there before does not mean that it is lost."""
    url = redis.url()
    bench = RedisBench(lambda: url, lambda: FolderStore(FolderAddress(tmp_path / "store")))
    engine = await bench.make_redis()
    await engine.start(tmp_path)
    blob = await stored(engine.blobs, b"kept")
    (tmp_path / "store").rename(tmp_path / "away")
    real = os.open

    def mounted_too_late(*args: Any, **how: Any) -> int:
        try:
            return real(*args, **how)
        finally:
            if str(args[0]).endswith(blob.id) and (tmp_path / "away").exists():
                (tmp_path / "away").rename(tmp_path / "store")

    monkeypatch.setattr(os, "open", mounted_too_late)
    assert await content(engine.blobs, blob.id) == b"kept"
    await bench.close()


async def test_a_server_of_s3_that_is_away_for_a_while(
    redis: RedisServer, s3_server: S3Server, tmp_path: Path
) -> None:
    url, address = redis.url(), s3_server.address()
    async with Switch(s3_server.port) as switch:
        there = S3Address(
            **{
                **{name: getattr(address, name) for name in address.__slots__},
                "endpoint": f"http://127.0.0.1:{switch.port}",
            }
        )
        bench = RedisBench(lambda: url, lambda: S3Store(there))
        engine = await bench.make_redis()
        await engine.start(tmp_path)
        blobs, data = engine.blobs, os.urandom(3 * PART_BYTES)
        kept = await stored(blobs, data)
        await switch.close()
        with pytest.raises(EngineUnavailable):
            await content(blobs, kept.id)
        for size in (1, 3 * PART_BYTES):
            with pytest.raises(EngineUnavailable):
                await stored(blobs, bytes(size))
        await switch.open()
        assert await content(blobs, kept.id) == data
        assert await content(blobs, (await stored(blobs, b"again")).id) == b"again"
        await bench.close()


class Switch:
    """A connection to a server that can be cut."""

    def __init__(self, port: int) -> None:
        self.port = free_port()
        self._behind = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._lead, "127.0.0.1", self.port)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        self._writers |= {writer, to_writer}
        await asyncio.gather(_copy(reader, to_writer), _copy(to_reader, writer))
        self._writers -= {writer, to_writer}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


# -- which store ------------------------------------------------------------------------------


async def test_a_store_that_the_others_do_not_have_is_noticed(
    redis: RedisServer, place: Place, bench: RedisBench, node: Start, tmp_path: Path
) -> None:
    engine = await node()
    blob = await stored(engine.blobs)
    elsewhere = RedisBench(bench.url, lambda: FolderStore(FolderAddress(tmp_path / "own")))
    other = await elsewhere.make_redis()
    with pytest.raises(ConfigError, match=r"engine\.blobs_url: .* not the place that the other"):
        await other.start(tmp_path)
    assert list((tmp_path / "own").iterdir()) == []
    await elsewhere.close()
    assert await content(engine.blobs, blob.id) == b"x"


async def test_nodes_that_start_at_once_agree(node: Start, place: Place) -> None:
    engines = await asyncio.gather(*(node() for _ in range(4)))
    assert len(await place.spaces()) == 1
    blob = await stored(engines[0].blobs)
    for engine in engines:
        assert await content(engine.blobs, blob.id) == b"x"


async def test_engines_with_one_store_leave_each_other_alone(
    redis: RedisServer,
    place: Place,
    node: Start,
    tmp_path: Path,
    looks: Looks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep, "ORPHAN_S", OLD_S)
    bench = RedisBench(redis.url, place.make)
    one, other = await node(), await bench.make_redis()
    await other.start(tmp_path)
    mine, theirs = await stored(one.blobs, b"mine"), await stored(other.blobs, b"theirs")
    for engine in (one, other):
        await looks.one_more(engine)
    assert await content(one.blobs, mine.id) == b"mine"
    assert await content(other.blobs, theirs.id) == b"theirs"
    await bench.close()
    monkeypatch.setattr(sweep, "UNUSED_S", OLD_S)
    await until(lambda: _only(place, mine))  # the other engine is long gone


async def test_a_server_that_begins_anew_keeps_the_store(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis_server() as server:
        url = server.url()
        bench = RedisBench(lambda: url, place.make)
        engine = await bench.make_redis()
        await engine.start(tmp_path)
        blob = await stored(engine.blobs)
        server.said("FLUSHALL")
        sum_key = f"{engine._link.address.root}sum"
        space = engine.blobs._store.space.encode()  # type: ignore[union-attr]

        async def told() -> bool:
            return bool(await engine._link.call("HGET", sum_key, "blob_space") == space)

        await until(told)
        with pytest.raises(NotFound):
            await content(engine.blobs, blob.id)
        monkeypatch.setattr(sweep, "LOOK_S", 0.0)
        monkeypatch.setattr(sweep, "ORPHAN_S", OLD_S)
        await until(lambda: _none(place))
        await bench.close()


async def test_files_of_a_store_that_a_service_does_not_have(
    redis: RedisServer, bench: RedisBench, blobs: Blobs, tmp_path: Path, caplog: Any
) -> None:
    blob = await stored(blobs)
    without = RedisBench(bench.url)
    other = await without.make_redis()
    await other.start(tmp_path)
    assert "engine.blobs_url is not set" in caplog.text
    with pytest.raises(EngineUnavailable):
        await content(other.blobs, blob.id)
    own = await stored(other.blobs, b"in the server")
    assert await content(blobs, own.id) == b"in the server"
    await without.close()


# -- its address ------------------------------------------------------------------------------


def test_addresses() -> None:
    assert parse_store("") is None
    assert parse_store("file:///srv/a%20b") == FolderAddress(Path("/srv/a b"))
    assert parse_store("s3://bucket") == S3Address("bucket")
    url = "s3://bucket/a/b/?endpoint=https://s3.example.org:9000&region=eu-1&virtual_hosts=true"
    full = parse_store(url, "key", "secret")
    assert full == S3Address(
        "bucket",
        prefix="a/b",
        endpoint="https://s3.example.org:9000",
        region="eu-1",
        virtual_hosts=True,
        access_key="key",
        secret_key="secret",
    )
    assert "secret" not in f"{full!r} {full}"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("/srv/blobs", "unknown store"),
        ("https://example.org", "unknown store"),
        ("file://srv/blobs", "write file:///PATH"),
        ("file:///", "write file:///PATH"),
        ("file:///srv?x=1", "write file:///PATH"),
        ("s3://", "no name of a bucket"),
        ("s3://Bucket", "no name of a bucket"),
        ("s3://key:hidden@bucket", "engine.blobs_access_key"),
        ("s3://bucket?zone=1", "unknown option 'zone'; known: ca_certs, endpoint"),
        ("s3://bucket?endpoint=s3.example.org", "endpoint: write scheme"),
        ("s3://bucket?endpoint=https://a:hidden@s3.example.org", "endpoint: write scheme"),
        ("s3://bucket?virtual_hosts=1", "virtual_hosts is true or false"),
        ("s3://bucket?ca_certs=/nowhere.pem", "No such file"),
    ],
)
def test_an_address_that_is_none(url: str, said: str) -> None:
    config = {"engine": {"url": "redis://example.org", "blobs_url": url}}
    with pytest.raises(ConfigError, match=said) as refusal:
        build(config)
    assert "hidden" not in str(refusal.value)


def test_half_of_the_keys() -> None:
    with pytest.raises(ConfigError, match=r"give engine\.blobs_secret_key too"):
        parse_store("s3://bucket", "key")


def test_the_secret_key_is_not_shown() -> None:
    config = Config.from_mapping({"engine": {"blobs_secret_key": "hidden"}})
    assert effective(config)["engine.blobs_secret_key"] == "***"
    assert effective(Config())["engine.blobs_secret_key"] == ""
    assert "hidden" not in repr(config)


def test_a_store_needs_an_engine_that_is_shared(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"engine\.blobs_url: .* memory://"):
        build({"engine": {"blobs_url": f"file://{tmp_path}"}})


@pytest.mark.parametrize("shown", ["/usr/local/blobs", "/lib/blobs", "{tmp}/packages/blobs"])
def test_a_folder_that_jobs_could_read(tmp_path: Path, shown: str) -> None:
    (tmp_path / "packages").mkdir()
    config = {
        "engine": {
            "url": "redis://example.org",
            "blobs_url": "file://" + shown.replace("{tmp}", str(tmp_path)),
        },
        "runtimes": {"python": {"read_only": [str(tmp_path / "packages")]}},
    }
    with pytest.raises(ConfigError, match="jobs can read"):
        build(config)


@pytest.mark.parametrize("wrong", ["open", "file", "link", "missing", "foreign"])
async def test_a_folder_that_cannot_be_used(tmp_path: Path, wrong: str) -> None:
    folder = tmp_path / "store"
    match wrong:
        case "open":
            folder.mkdir()
            folder.chmod(0o750)
            said = "chmod 700"
        case "file":
            folder.touch()
            said = "not a folder"
        case "link":
            folder.symlink_to(tmp_path)
            said = "is a link"
        case "missing":
            folder = tmp_path / "not" / "there"
            said = "No such file"
        case _:
            folder = Path("/") if os.geteuid() else tmp_path / "store"
            if not os.geteuid():
                folder.mkdir(mode=0o700)
                os.chown(folder, 12345, 12345)
            said = "belongs to the user"
    with pytest.raises(ConfigError, match=said):
        await FolderStore(FolderAddress(folder)).prepare()


async def test_a_bucket_that_cannot_be_used(s3_server: S3Server) -> None:
    address = s3_server.address()
    fields = {name: getattr(address, name) for name in address.__slots__}
    for wrong in (
        {"endpoint": f"http://127.0.0.1:{free_port()}"},
        {"secret_key": "wrong"},
        {"bucket": "nowhere"},
    ):
        with pytest.raises(ServiceError, match=r"engine\.blobs_url: s3://.* cannot be used") as no:
            await S3Store(S3Address(**{**fields, **wrong})).prepare()
        assert address.secret_key not in str(no.value)
