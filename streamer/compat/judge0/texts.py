"""Texts as Judge0 takes, gives and compares them."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from streamer.errors import InvalidRequest

__all__ = ["NotText", "decoded", "digest", "encoded", "plain"]

LINE: Final = 45
"""So many bytes are a line of 60 characters, as Ruby writes it."""
BLANK: Final = b" \t\n\v\f\r\0"
"""What Ruby's `rstrip` removes."""


class NotText(Exception):
    """An output is no valid UTF-8, and was not asked for in base64."""


def decoded(text: str, name: str) -> bytes:
    """Return the bytes of base64, as leniently as Ruby takes it. Raises `InvalidRequest`."""
    try:
        return base64.b64decode(text.encode("ascii", "ignore") + b"==")
    except binascii.Error:
        raise InvalidRequest(f"{name} is not valid base64") from None


def encoded(data: bytes | bytearray) -> str:
    lines = (binascii.b2a_base64(data[at : at + LINE]) for at in range(0, len(data), LINE))
    return b"".join(lines).decode()


def plain(data: bytes | bytearray) -> str:
    """Return the text of UTF-8. Raises `NotText`."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise NotText from None


def digest(output: bytes | bytearray) -> str:
    """Return what is equal for two outputs that Judge0 takes for the same.

    Those that differ in nothing but blanks at the ends of lines, and lines at the end.
    """
    lines = (line.rstrip(BLANK) for line in bytes(output).split(b"\n"))
    return hashlib.sha256(b"\n".join(lines).rstrip(BLANK)).hexdigest()
