"""Stream events to browsers and other clients, with ids, replay and back-pressure, over aiohttp.

What the service uses for its jobs, for an application's own events::

    from streamer import sse

    prices = sse.Channel("prices")
    app.router.add_get("/prices", prices.respond)
    prices.broadcast({"gold": 2650.1}, event="price")

A client that loses its connection comes back with the id of the last event it has and gets what it
missed. See docs/sse.md.
"""

from __future__ import annotations

from streamer.sse.channel import Batch, Channel, EventSink, PushSession, open_session
from streamer.sse.frames import EventParser, Serializer, to_json
from streamer.sse.log import Cursor, EventLog
from streamer.sse.response import EventStream, StreamOptions
from streamer.sse.session import Full, Session, SessionMap, SessionView
from streamer.sse.sources import FilteredSource, LogSource, MergedSource
from streamer.sse.spool import Spool

__all__ = [
    "Batch",
    "Channel",
    "Cursor",
    "EventLog",
    "EventParser",
    "EventSink",
    "EventStream",
    "FilteredSource",
    "Full",
    "LogSource",
    "MergedSource",
    "PushSession",
    "Serializer",
    "Session",
    "SessionMap",
    "SessionView",
    "Spool",
    "StreamOptions",
    "open_session",
    "to_json",
]
