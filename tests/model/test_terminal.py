"""Which parts of a program's output reach a terminal, however it is cut into pieces."""

from __future__ import annotations

import random

import pytest

from streamer.model.terminal import LONGEST_STRING, TerminalFilter, visible


def filtered(data: bytes, *, encoding: str = "utf-8", pieces: int = 0) -> bytes:
    """Filter data at once, or in pieces of that many bytes."""
    stream = TerminalFilter(encoding)
    step = pieces or len(data) or 1
    shown = [stream.feed(data[at : at + step]) for at in range(0, len(data), step)]
    return b"".join(shown) + stream.end()


KEPT = [
    b"",
    b"plain text\nsecond line\r\n",
    b"a\tb\bc\rd",
    b"\x1b[1;31mred\x1b[0m",
    b"\x1b[38;5;200mpink\x1b[38:2::1:2:3mrgb\x1b[m",
    b"50 %\x1b[K\r\x1b[0Kx\x1b[2K",
    "äöü € 日本 🎉 e\u0301".encode(),
]
DROPPED = {
    # Known attacks on terminals, and similar ones.
    b"\x1b]52;c;Y3VybCBldmlsfHNo\x07": b"",
    b"\x1b]0;owned\x07a": b"a",
    b"\x1b]0;owned\x1b\\a": b"a",
    b"\x1b[c\x1b[5n\x1b[6n\x1b[>c\x1b[18ta": b"a",
    b'\x1bP$q"p\x1b\\a': b"a",
    b"\x1b]8;;https://example.org\x1b\\link\x1b]8;;\x1b\\": b"link",
    b"\x1b_Gi=1;AAAA\x1b\\a": b"a",
    b"\x1b^pm\x1b\\\x1bXsos\x1b\\a": b"a",
    b"\x1bkscreen's title\x1b\\a": b"screen's titlea",
    b"\x1b]Pff0000\x07a": b"a",
    # One-byte controls: raw they are invalid UTF-8, encoded some terminals obey them.
    b"\xc2\x9d52;c;AAAA\xc2\x9ca": b"a",
    b"\xc2\x9d52;c;AAAA\x07a": b"a",
    b"\xc2\x9b5na": b"a",
    b"\xc2\x9b31ma\xc2\x9bm": b"\x1b[31ma\x1b[m",
    b"\xc2\x90x\xc2\x9ca\xc2\x85b\xc2\x84": b"ab",
    b"\x9b5n": "\ufffd5n".encode(),
    b"\x9d52;c;AAAA\x07": "\ufffd52;c;AAAA".encode(),
    b"\xe2\x82": "\ufffd".encode(),
    # Modes, screens, scrolling, keys, reset, sets of characters, the bell, the answerback.
    b"\x1b[?1049h\x1b[?2004h\x1b[?25l\x1b[2J\x1b[H\x1b[10;10H\x1b[3Aa": b"a",
    b"\x1b[>4;2m\x1b[?4m\x1b[1 q\x1b[4$ma": b"a",
    b"\x1bc\x1b#8\x1b(0\x1b%@\x1b7\x1b8\x1b=\x1b>\x1bDa": b"a",
    b"\x05\x07\x00\x0b\x0c\x0e\x0f\x7f\x1aa": b"a",
    # Incomplete, and nested.
    b"\x1b[31\x18ma": b"ma",
    b"\x1b[31\x1b[32ma\x1b[0m": b"\x1b[32ma\x1b[0m",
    b"\x1b[3\n1ma\x1b[0m": b"\n\x1b[31ma\x1b[0m",
    b"\x1b\x1b]0;a\x07b": b"b",
    b"\x1b[\xc3\xa4": "ä".encode(),
    b"\x1b]0;a\x1b[31mb\x1b[0m": b"\x1b[31mb\x1b[0m",
    b"\x1b[" + b"1;" * 500 + b"mtext": b"text",
    b"\x1b": b"",
    b"\x1b[31": b"",
    b"\x1b]0;never ends": b"",
    # A colour that the program leaves on.
    b"\x1b[31mred": b"\x1b[31mred\x1b[0m",
}
CASES = [*((data, data) for data in KEPT), *DROPPED.items()]


@pytest.mark.parametrize("pieces", [0, 1, 2, 3])
@pytest.mark.parametrize(("data", "shown"), CASES)
def test_only_text_colours_and_the_line_are_left(data: bytes, shown: bytes, pieces: int) -> None:
    assert filtered(data, pieces=pieces) == shown


def test_a_string_that_does_not_end_hides_no_more_than_its_bound() -> None:
    hidden = b"x" * (LONGEST_STRING - 1)
    assert filtered(b"\x1b]" + hidden + b"\x07shown", pieces=999) == b"shown"
    assert filtered(b"\x1b]" + hidden + b"yshown\n", pieces=999) == b"shown\n"


def test_nothing_but_what_is_allowed_ever_leaves() -> None:
    rng = random.Random(7)
    alphabet = [
        b"\x1b",
        b"[",
        b"]",
        b";",
        b"5",
        b"m",
        b"K",
        b"n",
        b"c",
        b"P",
        b"\\",
        b"\x07",
        b"\n",
    ]
    alphabet += [b"\xc2", b"\x9b", b"\x9d", b"\x9c", b"\x18", b" ", b"?", b"\xe2\x82\xac", b"("]
    for _ in range(3000):
        data = b"".join(rng.choices(alphabet, k=rng.randrange(40)))
        shown = filtered(data)
        assert shown == filtered(data, pieces=rng.randrange(1, 5))
        left = shown.decode()
        for part in left.split("\x1b")[1:]:
            assert part[0] == "["
            assert part[1:].lstrip("0123456789;:")[:1] in ("m", "K"), (data, shown)
        assert not set(left) & {chr(code) for code in (*range(0x7F, 0xA0), 7, 0x18)}


def test_a_terminal_that_is_not_utf_8_gets_no_controls_from_letters() -> None:
    # In UTF-8 these letters have the bytes 0x9b and 0x9d in them.
    for encoding in ("latin-1", "ascii", "iso8859-15"):
        shown = filtered("ě5nĝ52;c;A€ä".encode(), encoding=encoding)
        assert not {byte for byte in shown if 0x80 <= byte < 0xA0}
        assert b"5n" in shown


def test_it_keeps_nothing_of_what_it_has_passed_on() -> None:
    stream = TerminalFilter("utf-8")
    for data in (b"x" * 100_000, b"\x1b[" + b"1" * 100_000, b"m\x1b]" + b"y" * 100_000):
        stream.feed(data)
    kept = sum(len(part) for part in (*stream._out, *stream._parameters))
    assert kept <= 1000


def test_a_message_shows_the_controls_in_it() -> None:
    assert visible("a\nb\x1b]0;x\x07\x9b\x7fä") == "a b\\x1b]0;x\\x07\\x9b\\x7fä"
