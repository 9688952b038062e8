"""Read the files of a form (multipart/form-data, RFC 7578) that was stored as it came."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from streamer.errors import InvalidRequest, quoted
from streamer.jobs.archives.entries import CHUNK_BYTES, Entry, Source, text_of

__all__ = ["read_form"]

MAX_HEAD_BYTES: Final = 8 * 1024
"""The headers of one part: a name has at most 1024 bytes, three times as many when escaped."""

NAME: Final = re.compile(rb';\s*filename="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
NAME_UNQUOTED: Final = re.compile(rb';\s*filename=([^\s;"]+)', re.IGNORECASE)
"""As clients in C# write it (RFC 2183)."""
NAME_ENCODED: Final = re.compile(rb";\s*filename\*=utf-8''([^;\s]*)", re.IGNORECASE)
FIELD: Final = re.compile(rb';\s*name="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
ESCAPED: Final = re.compile(rb"%(22|0[AD])", re.IGNORECASE)
"""What browsers escape in names: quotes and the ends of lines (the WHATWG's URL standard)."""
OCTET: Final = re.compile(rb"%([0-9A-F]{2})", re.IGNORECASE)
ESCAPED_OTHERWISE: Final = re.compile(rb"([A-Z0-9_.~-]|%[0-9A-F]{2})*", re.IGNORECASE)
"""What RFC 3986 leaves as it is, and escapes."""
MUST_BE_ESCAPED: Final = re.compile(rb"%(2F|[89A-F][0-9A-F])", re.IGNORECASE)
"""A slash, or a letter that is not ASCII: browsers send both as they are."""
PLAIN_ENCODINGS: Final = frozenset({b"", b"7bit", b"8bit", b"binary"})


def read_form(source: Source, boundary: bytes) -> Iterator[Entry]:
    """Yield the files of a form. Raises `InvalidRequest`."""
    mark = b"\r\n--" + boundary
    if source.pread(len(mark) - 2, 0) != mark[2:]:
        raise _damaged("it does not begin with its boundary")
    at = len(mark) - 2
    while (after := source.pread(2, at)) != b"--":
        if after != b"\r\n":
            raise _damaged("a line with its boundary is invalid")
        head, begin = _head(source, at)
        end = _find(source, mark, begin)
        yield Entry(_name(head), end - begin, _content(source, begin, end))
        at = end + len(mark)


def _damaged(what: str) -> InvalidRequest:
    return InvalidRequest(f"the form is damaged: {what}")


def _head(source: Source, at: int) -> tuple[bytes, int]:
    """Return the headers of a part, each after the end of a line, and where its content begins."""
    head, end, _ = source.pread(MAX_HEAD_BYTES, at).partition(b"\r\n\r\n")
    if not end:
        raise _damaged(f"the headers of a part have no end within {MAX_HEAD_BYTES} bytes")
    return head, at + len(head) + len(end)


def _name(head: bytes) -> str:
    disposition = encoding = b""
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.lower() == b"content-disposition":
            disposition = value.strip()
        elif key.lower() == b"content-transfer-encoding":
            encoding = value.strip().lower()
    if encoding not in PLAIN_ENCODINGS:
        raise InvalidRequest("a part of a form must not have a Content-Transfer-Encoding")
    if match := NAME_ENCODED.search(disposition):
        return _text(OCTET.sub(_octet, match[1]))
    match = NAME.search(disposition) or NAME_UNQUOTED.search(disposition)
    if match is None or not match[1]:
        field = FIELD.search(disposition)
        shown = quoted(field[1].decode("utf-8", "replace")) if field else "without a name"
        raise InvalidRequest(
            f"the part {shown} is no file: give each part a filename, its path in the project"
        )
    raw = match[1]
    # aiohttp escapes a name as a part of an address (RFC 7578, 2).
    otherwise = ESCAPED_OTHERWISE.fullmatch(raw) and MUST_BE_ESCAPED.search(raw)
    return _text((OCTET if otherwise else ESCAPED).sub(_octet, raw))


def _text(raw: bytes) -> str:
    if raw.endswith(b"/"):
        raise InvalidRequest(f"the part {quoted(text_of(raw))} is a folder: give files only")
    return text_of(raw)


def _octet(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1], 16)])


def _find(source: Source, mark: bytes, begin: int) -> int:
    at = begin
    while window := source.pread(CHUNK_BYTES, at):
        found = window.find(mark)
        if found >= 0:
            return at + found
        if len(window) < len(mark):
            break
        at += len(window) - len(mark) + 1
    raise InvalidRequest("the form is truncated: its last boundary is missing")


def _content(source: Source, at: int, end: int) -> Iterator[bytes]:
    while at < end:
        chunk = source.pread(min(CHUNK_BYTES, end - at), at)
        at += len(chunk)
        yield chunk
