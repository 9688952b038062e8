"""Read and write what a job has left in its session, and tell whether that misleads the service."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Final

from streamer.errors import CallerError, CapacityError, StreamerError
from streamer.jobs.sessions import Sessions
from streamer.model.session import Listed
from streamer.testing.running import SLOWNESS

__all__ = ["misled"]

TIMEOUT_S: Final = 30.0
MOST_BYTES: Final = 1024 * 1024


async def misled(sessions: Sessions, session_id: str, secret: str) -> list[str]:
    """Read, write and remove every name in a session; return what went wrong."""
    found: list[str] = []
    try:
        async with asyncio.timeout(TIMEOUT_S * SLOWNESS):
            listed = await sessions.files(session_id)
            for file in listed.files[:200]:
                found += await _misled_by(sessions, session_id, file.name, secret)
            found += await _touched(sessions, session_id, listed)
    except TimeoutError:
        found.append("a request about its files did not end")
    except CallerError:
        pass  # the session has ended
    return found


async def _misled_by(sessions: Sessions, session_id: str, name: str, secret: str) -> list[str]:
    # What is in a folder that is a link is no name of the workspace, but may be asked for.
    for asked in (name, f"{name}/secret", f"{name}/passwd"):
        try:
            async with sessions.read(session_id, asked) as part:
                content = await asyncio.to_thread(os.pread, part.fd, MOST_BYTES, 0)
        except StreamerError:
            continue
        if secret.encode() in content or b"root:x:0:0:" in content:
            return [f"{asked!r} was read from outside, and is a file of the host"]
    return []


async def _touched(sessions: Sessions, session_id: str, listed: Listed) -> list[str]:
    """Write to and remove what is no file; what that does to the host is seen by others."""
    found = []
    for file in listed.files:
        if file.kind in ("file", "folder"):
            continue
        for name in (file.name, f"{file.name}/new"):
            try:
                await sessions.write(session_id, name, _content())
                found.append(f"{name!r} was written, though a {file.kind} was there")
            except (CallerError, CapacityError):
                pass
    return found


async def _content() -> AsyncIterator[bytes]:
    yield b"written from outside"
