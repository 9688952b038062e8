"""What a reader gets of a job and of what it uses, in one stream."""

from __future__ import annotations

from streamer.eventlog.log import EventLog
from streamer.jobs.usage import MeasuredSource


async def test_nothing_follows_the_last_event_of_the_job() -> None:
    events, usage = EventLog(), EventLog()
    with events.cursor() as cursor, usage.cursor() as newest:
        source = MeasuredSource(cursor, usage, newest)
        usage.append([("stats", b"{}")])
        assert await source.read() == b"event: stats\ndata: {}\n\n"
        events.append([("complete", b"{}")], end=True)
        assert await source.read() == b"event: complete\ndata: {}\nid: 1\n\n"
        source.sent()
        assert source.ended
