"""Write and read frames of the event stream format (WHATWG HTML, section 9.2.6).

Field order is ``event``, ``data``, ``id``: some clients commit an id when they read its
line, so an id that comes first is lost with a cut event. Lines end with LF only. What would
let data become a field of its own is split or refused here, whatever a serialiser gives.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

__all__ = [
    "GAP",
    "HEARTBEAT",
    "EventParser",
    "Serializer",
    "check_event",
    "comment",
    "data_value",
    "frame",
    "gap_frame",
    "joined_lines",
    "padding",
    "preamble",
    "retry",
    "split_frames",
    "to_json",
]

Serializer = Callable[[Any], str]
"""Turns what is pushed into the text of an event's data; a client sees any line end in it as LF."""

GAP: Final = "gap"
HEARTBEAT: Final = b":\n"
"""A comment line without a blank line: the one form that no client takes for a message."""

PADDING_BYTES: Final = 2049
PREAMBLE_BYTES: Final = 2056
"""What old browsers and polyfills swallow before they show anything."""

BOM: Final = b"\xef\xbb\xbf"
MAX_RETRY_DIGITS: Final = 9

_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_FORBIDDEN: Final = re.compile("[\r\n\0]")

# JSON text may hold U+0085, U+2028 and U+2029 as they are, and the specification splits on CR
# and LF only. Clients that split with str.splitlines (several Python ones) break there too.
# Surrogates without their other half are what a file's name may hold; UTF-8 has none of them.
_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_ESCAPED: Final = re.compile("[\x85\u2028\u2029\ud800-\udfff]")


def to_json(value: Any) -> str:
    """Serialise to one line of JSON; the default of everything here.

    Raises TypeError or ValueError for what JSON does not have, NaN among it.
    """
    text = _encode(value)
    return text if text.isascii() else _ESCAPED.sub(_escape, text)


def check_event(name: str) -> str:
    """Return a name for an event. Raises ValueError if it could end its line, or is ours.

    ``gap`` is: clients shall know that it never comes from the application.
    """
    if _FORBIDDEN.search(name):
        raise ValueError(f"the name of an event may hold no CR, LF or NUL: {name!r}")
    if name == GAP:
        raise ValueError(f"{GAP!r} tells a client what it missed; no other event has this name")
    name.encode()  # raises for lone surrogates, before anything is kept
    return name


def data_value(text: str) -> bytes:
    """Return a text as the value of ``data:``, which each line end in it continues on a new one.

    Raises UnicodeEncodeError for lone surrogates, which are no text.
    """
    return joined_lines(text.encode())


def joined_lines(data: bytes) -> bytes:
    """Return bytes of several lines as the value of ``data:``, as `data_value` does."""
    return b"\ndata: ".join(_LINE_END.split(data))


def frame(event: str, data: bytes, number: int) -> bytes:
    """Return a frame. Unchecked: `event` is a name, `data` of one line or from `data_value`."""
    return b"event: %b\ndata: %b\nid: %d\n\n" % (event.encode(), data, number)


def gap_frame(after: int, last: int) -> bytes:
    """Return the frame that tells one reader that the events after `after`, to `last`, are gone."""
    data = b'{"from":%d,"to":%d,"reason":"retention"}' % (after + 1, last)
    return frame(GAP, data, last)


def comment(text: str = "") -> bytes:
    """Return comment lines, without the blank line that some clients take for a message."""
    return b"".join(b": " + line + b"\n" for line in _LINE_END.split(text.encode()))


def retry(least_ms: int, jitter_ms: int = 0) -> bytes:
    """Return the line that says when to reconnect, in milliseconds.

    The jitter keeps clients from coming back all at once: the protocol knows no other. There
    is no blank line after it, as alone it would be an empty message to some clients.
    """
    if least_ms < 1 or jitter_ms < 0:
        raise ValueError("retry is at least 1 ms: 0 makes a browser reconnect in a storm")
    return b"retry: %d\n" % (least_ms + random.randint(0, jitter_ms))


def padding() -> bytes:
    """Return a comment that fills the buffers of old browsers (``?padding``)."""
    return b":" + b" " * (PADDING_BYTES - 2) + b"\n"


def preamble() -> bytes:
    """Return the comment that a polyfill of EventSource asks for (``?evs_preamble``)."""
    return b":" + b" " * (PREAMBLE_BYTES - 2) + b"\n"


def split_frames(data: bytes) -> Iterator[tuple[int, str, bytes, bytes]]:
    """Yield (number, event, data, frame) of frames made by `frame`.

    Several ``data:`` lines come back as one, with LF between them.
    """
    at = 0
    while at < len(data):
        # No line of a frame is empty, so the first blank line ends it.
        end = data.index(b"\n\n", at) + 2
        event, _, rest = data[at : end - 2].partition(b"\n")
        lines, _, number = rest.rpartition(b"\n")
        text = lines[6:] if b"\n" not in lines else lines[6:].replace(b"\ndata: ", b"\n")
        yield int(number[4:]), event[7:].decode(), text, data[at:end]
        at = end


class EventParser:
    """Turn bytes of an event stream into (id, event, data), as section 9.2.6 says.

    `retry_ms` is what the stream said last of when to come back, None before that. What is not a
    whole event yet may have `most_bytes`; beyond it `feed` raises ValueError.
    """

    def __init__(self, *, most_bytes: int | None = None) -> None:
        self.retry_ms: int | None = None
        self._most = most_bytes
        self._rest_bytes = 0
        self._data_chars = 0
        self._rest: list[bytes] = []
        self._begun = False
        self._after_cr = False
        self._kind = ""
        self._data: list[str] = []
        self._id = ""

    def feed(self, data: bytes) -> list[tuple[str, str, str]]:
        """Return the events that these bytes complete. Raises ValueError for too large a one."""
        events: list[tuple[str, str, str]] = []
        for raw in self._lines(data):
            line = raw.decode(errors="replace")
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line:
                if self._data:
                    events.append((self._id, self._kind or "message", "\n".join(self._data)))
                self._kind, self._data, self._data_chars = "", [], 0
            elif field == "event":
                self._kind = value
            elif field == "data":
                self._data.append(value)
                self._data_chars += len(value) + 1
            elif field == "id" and "\0" not in value:
                self._id = value
            elif field == "retry" and value.isascii() and value.isdigit():
                self.retry_ms = int(value[:MAX_RETRY_DIGITS])
        if self._most is not None and self._rest_bytes + self._data_chars > self._most:
            raise ValueError(f"an event of the stream has more than {self._most} bytes")
        return events

    def _lines(self, data: bytes) -> list[bytes]:
        """Return the lines that these bytes complete."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        self._rest.append(data)
        self._rest_bytes += len(data)
        if b"\n" not in data and b"\r" not in data:
            return []  # a long line is joined once, and not with every piece of it
        text = b"".join(self._rest)
        if not self._begun:
            text = text.removeprefix(BOM)
            self._begun = True
        # A CR at the end may be the first half of a line end, but is not waited for the other.
        self._after_cr = text.endswith(b"\r")
        *lines, rest = _LINE_END.split(text) if b"\r" in text else text.split(b"\n")
        self._rest, self._rest_bytes = [rest], len(rest)
        return lines


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
