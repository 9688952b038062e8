"""Make archives, honest and lying ones, and read them as an upload is read."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import tempfile
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable

import zstandard

from streamer.jobs.archives.entries import Bounds, Source
from streamer.jobs.archives.read import Counts, store_project

MIB = 1024 * 1024
BOUNDS = Bounds(entries=100, total=8 * MIB, ratio=100)

Files = dict[str, bytes]


def unpack(
    upload: bytes,
    bounds: Bounds = BOUNDS,
    *,
    boundary: bytes | None = None,
    stop: threading.Event | None = None,
    write: Callable[[bytes], None] | None = None,
) -> tuple[Counts, bytes]:
    """Return the counts and the stored project."""
    with tempfile.TemporaryFile() as file:
        file.write(upload)
        file.flush()
        source = Source(file.fileno(), len(upload), stop or threading.Event())
        stored = bytearray()
        counts = store_project(source, bounds, write or stored.extend, boundary)
        return counts, bytes(stored)


def entries(stored: bytes) -> list[tuple[str, int, bytes]]:
    """Parse a stored project: the name, mode and content of each entry, the last one excepted."""
    found: list[tuple[str, int, bytes]] = []
    at = 0
    while True:
        length, mode, size = struct.unpack_from("<IIQ", stored, at)
        at += 16
        if not length:
            assert (mode, size, at) == (0, at - 16, len(stored))
            return found
        name, content = stored[at : at + length].decode(), stored[at + length :][:size]
        found.append((name, mode, content))
        at += length + size


def files_in(upload: bytes, bounds: Bounds = BOUNDS, boundary: bytes | None = None) -> Files:
    """Return the files of an upload by name."""
    _, stored = unpack(upload, bounds, boundary=boundary)
    return {name: content for name, mode, content in entries(stored) if mode >> 12 == 0o10}


# -- tar ----------------------------------------------------------------------------------------


def member(name: str, size: int = 0, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def tar_of(
    members: Iterable[tarfile.TarInfo | tuple[str, bytes]], form: int = tarfile.PAX_FORMAT
) -> bytes:
    """Return a tar archive; the content of a member without one is zeros."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for one in members:
            info, content = (
                (one, bytes(one.size))
                if isinstance(one, tarfile.TarInfo)
                else (
                    member(one[0], len(one[1])),
                    one[1],
                )
            )
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def raw_header(name: bytes, size: bytes, kind: bytes = b"0", mode: bytes = b"0000644\0") -> bytes:
    """Return a header with the right checksum and whatever is in its fields."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = mode
    block[124 : 124 + len(size)] = size
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def packed(kind: str, data: bytes) -> bytes:
    if kind == "gz":
        return gzip.compress(data, mtime=0)
    return zstandard.compress(data) if kind == "zst" else data


# -- zip ----------------------------------------------------------------------------------------


def zip_of(files: Iterable[tuple[str | zipfile.ZipInfo, bytes]], method: int = 8) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as archive:
        warnings.simplefilter("ignore")  # of a name that is there already
        for name, content in files:
            archive.writestr(name, content, None if isinstance(name, str) else method)
    return out.getvalue()


def zipped(name: str, mode: int, system: int = 3) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = system
    info.external_attr = mode << 16
    return info


class RawZip:
    """A zip archive whose every field can lie."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.directory = bytearray()
        self.count = 0

    def add(
        self,
        name: bytes,
        content: bytes = b"",
        *,
        local_name: bytes | None = None,
        method: int = 8,
        local_method: int | None = None,
        flags: int = 0,
        local_flags: int | None = None,
        size: int | None = None,
        packed: bytes | None = None,
        packed_size: int | None = None,
        crc: int | None = None,
        at: int | None = None,
        attributes: int = 0,
        extra: bytes = b"",
        local: bool = True,
        local_extra: bytes = b"",
        local_sizes: tuple[int, int, int] | None = None,
    ) -> None:
        if packed is None:
            packed = content if method == 0 else zlib.compress(content, wbits=-15)
        local_name = name if local_name is None else local_name
        size = len(content) if size is None else size
        packed_size = len(packed) if packed_size is None else packed_size
        crc = zlib.crc32(content) if crc is None else crc
        place = len(self.body) if at is None else at
        local_crc, local_packed, local_size = local_sizes or (crc, packed_size, size)
        if local:
            self.body += struct.pack(
                "<4s5H3L2H",
                b"PK\3\4",
                20,
                flags if local_flags is None else local_flags,
                method if local_method is None else local_method,
                0,
                0,
                local_crc,
                local_packed & 0xFFFFFFFF,
                local_size & 0xFFFFFFFF,
                len(local_name),
                len(local_extra),
            )
            # Where the length of the extra field lies, nothing of it is there.
            self.body += local_name + (b"" if b"?" in local_extra else local_extra) + packed
        self.directory += struct.pack(
            "<4s6H3L5H2L",
            b"PK\1\2",
            3 << 8 | 20,
            20,
            flags,
            method,
            0,
            0,
            crc,
            packed_size,
            size,
            len(name),
            len(extra),
            0,
            0,
            0,
            attributes,
            place,
        )
        self.directory += name + extra
        self.count += 1

    def end(
        self,
        *,
        count: int | None = None,
        size: int | None = None,
        at: int | None = None,
        disk: int = 0,
        before: bytes = b"",
        comment: bytes = b"",
    ) -> bytes:
        count = self.count if count is None else count
        return (
            bytes(self.body)
            + bytes(self.directory)
            + before
            + struct.pack(
                "<4s4H2LH",
                b"PK\5\6",
                disk,
                disk,
                count,
                count,
                len(self.directory) if size is None else size,
                len(self.body) if at is None else at,
                len(comment),
            )
            + comment
        )


# -- forms --------------------------------------------------------------------------------------


def form_of(parts: Iterable[tuple[bytes, bytes]], boundary: bytes = b"xyz") -> bytes:
    """Return a form; each part has a Content-Disposition and a content."""
    body = b"".join(
        b"--" + boundary + b"\r\nContent-Disposition: form-data; " + disposition
        + b"\r\nContent-Type: text/plain\r\n\r\n" + content + b"\r\n"
        for disposition, content in parts
    )  # fmt: skip
    return body + b"--" + boundary + b"--\r\n"
