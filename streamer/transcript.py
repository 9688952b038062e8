"""Put what a program wrote together again, out of its log."""

from __future__ import annotations

import base64
import codecs
from typing import Final

from streamer.events import Output, StreamName, decode
from streamer.log import JobLog
from streamer.sse.frames import split_frames

__all__ = ["EventsGone", "TextOfStream", "output_text", "raw_output", "stream_of"]

READ_BYTES: Final = 64 * 1024 * 1024
"""How much of a log is looked through for a document; a longer one is said to be cut."""


class EventsGone(Exception):
    """Part of the log is not kept any more, so what was asked for cannot be had whole."""


class TextOfStream:
    """Turns the output events of one stream into text: base64 ones may share a character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def decode(self, event: Output) -> str:
        """Return the text that is complete with this event."""
        return self._decoder.decode(raw_output(event)) if event.encoding else event.data


async def output_text(log: JobLog, limit: int) -> dict[str, object]:
    """Return ``stdout`` and ``stderr`` so far, `limit` bytes each at most, and if they are cut."""
    texts = {name: _Text(limit) for name in ("stdout", "stderr")}
    looked_through = 0
    with log.cursor() as cursor:
        while not all(text.full for text in texts.values()):
            data, last = await cursor.read()
            if not data:
                break
            if looked_through > READ_BYTES:
                for text in texts.values():
                    text.cut = True
                break
            looked_through += len(data)
            for _, kind, body, _ in split_frames(data):
                if kind == "gap":
                    for text in texts.values():
                        text.cut = True
                elif kind == "output" and not texts[stream_of(body)].full:
                    event = decode(kind, body)
                    assert isinstance(event, Output)
                    texts[event.stream].add(event)
            cursor.advance(last)
    return {
        "stdout": texts["stdout"].finish(),
        "stderr": texts["stderr"].finish(),
        "stdoutTruncated": texts["stdout"].cut,
        "stderrTruncated": texts["stderr"].cut,
    }


class _Text:
    """One stream's text, as far as it fits."""

    def __init__(self, limit: int) -> None:
        self._room = limit
        self._parts: list[str] = []
        self._decoder = TextOfStream()
        self.full = False
        """Whether nothing more is taken."""
        self.cut = False
        """Whether anything is missing: behind what was taken, or before it."""

    def add(self, event: Output) -> None:
        """Add what fits."""
        text = self._decoder.decode(event)
        size = len(text.encode())
        if size > self._room:
            text = text.encode()[: self._room].decode(errors="ignore")
            self.full = self.cut = True
        self._room -= min(size, self._room)
        self._parts.append(text)

    def finish(self) -> str:
        """Return the text."""
        return "".join(self._parts)


_STDOUT: Final = b'{"stream":"stdout"'


def stream_of(body: bytes) -> StreamName:
    """Return the stream that an output event is of."""
    # The encoder writes fields in their order, so the name is in front.
    return "stdout" if body.startswith(_STDOUT) else "stderr"


def raw_output(event: Output) -> bytes:
    """Return what an output event carries, as bytes."""
    return base64.b64decode(event.data) if event.encoding else event.data.encode()
