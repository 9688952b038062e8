"""The section ``[projects]``: what may be uploaded, and how long it is kept."""

from __future__ import annotations

from streamer.config.section import Positive, Seconds, Section
from streamer.model.job import MIB

__all__ = ["ProjectsConfig"]


class ProjectsConfig(Section, frozen=True):
    """``[projects]``: the bounds of uploads and of what is in them."""

    max_upload_bytes: Positive = 64 * MIB
    max_bytes: Positive = 256 * MIB
    max_files: Positive = 20_000
    max_ratio: Positive = 200
    max_uploads: Positive = 8
    upload_timeout_s: Seconds = 600.0
    keep_s: Seconds = 86_400.0
