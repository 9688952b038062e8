"""Notice that something which sandboxes show of the host is replaced, or changes.

For templates, and for sandboxes that wait for their jobs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from streamer.errors import SandboxFailure
from streamer.sandbox.drivers.deadlines import fails_after
from streamer.sandbox.host.replaced import What, what_is_at

__all__ = ["Lookout", "Watch"]

log: Final = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""The pause between two looks."""

LOOK_TIMEOUT_S: Final = 5.0
"""After this time nobody waits for a look any longer."""

THREADS: Final = ThreadPoolExecutor(2, "streamer-looks")
"""Only for looking, which may hang with a file system."""


@dataclass(eq=False)
class Watch:
    seen: Mapping[str, What]
    on_change: Callable[[Sequence[str]], None]
    """Called with what has changed, once."""
    content: bool
    """Whether new content counts, besides another file."""

    def changed(self, now: Mapping[str, What]) -> list[str]:
        return [path for path, was in self.seen.items() if self._differ(was, now.get(path, was))]

    def _differ(self, was: What, now: What) -> bool:
        return was.shown != now.shown or (self.content and was.changed_ns != now.changed_ns)


class Lookout:
    """Looks once a second, in a thread, as long as anything is watched."""

    def __init__(self) -> None:
        self._watches: set[Watch] = set()
        self._seen: dict[str, What] = {}
        """What was at each watched path at the last look."""
        self._looking: asyncio.Task[None] | None = None

    async def seen(self, paths: Sequence[str]) -> Mapping[str, What]:
        """Return what was at each path at the last look, or is there now.

        To be watched at once; then start what shows them. So whatever comes there later counts as
        another. Raises `SandboxFailure` if it takes too long, OSError without descriptors.
        """
        found = {path: self._seen[path] for path in paths if path in self._seen}
        if missing := [path for path in paths if path not in found]:
            found.update(await _looked(missing))
        # By now somebody else may watch it, who must have seen the same.
        return {path: self._seen.get(path, what) for path, what in found.items()}

    def watch(
        self,
        seen: Mapping[str, What],
        on_change: Callable[[Sequence[str]], None],
        *,
        content: bool = False,
    ) -> Watch:
        """Call `on_change` when another file is there, or with `content` when it is written too."""
        watch = Watch(seen, on_change, content)
        self._watches.add(watch)
        for path, what in seen.items():
            self._seen.setdefault(path, what)
        if self._looking is None:
            self._looking = asyncio.create_task(self._keep_looking(), name="streamer-looks")
        return watch

    def end(self, watch: Watch) -> None:
        """Watch it no more. Idempotent."""
        self._watches.discard(watch)

    async def _keep_looking(self) -> None:
        try:
            while self._watches:
                await asyncio.sleep(LOOK_S)
                try:
                    now = await _looked(self._watched())
                except OSError:  # out of descriptors
                    log.exception("what sandboxes show could not be looked at")
                    continue
                except SandboxFailure as failure:  # anything may have changed
                    log.error("%s: no sandbox from before is used again", failure)
                    for watch in [*self._watches]:
                        self._watches.discard(watch)
                        watch.on_change([*watch.seen])
                    return
                before = self._seen
                # Some are watched only since the look began.
                self._seen = {path: now.get(path, before[path]) for path in self._watched()}
                if all(before[path] == what for path, what in self._seen.items()):
                    continue  # to compare each of hundreds of watches takes milliseconds
                for watch in [*self._watches]:
                    if changed := watch.changed(now):
                        self._watches.discard(watch)
                        watch.on_change(changed)
        finally:
            self._looking = None
            self._seen.clear()

    def _watched(self) -> set[str]:
        return {path for watch in self._watches for path in watch.seen}

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})


async def _looked(paths: Iterable[str]) -> Mapping[str, What]:
    async with fails_after(LOOK_TIMEOUT_S, "what sandboxes show could not be looked at in time"):
        return await asyncio.get_running_loop().run_in_executor(THREADS, what_is_at, paths)
    raise AssertionError
