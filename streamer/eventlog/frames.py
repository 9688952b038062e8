"""Write and read frames of the event stream format (WHATWG HTML, section 9.2.6).

The order of fields is ``event``, ``data``, ``id``: some clients commit an id when they read its
line, so if it came first, the event would be lost when the connection is cut. Lines end with LF
only. Data that would inject a field is split or refused here, whatever a serialiser returns.
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
"""Turns a pushed value into the text of an event's data; clients get every newline in it as LF."""

GAP: Final = "gap"
HEARTBEAT: Final = b":\n"
"""A comment line without a blank line: the only form that no client takes for a message."""

PADDING_BYTES: Final = 2049
PREAMBLE_BYTES: Final = 2056
"""Old browsers and polyfills show nothing before they have received this many bytes."""

BOM: Final = b"\xef\xbb\xbf"
MAX_RETRY_DIGITS: Final = 9

_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_FORBIDDEN: Final = re.compile("[\r\n\0]")

# JSON text may contain U+0085, U+2028 and U+2029 unescaped, and the specification splits lines at
# CR and LF only. Clients that use str.splitlines (several Python ones) split at those too. Lone
# surrogates can occur in file names; they cannot be encoded as UTF-8.
_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_ESCAPED: Final = re.compile("[\x85\u2028\u2029\ud800-\udfff]")


def to_json(value: Any) -> str:
    """Serialise to one line of JSON; the default serializer.

    Raises TypeError or ValueError for values that JSON does not have, such as NaN.
    """
    text = _encode(value)
    return text if text.isascii() else _ESCAPED.sub(_escape, text)


def check_event(name: str) -> str:
    """Return a valid event name. Raises ValueError if it contains a newline or NUL, or is ``gap``.

    ``gap`` is reserved, so that clients know that it never comes from the application.
    """
    if _FORBIDDEN.search(name):
        raise ValueError(f"the name of an event must not contain CR, LF or NUL: {name!r}")
    if name == GAP:
        raise ValueError(f"the event name {GAP!r} is reserved: it reports lost events")
    name.encode()  # raises for lone surrogates, before anything is kept
    return name


def data_value(text: str) -> bytes:
    """Return a text as the value of ``data:``; each further line gets its own ``data:``.

    Raises UnicodeEncodeError for lone surrogates.
    """
    return joined_lines(text.encode())


def joined_lines(data: bytes) -> bytes:
    """Do the same as `data_value` with bytes of several lines."""
    return b"\ndata: ".join(_LINE_END.split(data))


def frame(event: str, data: bytes, number: int) -> bytes:
    """Return a frame. Unchecked: `event` must be valid, `data` one line or from `data_value`."""
    return b"event: %b\ndata: %b\nid: %d\n\n" % (event.encode(), data, number)


def gap_frame(after: int, last: int) -> bytes:
    """Return the frame that reports the loss of the events after `after`, up to `last`."""
    data = b'{"from":%d,"to":%d,"reason":"retention"}' % (after + 1, last)
    return frame(GAP, data, last)


def comment(text: str = "") -> bytes:
    """Return comment lines, without the blank line that some clients take for a message."""
    return b"".join(b": " + line + b"\n" for line in _LINE_END.split(text.encode()))


def retry(least_ms: int, jitter_ms: int = 0) -> bytes:
    """Return the line that sets how long a client waits before it reconnects, in milliseconds.

    Without the jitter all clients would reconnect at once. There is no blank line after it, because
    some clients would take it for an empty message.
    """
    if least_ms < 1 or jitter_ms < 0:
        raise ValueError(
            "retry must be at least 1 ms: with 0 a browser reconnects in an endless loop"
        )
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
        # A frame has no empty lines, so the first blank line ends it.
        end = data.index(b"\n\n", at) + 2
        event, _, rest = data[at : end - 2].partition(b"\n")
        lines, _, number = rest.rpartition(b"\n")
        text = lines[6:] if b"\n" not in lines else lines[6:].replace(b"\ndata: ", b"\n")
        yield int(number[4:]), event[7:].decode(), text, data[at:end]
        at = end


class EventParser:
    """Parse the bytes of an event stream into (id, event, data), as in section 9.2.6.

    `retry_ms` is the last ``retry`` value, or None. If an incomplete event has more than
    `most_bytes`, `feed` raises ValueError.
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
        """Return the events that these bytes complete. Raises ValueError if one is too large."""
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
            return []  # a long line is joined only once, not for every piece
        text = b"".join(self._rest)
        if not self._begun:
            text = text.removeprefix(BOM)
            self._begun = True
        # A CR at the end may be the first half of CRLF; do not wait for the other half.
        self._after_cr = text.endswith(b"\r")
        *lines, rest = _LINE_END.split(text) if b"\r" in text else text.split(b"\n")
        self._rest, self._rest_bytes = [rest], len(rest)
        return lines


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
