"""The engine of one process: jobs and their logs in its memory."""

from __future__ import annotations

from streamer.engine.memory.engine import MemoryEngine

__all__ = ["MemoryEngine"]
