"""Start and close an engine; it may be a plugin's, and its server may be silent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from streamer.bounded import ends_in, within
from streamer.engine.interface import Engine
from streamer.errors import ServiceError

__all__ = ["answer_at_start", "closed", "name_of", "started"]

log: Final = logging.getLogger(__name__)

START_S: Final = 30.0
"""How long to wait for each call of an engine before it can be used."""

CLOSE_S: Final = 10.0


def name_of(engine: Engine) -> str:
    """Return the name of the engine's class, for messages."""
    return f"{type(engine).__module__}.{type(engine).__qualname__}"


@asynccontextmanager
async def started(engine: Engine, folder: Path) -> AsyncIterator[None]:
    """Start an engine, and close it at the end. Raises `ServiceError` if it does not answer."""
    await answer_at_start(engine, "start", engine.start(folder))
    try:
        yield
    finally:
        await closed(engine)


@asynccontextmanager
async def kept_up(engine: Engine) -> AsyncIterator[None]:
    """End the jobs of lost workers while this is open: there may be no other worker to do it."""
    keeping = asyncio.create_task(_keep_reaping(engine), name="streamer-reap")
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def _keep_reaping(engine: Engine) -> None:
    failing = False
    while True:
        await asyncio.sleep(engine.heartbeat_s)
        try:
            await within(engine.heartbeat_s, engine.reap())
        except Exception as error:
            if not failing:
                why = str(error) or "no answer in time"
                expected = isinstance(error, ConnectionError | TimeoutError)
                about = "the jobs of lost workers cannot be ended: %s; trying again"
                log.error(about, why, exc_info=not expected)
            failing = True
        else:
            failing = False


async def closed(engine: Engine) -> None:
    """Close an engine, which need not have been started; do not wait for it without end."""
    if not await ends_in(CLOSE_S, engine.close()):
        log.error("the engine %s did not close within %g s", name_of(engine), CLOSE_S)


async def answer_at_start(engine: Engine, method: str, call: Awaitable[None]) -> None:
    """Wait for a call without which the service cannot start. Raises `ServiceError`."""
    try:
        await within(START_S, call)
    except TimeoutError as error:
        raise ServiceError(
            f"the engine {name_of(engine)} does not answer {method}() ({error}): "
            "can its server be reached?"
        ) from error
