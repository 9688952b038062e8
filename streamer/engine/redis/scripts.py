"""Call the operations that run in the server: one library of Lua, which the server keeps.

Each is atomic, and may be repeated after its answer was lost.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from importlib.resources import files
from typing import Any, Final

import msgspec
from redis.exceptions import ResponseError

from streamer.engine.interface import JobView
from streamer.engine.redis.limits import RedisLimits
from streamer.engine.redis.link import Link, Word
from streamer.engine.redis.wire import view_of
from streamer.errors import EngineUnavailable
from streamer.model.logfields import about

__all__ = ["Scripts"]

log: Final = logging.getLogger(__name__)

PARTS: Final = (
    "base", "blobs", "log", "queue", "pace", "places", "sessions", "webhooks", "records", "rates",
    "api",
    "worker", "main",
)  # fmt: skip
"""The parts of the library, in their order: each uses those before it."""

GROWING: Final = frozenset(
    {"submit", "send", "rate_take", "blob_create", "blob_write", "session_open", "session_ask"}
)
"""The operations that a server without memory refuses. All others let jobs end, and free memory."""

TRIES: Final = 3
PAUSE_S: Final = 0.02


class Scripts:
    """The operations of one node.

    `limits` are what the script needs of the configuration; `may_reap` tells whether it may end
    what has lost its worker.
    """

    def __init__(
        self,
        link: Link,
        limits: RedisLimits,
        clock: Callable[[], float] | None,
        may_reap: Callable[[], bool],
    ) -> None:
        folder = files("streamer.engine.redis") / "lua"
        source = "".join((folder / f"{part}.lua").read_text("utf-8") for part in PARTS)
        # By its content, so that services of different versions each have their own. A script of
        # this size would take three times as long: it defines its functions at each call.
        name = f"streamer_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
        self._name = name
        self._growing = f"{name}_growing"
        self._source = (
            f"#!lua name={name}\n{source}"
            f"redis.register_function{{function_name='{name}', callback=serve,"
            " flags={'allow-oom'}}\n"
            f"redis.register_function('{self._growing}', serve)\n"
        )
        self._link = link
        self._clock = clock
        self._may_reap = may_reap
        self._limits = {
            tenant: [
                msgspec.msgpack.encode({**limits.of_script(tenant), "may_reap": may})
                for may in (False, True)
            ]
            for tenant in (None, *limits.tenants)
        }
        self.hear: Callable[[JobView], None] = lambda _: None
        """Called with each job that a call has ended."""

    async def ask(self, op: str, *words: Word, tenant: str | None = None) -> Any:
        """Call an operation once, with the limits of a tenant if it is about one.

        Raises `EngineUnavailable`: then it may have been done.
        """
        now: Word = "" if self._clock is None else repr(self._clock())
        limits = self._limits.get(tenant, self._limits[None])[self._may_reap()]
        name = self._growing if op in GROWING else self._name
        sent = (name, 1, self._link.address.root, op, now, limits, *words)
        try:
            answer = await self._link.call("FCALL", *sent)
        except ResponseError as error:
            if "Function not found" not in str(error):
                raise
            await self._link.call("FUNCTION", "LOAD", "REPLACE", self._source)
            answer = await self._link.call("FCALL", *sent)
        for fields in answer[1:]:
            self._tell(view_of(fields))
        return answer[0]

    async def call(
        self, op: str, *words: Word, marked: bool = False, tenant: str | None = None
    ) -> Any:
        """Call it again when the connection was lost; `marked`, with 1 as the last word then."""
        for number in range(TRIES):
            mark = (int(number > 0),) if marked else ()
            try:
                return await self.ask(op, *words, *mark, tenant=tenant)
            except EngineUnavailable:
                if number == TRIES - 1:
                    raise
            await asyncio.sleep(PAUSE_S)
        raise AssertionError("the last attempt returns or raises")

    def _tell(self, view: JobView) -> None:
        try:
            self.hear(view)
        except Exception:
            log.exception(
                *("job %s: the listener for finished jobs failed", view.job.job_id),
                extra=about(view.job.job_id, view.tenant),
            )
