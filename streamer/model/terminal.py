"""Make a program's output safe to write to a terminal.

A terminal obeys control sequences: some give away the clipboard (OSC 52), set the title, or make
the terminal type an answer into the shell that runs next. Only text, colours and weights (SGR),
CR, LF, BS, TAB and "erase in line" pass; every other control sequence is dropped whole. The
grammar is that of ECMA-48, as in the playground.
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
"""What begins a control string: C1 controls, or ESC and one of these letters."""
STRING_END: Final = re.compile("[\x07\x18\x1a\x1b\x9c]")
PARAMETERS: Final = re.compile("[0-9;:]*")
LONGEST_PARAMETERS: Final = 256
LONGEST_STRING: Final = 65536
"""A string without an end would hide everything after it, so past this length it is given up."""
RESET: Final = "\x1b[0m"


class TerminalFilter:
    """Filter one stream of bytes, cut into pieces anywhere, in linear time.

    The result is in `encoding`. It never ends inside a control sequence, so two streams can
    share a terminal.
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
        """Return what of the next bytes may go to the terminal."""
        return self._filter(self._decoder.decode(data))

    def end(self) -> bytes:
        """Return the rest at the end of the stream, and reset its colours."""
        rest = self._filter(self._decoder.decode(b"", final=True))
        return rest + (RESET.encode(self._encoding) if self._coloured else b"")

    def _filter(self, text: str) -> bytes:
        at = 0
        while at < len(text):
            at = self._state(text, at)
        # On a terminal that is not UTF-8, a continuation byte may be a control character.
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
        """Handle a character that is invalid inside a sequence, as terminals do."""
        char = text[at]
        if char in "\x18\x1a":
            self._state = self._text  # CAN and SUB abort a sequence
        elif char < " " or char == "\x7f":
            self._control(char)  # a newline inside a sequence still ends the line
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
            self._enter_escape()  # ESC \ ends the string, any other ESC aborts it
        else:
            self._state = self._text
        return end + 1


def visible(text: str) -> str:
    """Return a message on one line, with control characters escaped."""
    return LINE.sub(lambda found: " " if found[0] == "\n" else f"\\x{ord(found[0]):02x}", text)
