"""Parse query parameters, and the headers that change what a request does.

Unknown parameters are refused, like unknown fields of a body: a typo is never silently ignored.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from aiohttp import web

from streamer.engine.interface import Idempotency, JobPlace, JobState
from streamer.errors import InvalidRequest, cut, quoted
from streamer.model.tracecontext import parsed_traceparent

__all__ = [
    "CREDENTIALS",
    "Handler",
    "choice",
    "cursor",
    "cursor_text",
    "flag",
    "idempotency",
    "idempotency_key",
    "number",
    "offset",
    "prefer_wait_s",
    "speed",
    "state",
    "takes",
    "traceparent",
]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CREDENTIALS: Final = frozenset(("access_token", "grant"))
"""The parameters that are credentials, for clients that cannot set headers: known everywhere."""
MAX_WAIT_S: Final = 300.0
MAX_KEY_CHARS: Final = 255
STATES: Final[tuple[JobState, ...]] = (
    *("queued", "preparing", "compiling", "running"),
    *("complete", "error"),
)
FLAGS: Final = {"1": True, "true": True, "0": False, "false": False}
# No two neighbouring parts match the same characters, and lengths are bounded: linear time.
WHOLE: Final = re.compile("[0-9]{1,9}")
OFFSET: Final = re.compile("[0-9]{1,15}")
SPEED: Final = re.compile(r"1000(?:\.0{1,9})?|[0-9]{1,3}(?:\.[0-9]{1,9})?")
CURSOR: Final = re.compile(r"([0-9]{1,12}\.[0-9]{1,20})_([0-9a-z]{1,64})")


def takes(handler: Handler, *names: str) -> Handler:
    """Return a handler that refuses unknown query parameters."""
    known = CREDENTIALS | {*names}

    async def checked(request: web.Request) -> web.StreamResponse:
        for name in request.query if request.query_string else ():
            if name not in known:
                taken = f"; known here: {', '.join(sorted(names))}" if names else ""
                raise InvalidRequest(
                    f"unknown query parameter {quoted(name)}{taken}", path=f"?{cut(name)}"
                )
        return await handler(request)

    return checked


def number(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not WHOLE.fullmatch(text) or not least <= int(text) <= most:
        raise InvalidRequest(
            f"{name} must be a whole number from {least} to {most}", path=f"?{name}"
        )
    return int(text)


def offset(request: web.Request, name: str) -> int | None:
    """Return the number of a byte, if it is given."""
    text = request.query.get(name)
    if text is not None and not OFFSET.fullmatch(text):
        raise InvalidRequest(f"{name} must be the number of a byte, from 0 on", path=f"?{name}")
    return None if text is None else int(text)


def flag(request: web.Request, name: str, *, default: bool = False) -> bool:
    text = request.query.get(name)
    if text is None:
        return default
    if text not in FLAGS:
        raise InvalidRequest(f"{name} must be 1 or 0", path=f"?{name}")
    return FLAGS[text]


def choice(request: web.Request, name: str, known: Sequence[str]) -> str | None:
    """Return which of the known values is given, if one is."""
    text = request.query.get(name)
    if text is not None and text not in known:
        raise InvalidRequest(f"{name} must be {' or '.join(known)}", path=f"?{name}")
    return text


def speed(request: web.Request) -> float:
    """Return the speed of a replay; 0 means as fast as possible."""
    text = request.query.get("speed", "0")
    if not SPEED.fullmatch(text):
        raise InvalidRequest("speed must be a number from 0 to 1000", path="?speed")
    return float(text)


def state(request: web.Request) -> JobState | None:
    text = request.query.get("status")
    if text is None:
        return None
    for known in STATES:
        if known == text:
            return known
    raise InvalidRequest(f"status must be one of {', '.join(STATES)}", path="?status")


def cursor_text(place: JobPlace) -> str:
    """Return the text that `cursor` parses: where a list continues, even if its jobs are gone."""
    created_at, job_id = place
    return f"{created_at!r}_{job_id}"


def cursor(request: web.Request) -> JobPlace | None:
    text = request.query.get("cursor")
    if text is None:
        return None
    found = CURSOR.fullmatch(text)
    if found is None:
        raise InvalidRequest("not the nextCursor of a list of jobs", path="?cursor")
    return float(found[1]), found[2]


def prefer_wait_s(request: web.Request) -> float | None:
    """Return how long to wait for the result (RFC 7240); other preferences are ignored."""
    for header in request.headers.getall("Prefer", []):
        for preference in header.split(","):
            name, _, value = preference.partition(";")[0].partition("=")
            if name.strip().lower() != "wait":
                continue
            value = value.strip().removeprefix('"').removesuffix('"')
            if not WHOLE.fullmatch(value):
                raise InvalidRequest(
                    f"Prefer: wait= needs a number of seconds, not {quoted(value)}",
                    path="Prefer",
                )
            return min(float(value), MAX_WAIT_S)
    return None


def idempotency(request: web.Request, body: bytes | bytearray) -> Idempotency | None:
    key = idempotency_key(request)
    return None if key is None else Idempotency(key, hashlib.sha256(body).digest())


def idempotency_key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not 1 <= len(key) <= MAX_KEY_CHARS:
        raise InvalidRequest(
            f"an Idempotency-Key has 1 to {MAX_KEY_CHARS} characters", path="Idempotency-Key"
        )
    return key


def traceparent(request: web.Request) -> str:
    """Return the trace that the caller names, or ``""``; what is invalid is no error (W3C)."""
    text = request.headers.get("traceparent")
    return "" if text is None else parsed_traceparent(text)
