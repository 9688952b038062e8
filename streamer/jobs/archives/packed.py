"""Decompress gzip and zstd, no more of it than is read."""

from __future__ import annotations

import zlib
from typing import Final

import zstandard

from streamer.errors import InvalidRequest, TooLarge
from streamer.jobs.archives.entries import CHUNK_BYTES, RATIO_SLACK, Bounds, Source, Stream

__all__ = ["Gzip", "Unpacked", "zstd"]

MAX_WINDOW_BYTES: Final = 8 * 1024 * 1024
"""The memory for one zstd stream: what every decoder should have (RFC 8878), and zstd -19 needs."""

GZIP: Final = 16 + zlib.MAX_WBITS

MEMBER_BYTES: Final = 1024
MOST_MEMBERS: Final = 1024
"""More members than these must have so many bytes in the mean: a million empty ones take long."""

TAR_BYTES: Final = 8 * 1024
"""What a tar archive may have for each entry besides its content: headers and padding."""


class Gzip:
    """The content of a gzip file, of one or several members (RFC 1952)."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._member = zlib.decompressobj(GZIP)
        self._members = 1
        self._size = 0
        self._left = b""

    def read(self, size: int) -> bytes:
        while True:
            if not self._left:
                self._left = self._source.read(CHUNK_BYTES)
                if not self._left:
                    return self._rest(size)
            self._source.go_on()
            if self._member.eof:
                # Padding with zeros is usual on tapes.
                if not self._left.strip(b"\0"):
                    self._left = b""
                    continue
                self._begin_member()
            try:
                data = self._member.decompress(self._left, size)
            except zlib.error:
                raise InvalidRequest("the archive is damaged: its gzip data is invalid") from None
            self._left = self._member.unused_data or self._member.unconsumed_tail
            self._size += len(data)
            if data:
                return data

    def _begin_member(self) -> None:
        self._member = zlib.decompressobj(GZIP)
        self._members += 1
        if self._members > MOST_MEMBERS + self._size // MEMBER_BYTES:
            raise InvalidRequest("the archive consists of too many small members of gzip")

    def _rest(self, size: int) -> bytes:
        """Return what a member may still give when all of it was read."""
        data = b"" if self._member.eof else self._member.decompress(b"", size)
        if not data and not self._member.eof:
            raise InvalidRequest("the archive is truncated: its gzip data has no end")
        return data


class _Zstd:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).stream_reader(
            source,  # type: ignore[arg-type]
            read_size=CHUNK_BYTES,
            read_across_frames=True,
        )

    def read(self, size: int) -> bytes:
        self._source.go_on()
        try:
            return self._reader.read(size)
        except zstandard.ZstdError:
            raise InvalidRequest(
                "the archive is damaged, or its zstd data needs a window of more than "
                f"{MAX_WINDOW_BYTES} bytes (compress it with --ultra or --long off)"
            ) from None


def zstd(source: Source) -> Stream:
    return _Zstd(source)


class Unpacked:
    """A decompressed stream that never is many times as large as what it was made from.

    Nor has it more than a project may have, since a tar archive may go on with zeros.
    """

    def __init__(self, stream: Stream, source: Source, bounds: Bounds) -> None:
        self._stream = stream
        self._source = source
        self._ratio = bounds.ratio
        self._most = RATIO_SLACK + bounds.total + TAR_BYTES * bounds.entries
        self._size = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._size += len(data)
        if self._size > RATIO_SLACK + self._ratio * self._source.at:
            raise TooLarge(
                f"the archive is more than {self._ratio} times as large when it is decompressed "
                "(projects.max_ratio)"
            )
        if self._size > self._most:
            raise TooLarge(
                f"the archive has more than {self._most} bytes when it is decompressed "
                "(projects.max_bytes, projects.max_files)"
            )
        return data
