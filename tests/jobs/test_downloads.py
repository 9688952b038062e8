"""A download holds only the piece of a log that is being sent."""

from __future__ import annotations

import tracemalloc

import pytest

from streamer.eventlog.frames import frame
from streamer.eventlog.joblog import JobLog
from streamer.jobs.downloads import OutputSource
from streamer.model.events import Output, StreamName, encode

PIECE: int = 5_000_000
PIECES: int = 4


class OnDisk(JobLog):
    """A log whose pieces belong to their reader only, like those read back from disk."""

    def __init__(self, stream: StreamName) -> None:
        super().__init__()
        self.stream = stream
        self.held: list[int] = []
        """The pieces in memory each time the next one was requested."""

    async def read(self, after: int) -> tuple[bytes, int]:
        self.held.append(tracemalloc.get_traced_memory()[0])
        if after == PIECES:
            return b"", after
        kind, body = encode(Output(self.stream, "x" * PIECE, 0, "run"))
        return frame(kind, body, after + 1), after + 1


@pytest.mark.parametrize("written", ["stdout", "stderr"])
async def test_it_lets_go_of_what_was_sent_and_of_what_it_passes_over(written: StreamName) -> None:
    log = OnDisk(written)
    sent = 0
    tracemalloc.start()
    try:
        with log.cursor() as cursor:
            source = OutputSource(cursor, "stdout")
            while data := await source.read():
                sent += len(data)
                del data
                source.sent()
    finally:
        tracemalloc.stop()
    assert sent == (PIECE * PIECES if written == "stdout" else 0)
    assert len(log.held) == PIECES + 1
    assert max(log.held) - log.held[0] < PIECE
