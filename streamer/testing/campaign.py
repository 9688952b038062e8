"""Run attacks on one backend, and check the host, the service and other jobs meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import random
import re
import secrets
import socket
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from streamer.compose import Parts
from streamer.config.schema import SandboxConfig
from streamer.doctor.lures import Lures, lay_lures, marked_processes
from streamer.environments.build import build
from streamer.environments.packages import Wanted
from streamer.jobs.job import Job
from streamer.model.environment import Environment
from streamer.model.events import Event, Status
from streamer.model.filenames import why_not_name
from streamer.model.job import Case, JobSpec, TerminalSize
from streamer.model.languages import DEFAULT_RUNTIMES
from streamer.model.session import SessionSpec
from streamer.sandbox.enforcement import enforcement
from streamer.spi import Backend
from streamer.testing.attack import Attack, NoProof
from streamer.testing.neighbour import Neighbour, keep_build
from streamer.testing.processes import adopt_orphans, kept_besides
from streamer.testing.running import SLOWNESS, Ran, open_service, run_job, script
from streamer.testing.sessionfiles import misled

__all__ = ["Campaign", "Outcome", "open_campaign"]

LANES: Final = 4
"""How many attacks run at a time, each with its own lures."""
LIMITS: Final = {"wall_time_s": 30.0 * SLOWNESS, "cpu_time_s": 6.0 * SLOWNESS}
"""Limits for compilers too, which a caller cannot lower: an attack there must end."""

GUARD_S: Final = 5.0
"""From here on the wall limit of an attack is no part of it: another end comes long before."""

TERMINAL: Final = TerminalSize(80, 24)
SHARED_FOLDERS: Final = ("/tmp", "/var/tmp", "/dev/shm")
KNOCK_S: Final = 0.02
BUILD: Final = "escape-build"
"""The name of a language whose compiler is the attack."""
ENVIRONMENTS: Final = "environments"
"""The folder with packages; it has nothing else."""
OWN: Final = "packages"
OTHER: Final = "packages-of-others"
"""The names of environments: of attacks on packages, and of nobody here."""
LINE_END: Final = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Outcome:
    attack: str
    not_promised: str
    """Why the backend does not promise to withstand it, or ``""`` if it does."""
    achieved: tuple[str, ...]
    """What the attack achieved."""
    broken: tuple[str, ...] = ()
    """Broken rules for every job: nothing is left of it, one verdict, others are unharmed."""

    @property
    def faults(self) -> tuple[str, ...]:
        return self.broken if self.not_promised else (*self.achieved, *self.broken)


@dataclass
class Campaign:
    """A started service with one backend, and the lures."""

    backend: Backend
    service: Parts
    state: Path
    exceptions: Mapping[str, str]
    """Attacks by name that the backend's author does not promise to withstand, and why."""
    enforces: Mapping[str, str]
    """How each limit is enforced here (`streamer.sandbox.enforcement`)."""
    width: int
    """How many attacks run at a time."""
    lanes: asyncio.Queue[Lures] = field(default_factory=asyncio.Queue)
    """The lures that no attack uses at the moment."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def not_promised(self, attack: Attack) -> str:
        """Return why the backend does not promise to withstand an attack, or ``""`` if it does."""
        return self.exceptions.get(attack.name) or attack.not_promised(self.backend, self.enforces)

    async def attempt(self, attack: Attack) -> Outcome:
        """Run one attack. Raises `NoProof` if it proves nothing."""
        if attack.terminal and not self.backend.terminals():
            return Outcome(attack.name, "its programs have no terminals", ())
        async with self._lane(self.width if attack.alone else 1) as lures:
            achieved: list[str] = []
            broken: list[str] = []
            before, folders = self._processes(), self._folders()
            project = await self._project(attack)
            session = await self._session(attack)
            for _ in range(attack.times):
                judged, wrong = await self._run(attack, lures, project, session)
                achieved += judged
                broken += wrong
                if session is not None:
                    achieved += await misled(self.service.jobs.sessions, session, lures.secret)
            if project is not None:
                await self.service.jobs.projects.delete(project)
            if session is not None:
                await self._end(session)
            if attack.alone and (left := self._processes()) != before:
                broken.append(f"processes were left on the host: {left}, before {before}")
            if attack.alone and (new := self._folders() - folders):
                achieved.append(f"folders were left on the host: {sorted(new)}")
            achieved += await lures.disturbed()
        return Outcome(attack.name, self.not_promised(attack), tuple(achieved), tuple(broken))

    def _processes(self) -> dict[int, str]:
        return kept_besides(self.service.worker.pool)[0]

    def _folders(self) -> set[str]:
        return {str(path) for path in self.state.glob("*/jobs/[0-9a-f]*")}

    @asynccontextmanager
    async def _lane(self, width: int) -> AsyncIterator[Lures]:
        async with self._turn:
            taken = [await self.lanes.get() for _ in range(width)]
        try:
            yield taken[0]
        finally:
            for lures in taken:
                self.lanes.put_nowait(lures)

    def remove_notes(self) -> None:
        """Remove files that jobs left for each other in the host's folders."""
        for folder in SHARED_FOLDERS:
            for pattern in ("note-streamer-lure-*", "neighbour-*"):
                for note in Path(folder).glob(pattern):
                    with contextlib.suppress(OSError):
                        note.unlink()

    async def _project(self, attack: Attack) -> str | None:
        """Upload the project of an attack, which all of its runs get; return its id."""
        if not attack.project:
            return None
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name, content in attack.project.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content.encode()))

        async def data() -> AsyncIterator[bytes]:
            yield packed.getvalue()

        return (await self.service.jobs.projects.upload(data())).id

    async def _session(self, attack: Attack) -> str | None:
        """Open the session of an attack, in which all of its runs are; return its id."""
        if not attack.session:
            return None
        can = (await self.service.jobs.capabilities()).backends[self.backend.name].keeps
        spec = SessionSpec(limits=dict(attack.limits), keep_processes=attack.keeps and can)
        return (await self.service.jobs.sessions.open(spec)).session.session_id

    async def _end(self, session: str) -> None:
        """End a session, and wait until nothing is left of it."""
        await self.service.jobs.sessions.end(session)
        async with asyncio.timeout(GUARD_S * SLOWNESS):
            while self.service.worker.sessions.get(session) is not None:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)

    async def _run(
        self, attack: Attack, lures: Lures, project: str | None, session: str | None
    ) -> tuple[list[str], list[str]]:
        mark = secrets.token_hex(8)
        hint = self._hint(lures, mark)
        achieved: list[str] = []
        broken: list[str] = []
        async with AsyncExitStack() as stack:
            if attack.neighbour:
                beside = Neighbour(self.service, lures)
                hint["neighbour"] = await stack.enter_async_context(beside.running(achieved))
            if attack.build:
                await keep_build(self.service, BUILD, lures)
            job = await self.service.jobs.submit(_job(attack, hint, project, session))
            if attack.knocks:
                stack.enter_context(_knocking(hint["door"], lures))
            ran = await self._followed(job, broken, alone=attack.alone)
            # Checked at once: the terminal event promises that everything is dead.
            if (alive := marked_processes(mark)) and not attack.keeps:
                broken.append(f"processes {alive} of the job were alive after its terminal event")
            broken += await _frame_faults(job, len(ran.events))
            if attack.artifacts:
                kept, wrong = await self._kept(job, lures)
                achieved += kept
                broken += wrong
        try:
            return [*achieved, *attack.judge(ran)], broken
        except NoProof as failure:
            raise NoProof(f"{attack.name}: {failure}") from None

    async def _followed(self, job: Job, broken: list[str], *, alone: bool) -> Ran:
        events: list[Event] = []
        other: asyncio.Task[Ran] | None = None
        async for event in job.events():
            events.append(event)
            running = isinstance(event.data, Status) and event.data.state == "running"
            if alone and running:
                other = asyncio.create_task(run_job(self.service, command=("echo", "served")))
        if other is not None and (served := await other).text() != "served\n":
            broken.append(f"another job meanwhile ended by {served.verdict}")
        ran = Ran(tuple(events))
        try:
            _ = ran.end
        except AssertionError:
            broken.append("the last event is not its only terminal event")
        return ran

    async def _kept(self, job: Job, lures: Lures) -> tuple[list[str], list[str]]:
        """Look through the files that were kept of a job; return what it achieved, and faults."""
        achieved, broken, size = [], [], 0
        for file in await job.files():
            size += file.blob.bytes
            if why := why_not_name(file.name):
                broken.append(f"a file is kept as {file.name!r}: {why}")
            async with job.open_file(file) as fd:
                found = await asyncio.to_thread(os.pread, fd, file.blob.bytes, 0)
            if lures.secret.encode() in found:
                achieved.append(f"{file.name!r}, which was kept of it, has the secret")
        if size > self.service.config.artifacts.max_bytes:
            broken.append(f"{size} bytes of files were kept")
        if not await job.purge():
            broken.append("its record cannot be deleted")
        return achieved, broken

    def _hint(self, lures: Lures, mark: str) -> dict[str, Any]:
        half = len(lures.secret) // 2
        return {
            "abstract": lures.abstract,
            "door": _free_port(),
            "folder": str(lures.folder),
            "host_name": socket.gethostname(),
            "ipc_key": random.randrange(1, 2**31),
            "mark": mark,
            "note": f"note-{lures.abstract}",
            "other_environment": str(self.state / ENVIRONMENTS / OTHER),
            "pid_namespace": str(Path("/proc/self/ns/pid").readlink()),
            "plants": [str(plant) for plant in lures.plants],
            "port": lures.port,
            "readable": str(lures.readable),
            "run_socket": str(lures.run_socket or ""),
            "secret": [lures.secret[:half], lures.secret[half:]],
            "server": os.getpid(),
            "socket": str(lures.socket),
            "state": str(self.state),
            "victim": lures.victim.pid,
            "witness": lures.witness.pid,
            "writable": str(lures.writable),
        }


@asynccontextmanager
async def open_campaign(
    backend: type[Backend],
    *,
    options: Mapping[str, Any] | None = None,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    exceptions: Mapping[str, str] | None = None,
    lanes: int = LANES,
) -> AsyncIterator[Campaign]:
    """Start a service for attacks on one backend. Raises `BackendUnavailable`.

    `options` are those of the backend, `config` further sections of the configuration; `lanes` is
    how many attacks run at a time.
    """
    adopt_orphans()
    async with AsyncExitStack() as stack:
        state = stack.enter_context(_state_folder())
        runtime = {"entry": "attack.py", "compile": ["python3", "-I", "attack.py"], "run": ["true"]}
        packages = state / ENVIRONMENTS
        environments = {name: _environment(packages / name) for name in (OWN, OTHER)}
        sections: dict[str, Mapping[str, Any]] = {
            "queue": {"concurrency": 2 * lanes + 2},
            "limits": {"default": LIMITS},
            "server": {"state_dir": str(state)},
            "runtimes": {BUILD: runtime},
            "environments": environments,
            # No attack is compiled twice: each has a hint of its own.
            "compile_cache": {"max_bytes": 2**20},
            **(config or {}),
        }
        service = await stack.enter_async_context(open_service(backend, options or {}, sections))
        found = service.worker.backends[backend.name]
        enforces = enforcement(found, service.worker.cgroup_level)
        campaign = Campaign(found, service, state, exceptions or {}, enforces, lanes)
        stack.callback(campaign.remove_notes)
        for _ in range(lanes):
            campaign.lanes.put_nowait(await stack.enter_async_context(lay_lures()))
        yield campaign


@contextlib.contextmanager
def _state_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="escape-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # sandboxes run as other users than root
        yield folder


def _environment(folder: Path) -> dict[str, Any]:
    """Build an environment with one module, and return its table of the configuration."""
    environment = Environment(folder.name, ("python",), str(folder))
    build(environment, DEFAULT_RUNTIMES["python"], SandboxConfig().path, Wanted((), ()))
    (site,) = folder.glob("lib/python3*/site-packages")
    module = site / "trusted.py"
    module.write_text("VALUE = 'as built'\n")
    module.chmod(0o644)
    return {"languages": ["python"], "path": str(folder)}


def _job(
    attack: Attack, hint: Mapping[str, Any], project: str | None, session: str | None
) -> JobSpec:
    env = {"ESCAPE_HINT": json.dumps(hint)}
    limits = dict(attack.limits)
    if limits.get("wall_time_s", 0.0) >= GUARD_S:
        limits["wall_time_s"] *= SLOWNESS
    if attack.language in ("c", "cpp"):
        source = attack.source.replace("@READABLE@", hint["readable"])
        return JobSpec(language=attack.language, code=source, env=env, limits=limits)
    file = script("attack.py", attack.source)
    if attack.language == "build":
        return JobSpec(language=BUILD, files=(file,), env=env, limits=limits)
    if attack.environment:
        return JobSpec(
            language="python",
            environment=OWN,
            files=(file,),
            entry="attack.py",
            env=env,
            limits=limits,
        )
    return JobSpec(
        command=("python3", "-I", "attack.py"),
        files=(file,),
        project_id=project,
        session_id=session,
        env=env,
        limits=limits,
        stdin=None if attack.terminal else b"",
        terminal=TERMINAL if attack.terminal else None,
        cases=(Case(),) * attack.cases,
        artifacts=attack.artifacts,
    )


@contextlib.contextmanager
def _knocking(port: int, lures: Lures) -> Iterator[None]:
    """Try to connect to a port of the host that a job may have opened."""

    async def knock() -> None:
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                lures.contacts.append("a port that the job opened on the host")
                return
            await asyncio.sleep(KNOCK_S)

    task = asyncio.create_task(knock())
    try:
        yield
    finally:
        task.cancel()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def _frame_faults(job: Job, events: int) -> list[str]:
    """Read the job's stream as a client does, and return forged frames."""
    text, last = "", 0
    async with job.follow() as log:
        while last < log.last_id:
            frames, last = await log.read(last)
            text += frames.decode()
    lines = LINE_END.split(text)
    told = [line for line in lines if line in ("event: complete", "event: error")]
    if len(told) != 1 or lines.count("") != events + 1:
        return ["its stream has frames that nobody sent"]
    return []
