"""Turn an upload of any kind into a stored project."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from streamer.errors import InvalidRequest, TooLarge, quoted
from streamer.jobs.archives.entries import Bounds, Entry, Names, Source, refused
from streamer.jobs.archives.multipart import read_form
from streamer.jobs.archives.packed import Gzip, Unpacked, zstd
from streamer.jobs.archives.tar import BLOCK, is_tar, read_tar
from streamer.jobs.archives.zip import read_zip
from streamer.model.project import end_of_project, head_of

__all__ = ["Counts", "store_project"]

ZIP: Final = (b"PK\3\4", b"PK\5\6")
GZIP: Final = b"\x1f\x8b"
ZSTD: Final = b"\x28\xb5\x2f\xfd"
ZSTD_SKIPPED: Final = b"\x2a\x4d\x18"
"""After one byte: a frame that pzstd writes before the others."""


@dataclass(slots=True)
class Counts:
    """What a project has: files, and their bytes."""

    files: int = 0
    bytes: int = 0


def store_project(
    source: Source, bounds: Bounds, write: Callable[[bytes], None], boundary: bytes | None = None
) -> Counts:
    """Read an upload, check it, and hand the stored project to `write`, piece by piece.

    An archive is known by its first bytes; a form has a `boundary`. Raises `InvalidRequest` and
    `TooLarge`, naming the entry if there is one, and `Interrupted`.
    """
    names, counts, size = Names(bounds), Counts(), 0

    def put(data: bytes) -> None:
        nonlocal size
        source.go_on()
        size += len(data)
        write(data)

    entries = _entries(source, bounds) if boundary is None else read_form(source, boundary)
    for entry in entries:
        if entry.folder and entry.name in ("", "."):
            names.add_again(entry.name)  # `tar -c .` begins with the folder itself
            continue
        for folder in names.add(entry.name, folder=entry.folder):
            put(head_of(folder, 0, folder=True))
        counts.bytes += entry.size
        if counts.bytes > bounds.total:
            raise TooLarge(
                f"entry {quoted(entry.name)}: the files of a project have at most {bounds.total} "
                "bytes together (projects.max_bytes)"
            )
        if entry.folder:
            _exhaust(entry)
            continue
        counts.files += 1
        put(head_of(entry.name, entry.size, executable=entry.executable))
        for chunk in entry.content:
            put(chunk)
    if not counts.files:
        raise InvalidRequest("the upload has no files")
    write(end_of_project(size))
    return counts


def _exhaust(entry: Entry) -> None:
    for chunk in entry.content:
        if chunk:
            raise refused(entry.name, "a folder with content")


def _entries(source: Source, bounds: Bounds) -> Iterator[Entry]:
    begin = source.pread(BLOCK, 0)
    if begin.startswith(ZIP):
        return read_zip(source, bounds)
    if begin.startswith(GZIP):
        return read_tar(Unpacked(Gzip(source), source, bounds))
    if begin.startswith(ZSTD) or (begin[1:4] == ZSTD_SKIPPED and begin[0] >> 4 == 5):
        return read_tar(Unpacked(zstd(source), source, bounds))
    if is_tar(begin):
        return read_tar(source)
    raise InvalidRequest(
        "the upload is neither multipart/form-data nor a zip, tar, tar.gz or tar.zst archive"
    )
