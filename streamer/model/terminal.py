"""Make what a program wrote fit for somebody's terminal.

A terminal obeys its input: it gives away the clipboard (OSC 52), takes a title, and types its
answers to questions into the shell that runs next. So only text, colours and weights (SGR), CR, LF,
BS, TAB and "erase in line" go through; every other control is dropped whole. The grammar is
ECMA-48's, the same as the playground's.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

__all__ = ["TerminalFilter", "visible"]

CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
LINE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
KEPT: Final = frozenset("\n\r\b\t")
C1_CSI: Final = "\x9b"
C1_STRINGS: Final = frozenset("\x90\x98\x9d\x9e\x9f")
ESC_STRINGS: Final = frozenset("PX]^_")
"""What begins a string: C1 controls, or the letters that follow ESC in their place."""
STRING_END: Final = re.compile("[\x07\x18\x1a\x1b\x9c]")
PARAMETERS: Final = re.compile("[0-9;:]*")
LONGEST_PARAMETERS: Final = 256
LONGEST_STRING: Final = 65536
"""A string that never ends would hide all that follows, so past this it counts as abandoned."""
RESET: Final = "\x1b[0m"


class TerminalFilter:
    """Filters one stream of bytes, in whatever pieces they come. Takes time by their number.

    What goes out is in `encoding`, and never a part of a sequence: two streams can share a
    terminal.
    """

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._state = self._text
        self._parameters: list[str] = []
        self._swallowed = 0
        self._coloured = False
        self._out: list[str] = []

    def feed(self, data: bytes) -> bytes:
        """Return what may go to the terminal of the next bytes."""
        return self._filter(self._decoder.decode(data))

    def end(self) -> bytes:
        """Return what is left at the end: the stream's colours go with it."""
        rest = self._filter(self._decoder.decode(b"", final=True))
        return rest + (RESET.encode(self._encoding) if self._coloured else b"")

    def _filter(self, text: str) -> bytes:
        at = 0
        while at < len(text):
            at = self._state(text, at)
        # Where the terminal is not UTF-8, a continuation byte may be a control to it.
        out = "".join(self._out).encode(self._encoding, "replace")
        self._out.clear()
        return out

    def _text(self, text: str, at: int) -> int:
        found = CONTROL.search(text, at)
        end = found.start() if found else len(text)
        self._out.append(text[at:end])
        if found:
            self._control(found[0])
        return end + 1

    def _control(self, char: str) -> None:
        if char in KEPT:
            self._out.append(char)
        elif char == "\x1b":
            self._enter_escape()
        elif char == C1_CSI:
            self._enter_csi()
        elif char in C1_STRINGS:
            self._enter_string()

    def _enter_escape(self) -> None:
        self._parameters = []
        self._state = self._escape

    def _enter_csi(self) -> None:
        self._parameters = []
        self._state = self._csi

    def _enter_string(self) -> None:
        self._swallowed = 0
        self._state = self._string

    def _escape(self, text: str, at: int) -> int:
        char = text[at]
        if char == "[" and not self._parameters:
            self._enter_csi()
        elif char in ESC_STRINGS and not self._parameters:
            self._enter_string()
        elif " " <= char <= "/":
            self._parameters = [char]  # as in ESC ( B: more is to come
        elif "0" <= char <= "~":
            self._state = self._text
        else:
            return self._stray(text, at)
        return at + 1

    def _csi(self, text: str, at: int) -> int:
        char = text[at]
        if " " <= char <= "?":
            if len(self._parameters) < LONGEST_PARAMETERS:
                self._parameters.append(char)
        elif "@" <= char <= "~":
            self._state = self._text
            self._dispatch(char)
        else:
            return self._stray(text, at)
        return at + 1

    def _dispatch(self, final: str) -> None:
        parameters = "".join(self._parameters)
        short = len(parameters) < LONGEST_PARAMETERS
        if final in "mK" and short and PARAMETERS.fullmatch(parameters):
            self._out.append(f"\x1b[{parameters}{final}")
            if final == "m":
                self._coloured = parameters not in ("", "0")

    def _stray(self, text: str, at: int) -> int:
        """Handle what has no place inside a sequence, as terminals do."""
        char = text[at]
        if char in "\x18\x1a":
            self._state = self._text  # CAN and SUB break a sequence off
        elif char < " " or char == "\x7f":
            self._control(char)  # a line end inside a sequence still ends the line
        else:
            self._state = self._text
            return at
        return at + 1

    def _string(self, text: str, at: int) -> int:
        room = LONGEST_STRING - self._swallowed
        found = STRING_END.search(text, at, at + room)
        end = found.start() if found else min(len(text), at + room)
        self._swallowed += end - at
        if found is None:
            if self._swallowed >= LONGEST_STRING:
                self._state = self._text
            return end
        if found[0] == "\x1b":
            self._enter_escape()  # ESC \ ends it, and any other ESC breaks it off
        else:
            self._state = self._text
        return end + 1


def visible(text: str) -> str:
    """Return a message in one line, with every control in it made visible."""
    return LINE.sub(lambda found: " " if found[0] == "\n" else f"\\x{ord(found[0]):02x}", text)
