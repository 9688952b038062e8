"""The memory engine: jobs and their logs in the memory of one process.

Only `compose` and the tests import it.
"""

from __future__ import annotations

from streamer.engine.memory.engine import MemoryEngine

__all__ = ["MemoryEngine"]
