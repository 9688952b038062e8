"""Estimate the memory that a job takes in this process, in bytes."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

from streamer.engine.interface import Idempotency
from streamer.engine.webhooks import MOST_RESULT_BYTES
from streamer.model.job import Limits, ResolvedJob, SourceFile

__all__ = ["RECORD_BYTES", "webhook_weight", "weigh", "weight_of"]

RECORD_BYTES: Final = 1792
"""What a job takes besides its values and its events: its record, its log, its places in tables.

1.6 kB measured; tests/engine/test_weight.py measures again."""

OPEN_BYTES: Final = 2048
"""What a job that is not over takes in addition: its inbox, its turn. 1.7 kB measured."""

WEBHOOK_BYTES: Final = 2048 + MOST_RESULT_BYTES
"""What a webhook takes until it is delivered, besides its address and the facts of its job."""

BLOCK_BYTES: Final = 16
"""Allocators round up to it, and large blocks have a header of this size (malloc(3))."""

NUMBER_BYTES: Final = 32 + BLOCK_BYTES
"""At most what a float, or an integer up to 2**60, takes."""

PLAIN: Final = (bytes, int, float, type(None))
"""Types that contain no other objects."""

MANY: Final = (tuple, list, frozenset, set)

INSIDE: Final[dict[type, int]] = {
    **dict.fromkeys((*PLAIN, bool), 0),
    Limits: len(fields(Limits)) * NUMBER_BYTES,
}
"""What is in the objects of a type, where it is always the same."""


def weight_of(job: ResolvedJob, idempotency: Idempotency | None) -> int:
    """Return the memory of a job without its log, until it is over."""
    return RECORD_BYTES + OPEN_BYTES + weigh(job) + weigh(idempotency)


def webhook_weight(job: ResolvedJob) -> int:
    """Return the memory of a job's webhook until it is delivered."""
    return WEBHOOK_BYTES + weigh(job.webhook) + weigh(job.facts)


def weigh(value: object) -> int:
    """Return the memory of a value, with everything in it.

    Objects that several jobs share are counted for each of them: better too much than too little.
    """
    kind = type(value)
    inside = INSIDE.get(kind)
    if inside is None:  # a small job has some sixty values, most of which are plain
        inside = 0 if isinstance(value, str) and value.isascii() else _inside(value, kind)
    return sys.getsizeof(value) + BLOCK_BYTES + inside


def _inside(value: object, kind: type) -> int:
    if isinstance(value, MANY):
        return sum(map(weigh, value))
    if isinstance(value, SourceFile):  # there may be thousands
        return weigh(value.name) + weigh(value.content)
    if isinstance(value, str):
        # After encoding it as JSON a str keeps its UTF-8 form (PyUnicode_AsUTF8AndSize).
        return 0 if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, PLAIN):
        return 0
    if isinstance(value, Mapping):
        return sum(weigh(key) + weigh(item) for key, item in value.items())
    if is_dataclass(value):
        return sum(weigh(getattr(value, name)) for name in _names(kind))
    raise TypeError(f"a job holds a {kind.__name__}, which cannot be weighed")


@functools.cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
