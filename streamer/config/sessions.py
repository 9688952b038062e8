"""The section ``[sessions]``: how many there may be, and how long each lasts."""

from __future__ import annotations

from streamer.config.section import NotNegative, Positive, Seconds, Section
from streamer.model.job import MIB

__all__ = ["SessionsConfig"]


class SessionsConfig(Section, frozen=True):
    """``[sessions]``: the bounds of sessions and of what is read and written in them.

    `max` 0 means that there are none; `max_per_client` 0 is derived from it
    (`streamer.config.shares.Shares`).
    """

    max: NotNegative = 8
    max_per_client: NotNegative = 0
    idle_s: Seconds = 600.0
    total_s: Seconds = 14_400.0
    max_file_bytes: Positive = 64 * MIB
    max_ended: Positive = 1000
