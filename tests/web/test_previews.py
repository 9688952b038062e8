"""What a browser is shown of a file, by its first bytes."""

from __future__ import annotations

import pytest

from streamer.web.previews import preview_type

TEXT = "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("head", "shown"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF87a\0", "image/gif"),
        (b"GIF89a\0", "image/gif"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\x10\0\0\0WAVEfmt ", None),
        (b"", TEXT),
        ("Größe\n\t\x1b[1m€".encode(), TEXT),
        ("€".encode()[:2], TEXT),  # what is looked at ends in a character
        (b"<html><script>alert(1)</script>", TEXT),
        (b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', TEXT),
        (b"%PDF-1.7\n", TEXT),
        (b"\0", None),
        (b"a\xff", None),
        (b"\x7fELF\x02\x01", None),
        (b"a\x07", None),
    ],
)
def test_the_type_of_a_preview(head: bytes, shown: str | None) -> None:
    assert preview_type(head) == shown
