"""Write the end of a job to an engine that may fail temporarily."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from streamer.engine.interface import Lease, LeaseLost
from streamer.model.events import JobEvent, encode

__all__ = ["ENGINE_TIMEOUT_S", "finish"]

log: Final = logging.getLogger(__name__)

ENGINE_TIMEOUT_S: Final = 30.0
"""How long to wait for one answer of the engine."""

PAUSES_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 5.0, 5.0)
"""Pauses between the attempts. After the last one the engine ends the job with ``worker_lost``."""


async def finish(lease: Lease, events: Sequence[JobEvent]) -> bool:
    """Write the last events of a job and end it; False if the lease was lost or it failed."""
    encoded = [encode(event) for event in events]
    for pause_s in (*PAUSES_S, None):
        try:
            async with asyncio.timeout(ENGINE_TIMEOUT_S):
                return await lease.finish(encoded)
        except LeaseLost:
            return False
        except Exception:
            log.exception("job %s: the engine did not accept its end", lease.job.job_id)
        if pause_s is not None:
            await asyncio.sleep(pause_s)
    log.error("job %s: its end could not be written", lease.job.job_id)
    return False
