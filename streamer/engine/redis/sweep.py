"""Agree with the other nodes where bytes are, and delete those that no record has any more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from typing import Final

from streamer.engine.redis.scripts import Scripts
from streamer.engine.stores.store import Store
from streamer.errors import ConfigError, EngineUnavailable

__all__ = ["Sweep"]

log: Final = logging.getLogger(__name__)

SWEEP_S: Final = 1.0
"""How often it is asked for bytes whose record is gone."""

LOOK_S: Final = 3600.0
"""How often one of the nodes looks for bytes that never had a record, or in a server that has lost
it."""

ORPHAN_S: Final = 3600.0
UNUSED_S: Final = 7 * 86_400.0
"""So long after the last use the space of another engine is deleted: a server that loses its state
leaves one."""

AT_ONCE: Final = 100


class Sweep:
    """What a node does for the store, from `start` to `close`."""

    def __init__(self, store: Store, scripts: Scripts) -> None:
        self._store = store
        self._scripts = scripts
        self._task: asyncio.Task[None] | None = None
        self._begun_anew = False
        self._lost = False
        """Whether the others have another store now."""

    async def start(self) -> None:
        """Raises `ConfigError` if the other nodes have another store."""
        store = self._store
        await store.prepare()
        space = await self._agreed("")
        if not space:
            new = secrets.token_hex(16)
            await store.touch_space(new)
            space = await self._agreed(new)
            if space != new:  # another node was faster
                await store.delete_space(new)
        if not await store.has_space(space):
            raise ConfigError(
                "engine.blobs_url: this is not the place that the other services use: each machine "
                "must have the same folder there, or the same bucket. If that is lost for good, "
                "delete the field blob_space of the hash `{PREFIX}:1:sum` in the server"
            )
        store.space = space
        await store.touch_space(space)
        self._task = asyncio.create_task(self._run(), name="streamer-redis-sweep")

    def begun_anew(self) -> None:
        """Take note that the server has lost what it had."""
        self._begun_anew = True

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._store.close()

    async def _agreed(self, space: str) -> str:
        found: bytes = await self._scripts.call("blob_space", space)
        return found.decode()

    async def _run(self) -> None:
        while True:
            try:
                if self._begun_anew:
                    await self._agree_again()
                await self._delete_garbage()
                if await self._scripts.ask("blob_look", LOOK_S):
                    await self._look()
            except (EngineUnavailable, OSError):
                pass  # told already
            except Exception:
                # If this ended, nothing would be deleted any more.
                log.exception("stored files could not be swept")
            await asyncio.sleep(SWEEP_S)

    async def _agree_again(self) -> None:
        """Tell the server where the bytes are, unless a new node has told it another place."""
        store = self._store
        space = await self._agreed(store.space)
        if space != store.space:
            if not await store.has_space(space):
                if not self._lost:
                    log.error("other services keep files where this one does not find them")
                self._lost = True
                return
            store.space = space
        self._begun_anew = self._lost = False

    async def _delete_garbage(self) -> None:
        while ids := await self._scripts.call("blob_garbage", AT_ONCE):
            await self._store.delete([one.decode() for one in ids])
            await self._scripts.call("blob_swept", *ids)

    async def _look(self) -> None:
        store = self._store
        await store.touch_space(store.space)
        async with contextlib.aclosing(store.older_than(ORPHAN_S)) as older:
            async for ids in older:
                unknown = await self._scripts.call("blob_unknown", *ids) if ids else []
                if unknown:
                    log.warning("deleting %d stored files that nothing is known of", len(unknown))
                    await store.delete([one.decode() for one in unknown])
        for space in await store.unused_spaces(UNUSED_S):
            log.warning("deleting the stored files of an engine that is gone: %s", space)
            await store.delete_space(space)
