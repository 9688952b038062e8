"""Know which backends work on this host, by running a real program in each.

A backend that is missing or fails is refused with its reason, and nothing ever falls
back to a weaker one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from streamer.errors import BackendUnavailable, ConfigError, SandboxFailure
from streamer.jobs import Limits, Phase, Step
from streamer.proxy import PROXY_PORT
from streamer.rootfs import shown
from streamer.sandbox import open_sandbox
from streamer.slots import UidSlots
from streamer.spi import Backend, Isolation, SandboxJob
from streamer.workspace import StateFolder

__all__ = ["Backends"]

log: Final = logging.getLogger(__name__)

TRIAL_TIMEOUT_S: Final = 30.0
TRIAL_EXIT: Final = 23
"""An exit code that nothing but the trial's own program ends with."""


class Backends(Mapping[str, Backend]):
    """The registered backends by name, and which of them work here."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        configured: str,
        path: str,
        *,
        allow_list: bool = False,
    ) -> None:
        """`configured` is a name or ``auto``, `path` the jobs' PATH.

        With `allow_list` jobs may ask for listed hosts, so a backend in `filtering` must be able
        to have a proxy listen in its sandbox.
        """
        if configured != "auto" and configured not in backends:
            raise ConfigError(
                f"sandbox.backend = {configured!r}: there is no such backend; "
                f"there are auto, {', '.join(sorted(backends))}"
            )
        self._backends = backends
        self._configured = configured
        self._path = path
        self._allow_list = allow_list
        self._reasons: dict[str, str] = {}
        self._default = ""
        self._place: tuple[StateFolder, UidSlots | None] | None = None
        self._probing = asyncio.Lock()

    def __getitem__(self, name: str) -> Backend:
        return self._backends[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._backends)

    def __len__(self) -> int:
        return len(self._backends)

    @property
    def default(self) -> str:
        """The backend of jobs that name none."""
        return self._default

    @property
    def filtering(self) -> frozenset[str]:
        """The backends that can hold a job to an allow-list of hosts.

        It takes a network of the job's own, and our init inside to hand out its listener.
        """
        return frozenset(
            backend.name
            for backend in self._backends.values()
            if backend.gated and backend.isolation is not Isolation.NONE
        )

    def settle(self, folder: StateFolder, slots: UidSlots | None) -> None:
        """Say where trials run; before anything is tried."""
        self._place = (folder, slots)

    async def find_default(self) -> None:
        """Decide on the default; ``auto`` takes the strongest that works, never plain.

        Raises `BackendUnavailable` with every reason when there is none.
        """
        if self._configured != "auto":
            candidates = [self._configured]
        else:
            isolated = [b for b in self._backends.values() if b.isolation is not Isolation.NONE]
            isolated.sort(key=lambda backend: (-backend.isolation, backend.name))
            candidates = [backend.name for backend in isolated]
        for name in candidates:
            if not await self.reason(name):
                self._default = name
                if self._backends[name].isolation is Isolation.NONE:
                    log.warning("sandbox %s isolates nothing: run only code you trust", name)
                return
        reasons = "; ".join(f"{name}: {self._reasons[name]}" for name in candidates)
        hint = ", or name another backend in sandbox.backend" if self._configured != "auto" else ""
        raise BackendUnavailable(f"no sandbox works on this host ({reasons}){hint}")

    async def reason(self, name: str) -> str:
        """Return why a backend cannot be used here, or ``""`` if it can. Tried once."""
        async with self._probing:
            if name not in self._reasons:
                self._reasons[name] = await self._try(self._backends[name])
        return self._reasons[name]

    async def reasons(self, names: Sequence[str] | None = None) -> Mapping[str, str]:
        """Return the reason for each known backend; those not in `names` are not tried."""
        return {
            name: await self.reason(name) if names is None or name in names else ""
            for name in self._backends
        }

    async def _try(self, backend: Backend) -> str:
        assert self._place is not None
        folder, slots = self._place
        try:
            async with asyncio.timeout(TRIAL_TIMEOUT_S), contextlib.AsyncExitStack() as stack:
                await backend.probe(folder.host)
                slot = await stack.enter_async_context(slots.lend()) if slots else None
                identity = backend.run_as(slot)
                workspace = await stack.enter_async_context(
                    folder.workspace(
                        f"probe-{backend.name}", identity, on_host=backend.host_workspace
                    )
                )
                env = {"PATH": self._path, "HOME": str(workspace), "LANG": "C.UTF-8"}

                def describe(argv: tuple[str, ...]) -> SandboxJob:
                    return SandboxJob(
                        name=f"probe-{backend.name}",
                        argv=argv,
                        env=env,
                        limits=Limits(),
                        network=False,
                        shown=shown(folder.host, (), (), network=False),
                        identity=identity,
                        host=folder.host,
                    )

                sandbox = await stack.enter_async_context(
                    open_sandbox(backend, folder.host, workspace, describe)
                )
                if self._allow_list and backend.name in self.filtering:
                    (await sandbox.listen(PROXY_PORT)).close()
                null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                stack.callback(os.close, null)
                argv = ("/bin/sh", "-c", f"exit {TRIAL_EXIT}")
                await sandbox.start(Step(Phase.RUN, argv, Limits()), env, (null, null, null))
                end = await sandbox.end()
                if os.waitstatus_to_exitcode(end.status) != TRIAL_EXIT:
                    return f"a trial program ended with wait status {end.status:#x}"
        except BackendUnavailable as unavailable:
            return unavailable.message
        except SandboxFailure as failure:
            return failure.message
        except TimeoutError:
            return f"a trial program did not end within {TRIAL_TIMEOUT_S:.0f} s"
        except Exception as error:
            log.exception("backend %s failed its probe", backend.name)
            return f"{type(error).__name__}: {error}"
        return ""
