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
    "HEARTBEAT",
    "EventParser",
    "Serializer",
    "check_field",
    "comment",
    "data_value",
    "frame",
    "gap_frame",
    "padding",
    "preamble",
    "retry",
    "split_frames",
    "to_json",
]

Serializer = Callable[[Any], str]
"""Turns what is pushed into the text of an event's data; any line ends in it are kept as LF."""

HEARTBEAT: Final = b":\n"
"""A comment line without a blank line: the one form that no client takes for a message."""

PADDING_BYTES: Final = 2049
PREAMBLE_BYTES: Final = 2056
"""What old browsers and polyfills swallow before they show anything."""

_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_FORBIDDEN: Final = re.compile("[\r\n\0]")

# JSON text may hold U+0085, U+2028 and U+2029 as they are, and the specification splits on CR
# and LF only. Clients that split with str.splitlines (several Python ones) break there too.
_UNUSUAL_LINE_ENDS: Final = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def to_json(value: Any) -> str:
    """Serialise to one line of JSON; the default of everything here."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.translate(_UNUSUAL_LINE_ENDS)


def check_field(name: str, value: str) -> str:
    """Return a value for ``event`` or ``id``. Raises ValueError if it could end its line.

    A NUL in an id makes browsers ignore the id, so it is refused as well.
    """
    if _FORBIDDEN.search(value):
        raise ValueError(f"{name} {value!r} may hold no CR, LF or NUL")
    return value


def data_value(text: str) -> bytes:
    """Return a text as the value of ``data:``, which each line end in it continues on a new one.

    Raises UnicodeEncodeError for lone surrogates, which are no text.
    """
    return b"\ndata: ".join(_LINE_END.split(text.encode()))


def frame(event: str, data: bytes, number: int) -> bytes:
    """Return a frame. Unchecked: `event` is a name, `data` of one line or from `data_value`."""
    return b"event: %b\ndata: %b\nid: %d\n\n" % (event.encode(), data, number)


def gap_frame(after: int, last: int) -> bytes:
    """Return the frame that tells one reader that the events after `after`, to `last`, are gone."""
    data = b'{"from":%d,"to":%d,"reason":"retention"}' % (after + 1, last)
    return frame("gap", data, last)


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
    """Turn bytes of an event stream into (id, event, data), as section 9.2.6 says."""

    def __init__(self) -> None:
        self._rest = b""
        self._kind = ""
        self._data: list[str] = []
        self._id = ""

    def feed(self, data: bytes) -> list[tuple[str, str, str]]:
        """Return the events that these bytes complete."""
        # Our service ends lines with LF only, and a proxy does not change that.
        *lines, self._rest = (self._rest + data).split(b"\n")
        events: list[tuple[str, str, str]] = []
        for raw in lines:
            line = raw.removesuffix(b"\r").decode(errors="replace")
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line:
                if self._data:
                    events.append((self._id, self._kind or "message", "\n".join(self._data)))
                self._kind, self._data = "", []
            elif field == "event":
                self._kind = value
            elif field == "data":
                self._data.append(value)
            elif field == "id" and "\0" not in value:
                self._id = value
        return events
