"""The interface of Judge0 CE, as of its version 1.13.1: submissions, alone and in batches."""

from __future__ import annotations

from streamer.compat.judge0.routes import GROUP

__all__ = ["GROUP"]
