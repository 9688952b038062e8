"""Replay a run at its own pace."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec

from streamer.eventlog.frames import HEARTBEAT, split_frames
from streamer.eventlog.log import Cursor
from streamer.model.events import TERMINAL_KINDS

__all__ = ["PacedSource"]

HELD_BYTES: Final = 250
"""The memory of a held frame besides its bytes."""

NAP_S: Final = 0.25
"""The longest sleep of a paced stream, so that it can be closed in between."""


class _Timed(msgspec.Struct):
    t: int | None = None


_timed: Final = msgspec.json.Decoder(_Timed)


class PacedSource:
    """A log's events with the original pauses between them, divided by `speed`.

    The terminal event has no time and is sent when the run ended, `end_ms` after the job was
    accepted; other events without a time, such as gaps, are sent with the event that follows. A
    client that resumes continues after the event that it names.
    """

    def __init__(
        self, cursor: Cursor, *, speed: float, end_ms: int | None, heartbeat_s: float
    ) -> None:
        self._cursor = cursor
        self._speed = speed
        self._end_ms = end_ms
        self._heartbeat_s = heartbeat_s
        self._held: deque[tuple[int, int, bytes]] = deque()
        self.held_bytes = 0
        """Frames that were read and are not due yet."""
        self._last_ms = 0
        self._read_to = cursor.position
        self._next = cursor.position
        self._origin: float | None = None
        self._spoke_at = time.monotonic()
        self.cursors: Sequence[Cursor] = (cursor,)

    async def read(self) -> bytes:
        """Return the frames whose time has come."""
        if not self._held and not await self._fetch():
            return b""
        if self._origin is None:
            self._origin = time.monotonic() - self._held[0][0] / 1000 / self._speed
        due = (time.monotonic() - self._origin) * 1000 * self._speed
        frames = []
        while self._held and self._held[0][0] <= due:
            _, self._next, made = self._held.popleft()
            self.held_bytes -= len(made) + HELD_BYTES
            frames.append(made)
        if frames:
            self._spoke_at = time.monotonic()
            return b"".join(frames)
        if time.monotonic() - self._spoke_at >= self._heartbeat_s:
            self._spoke_at = time.monotonic()
            return HEARTBEAT
        await asyncio.sleep(min((self._held[0][0] - due) / 1000 / self._speed, NAP_S))
        return b""

    def sent(self) -> None:
        if self._next != self._cursor.position:
            self._cursor.advance(self._next)

    @property
    def ended(self) -> bool:
        return not self._held and self._cursor.at_end

    async def _fetch(self) -> bool:
        data, self._read_to = await self._cursor.log.read(self._read_to)
        untimed: list[tuple[int, bytes]] = []
        for number, kind, body, made in split_frames(data):
            untimed.append((number, made))
            t = _timed.decode(body).t
            if t is None and kind in TERMINAL_KINDS:
                t = self._end_ms or 0
            if t is not None:
                self._hold(untimed, t)
                untimed = []
        self._hold(untimed, 0)
        return bool(data)

    def _hold(self, frames: Sequence[tuple[int, bytes]], t: int) -> None:
        self._last_ms = max(self._last_ms, t)
        for number, made in frames:
            self._held.append((self._last_ms, number, made))
            self.held_bytes += len(made) + HELD_BYTES
