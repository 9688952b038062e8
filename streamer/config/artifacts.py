"""The section of the files that jobs leave."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from streamer.config.section import Positive, Section
from streamer.model.job import MIB

__all__ = ["ArtifactsConfig"]


class ArtifactsConfig(Section, frozen=True):
    """``[artifacts]``: how much a job may leave, and how long that may take.

    Where it is kept is in ``[engine]``, and how long in ``[streams]``.
    """

    max_files: Annotated[int, Meta(ge=0, le=10_000)] = 100
    max_bytes: Positive = 64 * MIB
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 10.0
