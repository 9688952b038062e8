"""The share of the queue, streams and disk that one client may take, so that others have theirs.

A client is a tenant. If callers cannot be told apart (by tokens of several tenants, or by a
plugin), they are one client and may take everything; a number in the configuration holds even
then.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamer.config.schema import Config

__all__ = ["Shares"]


@dataclass(frozen=True, slots=True)
class Shares:
    """The most that one client may have; None means only the bound for all clients together."""

    waiting: int | None
    waiting_bytes: int | None
    running: int | None
    by_places: bool
    """Whether `running` is nothing that was configured, but by the places of this service."""
    readers: int | None
    blob_bytes: int | None
    sessions: int | None
    blobs: int | None
    webhooks: int | None
    webhooks_at_once: int | None

    @classmethod
    def of(cls, config: Config, *, several_clients: bool) -> Shares:
        """Return the shares; `several_clients` is whether callers can be told apart."""
        queue, streams = config.queue, config.streams
        if not several_clients:
            return cls(
                waiting=queue.max_per_client or None,
                waiting_bytes=None,
                running=queue.max_running_per_client or None,
                by_places=False,
                readers=streams.max_readers_per_client or None,
                blob_bytes=config.engine.blob_bytes_per_client or None,
                sessions=config.sessions.max_per_client or None,
                blobs=None,
                webhooks=None,
                webhooks_at_once=None,
            )
        return cls(
            waiting=queue.max_per_client or _half(queue.max_waiting),
            waiting_bytes=_half(queue.max_waiting_bytes),
            # The places of all processes of the service.
            running=queue.max_running_per_client
            or max(queue.places * config.server.workers - 1, 1),
            by_places=not queue.max_running_per_client,
            readers=streams.max_readers_per_client or _half(streams.max_readers),
            blob_bytes=config.engine.blob_bytes_per_client or _half(config.engine.blob_bytes),
            sessions=config.sessions.max_per_client or _half(config.sessions.max),
            blobs=_half(config.engine.max_blobs),
            webhooks=_half(config.webhooks.max_pending),
            webhooks_at_once=_half(config.webhooks.concurrency),
        )


def _half(number: int) -> int:
    return (number + 1) // 2
