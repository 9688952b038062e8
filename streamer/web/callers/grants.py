"""Grants: texts in a link that open one job for reading, until they expire.

Nothing is stored: a grant says what it opens and until when, and is signed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

from aiohttp import web

__all__ = ["Grant", "Grants", "closing_at_expiry"]

SECRET_S: Final = 1.0
"""How long it is used without a new question, so that bad grants do not make one each."""

# Bounded, and with one form for each grant: a signature in base64 has several otherwise.
FORM: Final = re.compile(r"g1\.([1-9][0-9]{0,14})\.(all|job)\.([A-Za-z0-9_-]{43})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Grant:
    """A job that may be read, until a time in milliseconds since the epoch, perhaps with files."""

    job_id: str
    expires_ms: int
    files: bool


class Grants:
    """Signs and checks grants; `ask` returns the secret, the same in all processes."""

    def __init__(
        self, ask: Callable[[], Awaitable[bytes]], clock: Callable[[], float] = time.time
    ) -> None:
        self.clock = clock
        self._ask = ask
        self._secret = b""
        self._asked_at = 0.0

    def grant(self, job_id: str, seconds: float, *, files: bool) -> Grant:
        return Grant(job_id, round((self.clock() + seconds) * 1000), files)

    async def signed(self, grant: Grant) -> str:
        """Return the text of a grant."""
        return _text(grant, await self._fresh())

    async def opened(self, text: str, job_id: str) -> Grant | None:
        """Return the grant of a text; None if it is none for this job, or has expired."""
        found = FORM.fullmatch(text)
        if found is None:
            return None
        grant = Grant(job_id, int(found[1]), found[2] == "all")
        if self.left_s(grant) <= 0:
            return None
        if time.monotonic() - self._asked_at >= SECRET_S or not self._secret:
            await self._fresh()
        return grant if hmac.compare_digest(_text(grant, self._secret), text) else None

    def left_s(self, grant: Grant) -> float:
        """Return how long it still opens its job; nothing of a second is rounded up."""
        return grant.expires_ms / 1000 - self.clock()

    async def _fresh(self) -> bytes:
        # Who keeps it may have lost it meanwhile, with all jobs.
        self._secret = await self._ask()
        self._asked_at = time.monotonic()
        return self._secret


def _text(grant: Grant, secret: bytes) -> str:
    opens = f"g1.{grant.expires_ms}.{'all' if grant.files else 'job'}"
    # The id cannot have a newline, so no two grants have one message.
    message = f"streamer grant\n{grant.job_id}\n{opens}".encode(errors="surrogatepass")
    digest = hmac.digest(secret, message, hashlib.sha256)
    return f"{opens}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


@contextlib.contextmanager
def closing_at_expiry(request: web.Request, left_s: float) -> Iterator[None]:
    """Close the connection of a request that is still being answered when its grant expires."""

    def close() -> None:
        if request.transport is not None:
            request.transport.close()

    timer = asyncio.get_running_loop().call_later(left_s, close)
    try:
        yield
    finally:
        timer.cancel()
