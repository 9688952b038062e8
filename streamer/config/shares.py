"""Say what one client may take of what all share, so that none can shut out the others.

A client is a tenant. Where callers are not told apart, by tokens of several tenants or by a
plugin, they are one client with the whole; a number that the configuration gives holds even then.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamer.config.schema import Config

__all__ = ["Shares"]


@dataclass(frozen=True, slots=True)
class Shares:
    """What one client may have: None is no bound but that of all together."""

    waiting: int | None
    waiting_bytes: int | None
    running: int | None
    readers: int | None

    @classmethod
    def of(cls, config: Config, *, told_apart: bool) -> Shares:
        """Return what the configuration says; `told_apart` is whether there is more than one."""
        queue, streams = config.queue, config.streams
        if not told_apart:
            return cls(
                waiting=queue.max_per_client or None,
                waiting_bytes=None,
                running=queue.max_running_per_client or None,
                readers=streams.max_readers_per_client or None,
            )
        return cls(
            waiting=queue.max_per_client or _half(queue.max_waiting),
            waiting_bytes=_half(queue.max_waiting_bytes),
            running=queue.max_running_per_client or max(queue.places - 1, 1),
            readers=streams.max_readers_per_client or _half(streams.max_readers),
        )


def _half(number: int) -> int:
    return (number + 1) // 2
