"""Tell whether a file may be shown in a browser, by its first bytes and never by its name.

What a browser could run (HTML, SVG, PDF) is never named as that: it is text or nothing.
"""

from __future__ import annotations

import codecs
from typing import Final

__all__ = ["HEAD_BYTES", "PREVIEWS", "preview_type"]

HEAD_BYTES: Final = 4096
"""How much of a file is looked at."""

TEXT: Final = "text/plain; charset=utf-8"

IMAGES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)

PREVIEWS: Final = ("text/plain", "image/png", "image/jpeg", "image/gif", "image/webp")

BINARY: Final = frozenset(range(32)) - {*b"\t\n\v\f\r\x1b"}
"""Control characters that text does not have; programs colour theirs with escape sequences."""


def preview_type(head: bytes) -> str | None:
    """Return the type of a file that begins with these bytes, or None if it is not shown."""
    for magic, media in IMAGES:
        if head.startswith(magic):
            return media
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    try:
        # The last character may go on behind what was looked at.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return None
    return None if BINARY.intersection(head) else TEXT
