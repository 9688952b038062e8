"""Lend sandboxes to jobs, to the tests of backends and to the doctor.

So what is tested is what jobs get. A sandbox is opened by a command of its own or, where the
backend has them and they work here, from a template: when it is requested, or before, with the
program in it that its job will want (`streamer.sandbox.held`).
"""

from __future__ import annotations

import contextlib
import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from streamer.errors import SandboxFailure
from streamer.model.capabilities import Ahead
from streamer.sandbox.cgroups.cgroup import Cgroup, Level
from streamer.sandbox.cgroups.slots import GroupSlots
from streamer.sandbox.cgroups.tree import CgroupTree, cgroup_tree
from streamer.sandbox.drivers import protocol
from streamer.sandbox.drivers.direct import Direct
from streamer.sandbox.drivers.driver import Driver
from streamer.sandbox.drivers.gated import Gated, start
from streamer.sandbox.drivers.spawn import start_command
from streamer.sandbox.forks import ForkBounds, Forks
from streamer.sandbox.held import HeldSandboxes
from streamer.sandbox.host.replaced import What
from streamer.sandbox.host.state import StateFolder, state_folder
from streamer.sandbox.host.users import JobUsers
from streamer.sandbox.launch import explained, places_of, same_paths, session_of
from streamer.sandbox.lifeline import Lifeline
from streamer.sandbox.lookout import Lookout
from streamer.sandbox.meter import Alarm
from streamer.sandbox.sandbox import Sandbox, Way
from streamer.sandbox.seccomp import job_filter
from streamer.sandbox.series import SeriesRoom
from streamer.sandbox.shape import Program, Shape
from streamer.sandbox.templates import Templates
from streamer.spi import Backend, Identity, Isolation, LaunchPlan, SandboxJob, TemplatePlan

__all__ = ["NO_LATER_JOBS", "Pool", "done_by", "open_pool"]

SPARE: Final = 8
"""Users beyond those of the places, for sandboxes that are being closed or were opened ahead."""

NO_LATER_JOBS: Final = "nothing is kept for later jobs, since there are none"


class Pool:
    """Opens sandboxes, and has what this process needs to open them."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        folder: StateFolder,
        cgroups: CgroupTree | None,
        groups: GroupSlots | None,
        users: JobUsers | None,
        trial_users: JobUsers | None,
        *,
        strict_filter: bool,
        places: int,
        lasting: int = 0,
        forks: ForkBounds | None = None,
    ) -> None:
        """`groups` are lent below `cgroups`.

        `trial_users` are for tests of backends, which never wait for jobs, nor jobs for them.

        `strict_filter` selects the system call filter of the preset ``strict``. With `forks` some
        languages fork their programs.
        """
        self._backends = backends
        self.folder = folder
        self.cgroups = cgroups
        self._groups = groups
        self._users = users
        self._trial_users = trial_users
        self._strict_filter = strict_filter
        self.short_lived = False
        """Whether it is for one job, or for tests of backends only."""
        self.forks = Forks(forks or ForkBounds())
        # One for each place, some that are being closed, and one for tests.
        most = (places + lasting + SPARE + 1) * (
            2 if forks else 1
        )  # as many that have become programs
        self.lifeline = Lifeline()
        """Until when the programs of jobs may run."""
        self.lookout = Lookout()
        self.templates = Templates(folder.host, self.lookout, most, self._template_entry, forks)
        self.held = HeldSandboxes(self._open, self._shows, self.lookout, self.forks.may, places)
        self.series = SeriesRoom(self.held, SPARE if users is None else users.spare)

    @property
    def cgroup_level(self) -> Level | None:
        return None if self.cgroups is None else self.cgroups.level

    @property
    def ahead(self) -> Ahead:
        """What was done before the jobs."""
        return replace(
            self.held.ahead,
            not_held={name: self.held.why_not(name) for name in self._backends},
            forks={name: self.forks.languages(name) for name in self._backends},
            forked=self.forks.count,
            not_forked={name: self.forks.unforked(name) for name in self._backends},
        )

    @property
    def no_templates(self) -> str:
        """Why no backend uses templates here, or ``""``."""
        return NO_LATER_JOBS if self.short_lived else ""

    def offers_template(self, shape: Shape) -> bool:
        """Return whether the backend has a template for sandboxes of this shape."""
        job = self._described(shape, "", None)
        return self._template_plan(self._backends[shape.backend], job, for_trial=True) is not None

    async def lend(
        self,
        shape: Shape,
        program: Program | None = None,
        *,
        for_trial: bool = False,
        from_template: bool = True,
    ) -> Sandbox:
        """Lend a sandbox; the caller must close it.

        `program` is the first that a job will run in it, if it may have been started before the job
        and may be for the next such job, or if it may be forked. For a trial `from_template` and
        `program` select what is tested, and a template that fails is a failure; a job gets a
        sandbox of its own then.

        Raises `SandboxFailure` with the wrapper's message, for the operator, and then leaves
        nothing behind.
        """
        if for_trial or not from_template:
            return await self._open(
                shape, program, for_trial=for_trial, from_template=from_template
            )
        program = self.forks.as_tested(shape.backend, program)
        self.forks.wanted(shape, program)
        return await self.held.lend(shape, program)

    async def lend_to_session(self, shape: Shape) -> Sandbox:
        """Lend one of the sandboxes that are not for jobs; otherwise as `lend`."""
        return await self._open(shape)

    async def _open(
        self,
        shape: Shape,
        program: Program | None = None,
        *,
        for_trial: bool = False,
        from_template: bool = True,
    ) -> Sandbox:
        backend = self._backends[shape.backend]
        users = self._trial_users if for_trial else self._users
        # Random: other accounts see the names of folders and commands.
        name = secrets.token_hex(8)
        ran_out = Alarm()
        forked = program if for_trial else self.forks.chosen(shape, program)
        async with contextlib.AsyncExitStack() as held:
            identity, cgroup = None, None
            if users is not None:
                user = await held.enter_async_context(
                    users.lend(partial(self.templates.users_of, forked))
                )
                identity = backend.run_as(user)
            workspace = await held.enter_async_context(
                self.folder.workspaces.lend(name, identity, on_host=backend.host_workspace)
            )
            job = self._described(shape, name, identity)
            plan = None
            if from_template:
                plan = self._template_plan(backend, job, for_trial=for_trial)
            if self._groups is not None:
                uid = identity.uid if plan is not None and identity is not None else None
                cgroup = await held.enter_async_context(self._groups.lend(ran_out.set, uid))
            driver: Driver | None = None
            way: Way = "own"
            fresh_until = math.inf
            if plan is not None:
                made = await self._from_template(
                    backend, job, plan, cgroup, held, forked, for_trial=for_trial
                )
                if made is not None:
                    driver, fresh_until = made
                    way = "template" if driver.forked_from is None else "forked"
            if driver is None:
                driver = await self._start(backend, job, workspace, cgroup, held)
            if isinstance(driver, Gated) and not for_trial:
                driver.lifeline = self.lifeline
            return Sandbox(
                driver,
                identity,
                cgroup,
                ran_out,
                held.pop_all(),
                way=way,
                same=same_paths(job),
                fresh_until=fresh_until,
            )
        raise AssertionError

    async def close(self) -> None:
        """End what outlives sandboxes, within a time limit; all of them must be closed."""
        await self.held.close()
        await self.templates.close()
        await self.lookout.close()

    async def shown_now(
        self, shape: Shape, program: Program, more: Sequence[str]
    ) -> Mapping[str, What]:
        """Return what is now at the paths that make a sandbox and a program in it what they are.

        `more` are further paths. Raises `SandboxFailure` if it takes too long, OSError.
        """
        return await self.lookout.seen((*self._shows(shape, program), *more))

    def _shows(self, shape: Shape, program: Program | None) -> Sequence[str]:
        """Return the paths of the host that make a sandbox, and a program in it, what they are.

        They change when a name is added in /etc that is shown.
        """
        shown = self.folder.shown(shape.read_only, shape.etc, network=shape.network)
        places = () if program is None else places_of(program)
        return (*self.folder.host.folders, *(one.source for one in shown), *places)

    def _described(self, shape: Shape, name: str, identity: Identity | None) -> SandboxJob:
        return SandboxJob(
            name=name,
            argv=(str(self.folder.host.init), "serve", *["--terminal"] * shape.terminal),
            env={},
            limits=shape.limits,
            network=shape.network,
            shown=self.folder.shown(shape.read_only, shape.etc, network=shape.network),
            identity=identity,
            host=self.folder.host,
            terminal=shape.terminal,
            tmp_bytes=shape.tmp_bytes,
        )

    def _template_plan(
        self, backend: Backend, job: SandboxJob, *, for_trial: bool
    ) -> TemplatePlan | None:
        """Return the plan of a template that can serve the job, or None."""
        job = replace(job, argv=(str(self.folder.host.init), "template"))
        return self.templates.plan(backend, job, for_trial=for_trial)

    def _template_entry(self, identity: Identity | None) -> tuple[str, ...]:
        """Return the options with which a user's template enters its control group."""
        if identity is None or self.cgroups is None or not self.cgroups.by_user:
            return ()
        try:
            return self.cgroups.template_entry(identity.uid)
        except OSError as error:
            raise SandboxFailure(f"the template has no control group: {error}") from error

    async def _from_template(
        self,
        backend: Backend,
        job: SandboxJob,
        plan: TemplatePlan,
        cgroup: Cgroup | None,
        held: contextlib.AsyncExitStack,
        program: Program | None,
        *,
        for_trial: bool,
    ) -> tuple[Gated, float] | None:
        """Let a template make the sandbox; None if the job must get its own.

        With a `program` one that has become that, if this works. Return also until when the
        sandbox may be lent.
        """
        if program is not None:
            try:
                made = await self._made(plan, backend, job, cgroup, held, program)
                if made is not None:
                    self.forks.worked(backend.name, program)
                    return made
            except SandboxFailure as failure:
                if for_trial:
                    raise
                self.forks.failed(backend.name, program, failure)
        try:
            made = await self._made(plan, backend, job, cgroup, held, None)
        except SandboxFailure as failure:
            if for_trial:
                raise
            self.templates.failed(backend.name, failure)
            return None
        if made is not None:
            self.templates.worked(backend.name)
        return made

    async def _made(
        self,
        plan: TemplatePlan,
        backend: Backend,
        job: SandboxJob,
        cgroup: Cgroup | None,
        held: contextlib.AsyncExitStack,
        program: Program | None,
    ) -> tuple[Gated, float] | None:
        async with contextlib.AsyncExitStack() as opened:
            lent = self.templates.lent(plan, job.shown, program)
            template = await opened.enter_async_context(lent)
            if template is None:
                return None
            group = cgroup.clone_folder if cgroup is not None else ""
            entry_fds = cgroup.entry_fds() if cgroup is not None else ()
            gated = template.sandbox(
                plan, group, entry_fds, by_group=done_by(cgroup), terminal=job.terminal
            )
            opened.push_async_callback(gated.close)
            await self._come_up(backend, gated)
            await self._prepare(backend, gated, plan.launch, cgroup)
            held.push_async_callback(opened.pop_all().aclose)
            return gated, template.until
        raise AssertionError

    async def _start(
        self,
        backend: Backend,
        job: SandboxJob,
        workspace: Path,
        cgroup: Cgroup | None,
        held: contextlib.AsyncExitStack,
    ) -> Driver:
        def entry() -> tuple[str, ...]:
            return cgroup.entry if cgroup is not None else ()

        if job.identity is not None and backend.isolation < Isolation.NAMESPACES:
            await self.templates.end_those_of(job.identity)
        if not backend.gated:

            def session(
                argv: tuple[str, ...], env: Mapping[str, str]
            ) -> contextlib.AbstractAsyncContextManager[LaunchPlan]:
                return session_of(backend, replace(job, argv=argv, env=env), workspace)

            direct = Direct(session, workspace, self.folder.host, entry)
            held.push_async_callback(direct.close)
            return direct
        plan = await held.enter_async_context(session_of(backend, job, workspace))
        command = start_command(plan, self.folder.host, entry())
        by_group = done_by(cgroup)
        gated = start(plan, command, walk_disk=backend.host_workspace, by_group=by_group)
        held.push_async_callback(gated.close)
        await self._come_up(backend, gated)
        for litter in plan.litter:
            (workspace / litter).unlink(missing_ok=True)
        await self._prepare(backend, gated, plan, cgroup)
        return gated

    async def _come_up(self, backend: Backend, gated: Gated) -> None:
        try:
            await gated.come_up()
        except SandboxFailure as failure:
            await gated.close()
            raise explained(failure, gated, backend) from None

    async def _prepare(
        self, backend: Backend, gated: Gated, plan: LaunchPlan, cgroup: Cgroup | None
    ) -> None:
        program = job_filter(
            whole=backend.seccomp, memfd=cgroup is not None, strict=self._strict_filter
        )
        if program is not None:
            await gated.channel.put_filter(program)
        await gated.channel.watch_mounts(plan.private_mounts)


def done_by(cgroup: Cgroup | None) -> int:
    """Return the flags of what a control group does, so that the init need not."""
    if cgroup is None:
        return 0
    memory = protocol.GROUP_MEMORY if cgroup.limits_swap else 0
    share = protocol.GROUP_SHARE if cgroup.shares_processors else 0
    return memory | share | protocol.GROUP_TIME


@contextmanager
def open_pool(
    backends: Mapping[str, Backend],
    *,
    state_dir: str,
    cgroup: str,
    cpu_weight: int,
    uid_base: int,
    places: int,
    users: int,
    lasting: int = 0,
    strict_filter: bool,
    forks: ForkBounds | None = None,
) -> Iterator[Pool]:
    """Create what sandboxes need: the service's folder, users, control groups.

    The owner calls `Pool.close` at its end.

    `places` is the most sandboxes at a time, and the most control groups kept for later ones;
    `users` the number of users to reserve for them if this process is root. `lasting` is the most
    sandboxes besides, which sessions keep. With `forks` some languages fork
    their programs.
    """
    with contextlib.ExitStack() as stack:
        cgroups = stack.enter_context(cgroup_tree(cgroup, cpu_weight))
        folder = stack.enter_context(state_folder(state_dir, places=places + lasting))
        of_jobs = of_trials = None
        if folder.host.root:
            spare = min(users, SPARE)
            of_jobs = stack.enter_context(
                contextlib.closing(JobUsers(uid_base, users + lasting, spare))
            )
            of_trials = stack.enter_context(contextlib.closing(JobUsers(uid_base, 1)))
        groups = None
        if cgroups is not None:
            groups = stack.enter_context(contextlib.closing(GroupSlots(cgroups, places)))
        pool = Pool(
            backends,
            folder,
            cgroups,
            groups,
            of_jobs,
            of_trials,
            strict_filter=strict_filter,
            places=places,
            lasting=lasting,
            forks=forks,
        )
        stack.callback(pool.templates.abandon)
        yield pool
