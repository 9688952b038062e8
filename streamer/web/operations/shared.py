"""Parameters and headers that several operations have."""

from __future__ import annotations

from typing import Final

from streamer.sse.response import ID_PARAMETERS
from streamer.web.operations.operation import Header, Parameter, Schema
from streamer.web.parameters import FLAGS

__all__ = [
    "ATTACHMENT",
    "BYTES",
    "FLAG",
    "JOB_ID",
    "LAST_EVENT_ID",
    "LOCATION",
    "PAGE_HEADERS",
    "RANGE",
    "REPLAYED",
    "RESUMING",
    "SAFE",
    "STATS",
    "STREAM_HEADERS",
    "TEXT",
]

TEXT: Final[Schema] = {"type": "string"}
BYTES: Final[Schema] = {"type": "string", "format": "binary"}
"""OpenAPI 3.1 needs no schema for bytes, but generators of clients do without the route then."""
FLAG: Final[Schema] = {"type": "string", "enum": list(FLAGS)}

LAST_EVENT_ID: Final = Parameter(
    "Last-Event-ID",
    "The id of the last event that the client has: the stream starts after it. An unknown id "
    "replays everything. Browsers send it when they reconnect.",
    TEXT,
    place="header",
)
RESUMING: Final = (
    LAST_EVENT_ID,
    *(
        Parameter(name, "The same as the header Last-Event-ID, which wins.", TEXT)
        for name in ID_PARAMETERS
    ),
    Parameter("padding", "2049 bytes of comment first, for old browsers; any value.", TEXT),
    Parameter("evs_preamble", "2056 bytes of comment first, for polyfills; any value.", TEXT),
)

STATS: Final = Parameter(
    "stats",
    "Whether a stream has `stats` events too, once a second while a program of the job runs; not a "
    "replay.",
    {**FLAG, "default": "0"},
)

JOB_ID: Final = Header("X-Job-Id", "The id of the job.", TEXT)
LOCATION: Final = Header("Location", "The address of the job's document.", TEXT)
REPLAYED: Final = Header(
    "Idempotency-Replayed",
    "Only if the request repeats an earlier one with the same Idempotency-Key.",
    {"const": "true"},
    always=False,
)
ETAG: Final = Header("ETag", "Changes with the body; send it as If-None-Match.", TEXT)
PAGE_HEADERS: Final = (
    ETAG,
    Header("Cache-Control", "Ask whether it has changed.", {"const": "no-cache"}),
    Header("Content-Security-Policy", "The page uses nothing of other origins.", TEXT),
    Header("Referrer-Policy", "Addresses are told to nobody.", {"const": "no-referrer"}),
    Header("X-Content-Type-Options", "It is what it says.", {"const": "nosniff"}),
)
STREAM_HEADERS: Final = (
    Header("Cache-Control", "Nothing on the way may keep or change the stream.", TEXT),
    Header("X-Accel-Buffering", "nginx sends the stream on at once.", {"const": "no"}),
)
ATTACHMENT: Final = (
    Header("Content-Disposition", "The name of a file to save it in.", TEXT),
    Header("Cache-Control", "It grows while the job runs.", {"const": "no-store"}),
    Header("X-Content-Type-Options", "It is never shown as a page.", {"const": "nosniff"}),
    Header("Content-Security-Policy", "As before.", {"const": "sandbox"}),
    Header("X-Accel-Buffering", "nginx sends it on at once.", {"const": "no"}),
)
SAFE: Final = (
    Header("Content-Disposition", "The name of a file to save it in.", TEXT),
    Header("X-Content-Type-Options", "It is what it says.", {"const": "nosniff"}),
    Header("Content-Security-Policy", "A browser runs nothing in it.", TEXT),
    Header("X-Accel-Buffering", "nginx sends it on at once.", {"const": "no"}),
)
RANGE: Final = Parameter(
    "Range",
    "The part that is wanted: `bytes=0-99`, `bytes=100-` or `bytes=-100`. Several parts at once "
    "are answered with all of it.",
    {**TEXT, "examples": ["bytes=0-99"]},
    place="header",
)
