"""What every engine says when it refuses something."""

from __future__ import annotations

from typing import Final

from streamer.engine.interface import Eof, Input, Measure, Resize, Signal
from streamer.errors import Conflict, Gone, RateLimited, TooLarge, UnknownJob, quoted

__all__ = [
    "INBOX_BYTES",
    "ITEM_BYTES",
    "Item",
    "input_full",
    "input_misplaced",
    "input_too_large",
    "key_gone",
    "no_job",
    "other_request",
    "size_of",
]

Item = Input | Eof | Signal | Resize | Measure

INBOX_BYTES: Final = 1024 * 1024
"""The limit for a job's pending input."""

ITEM_BYTES: Final = 128
"""The size of an item besides its data: two objects and its place, 113 bytes measured."""


def no_job(job_id: str) -> UnknownJob:
    return UnknownJob(f"there is no job {job_id!r}, or not any more")


def other_request(key: str) -> Conflict:
    """Return the error for a key that was used with another request before."""
    return Conflict(
        f"the idempotency key {quoted(key)} was used with another request before: use a new key "
        "for a new job"
    )


def key_gone(key: str) -> Gone:
    """Return the error for a key whose job is no longer kept."""
    return Gone(
        f"the job of the idempotency key {quoted(key)} ran and is no longer "
        "kept; use a new key to run it again"
    )


def input_too_large(size: int) -> TooLarge:
    """Return the error for a piece of input, of this many bytes, that could never fit."""
    return TooLarge(
        f"this piece of input has {size} bytes: send pieces of at most {INBOX_BYTES - ITEM_BYTES}"
    )


def input_full() -> RateLimited:
    return RateLimited("the program has not read its earlier input yet: try again later")


def input_misplaced(does: str, at: int, received: int) -> Conflict:
    """Return the error for input that begins, or ends, where it cannot."""
    return Conflict(f"this {does} at byte {at}, and {received} bytes have come so far")


def size_of(item: Item) -> int:
    match item:
        case Input(data):
            return ITEM_BYTES + len(data)
        case Signal():
            return ITEM_BYTES
        case Eof() | Resize() | Measure():
            return 0  # there is at most one, and it must fit into a full inbox
