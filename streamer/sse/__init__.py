"""Stream events to browsers and other clients, with ids, replay and back-pressure, over aiohttp.

The service streams its jobs with it; an application can stream its own events::

    from streamer import sse

    prices = sse.Channel("prices")
    app.router.add_get("/prices", prices.respond)
    prices.broadcast({"gold": 2650.1}, event="price")

A client that reconnects sends the id of the last event it has and gets the events it missed. See
docs/sse.md. This package imports `streamer.eventlog` only and knows no jobs.
"""

from __future__ import annotations

from streamer.eventlog.frames import EventParser, Serializer, to_json
from streamer.eventlog.log import Cursor, EventLog
from streamer.eventlog.spool import Spool
from streamer.sse.channel import Channel, respond_merged
from streamer.sse.push import PushSession, open_session
from streamer.sse.response import EventStream, StreamOptions, client_id, id_number
from streamer.sse.session import Session
from streamer.sse.sessionmap import Full, SessionMap, SessionView
from streamer.sse.sink import Batch, EventSink
from streamer.sse.sources import FilteredSource, LogSource, MergedSource, merged_positions

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
    "client_id",
    "id_number",
    "merged_positions",
    "open_session",
    "respond_merged",
    "to_json",
]
