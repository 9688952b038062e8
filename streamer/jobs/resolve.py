"""Resolve a `JobSpec` against the configuration into a job that can run.

Everything that can be wrong with a job is found here, before it is accepted; each error names the
place in the request, in the notation of the HTTP interface.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Final

from streamer.config.schema import Config
from streamer.errors import BackendUnavailable, Forbidden, InvalidJob, quoted
from streamer.jobs.arguments import check_arguments, check_metadata
from streamer.jobs.artifacts import check_artifacts
from streamer.jobs.cases import Program, check_cases, with_cases
from streamer.jobs.commands import build_steps, checked_steps
from streamer.jobs.insession import check_in_session, check_language, in_session
from streamer.jobs.limits import resolved_limits
from streamer.jobs.project import Contents, Project
from streamer.jobs.terminals import check_terminal
from streamer.jobs.webhooks.target import Targets
from streamer.jobs.workers import check_default
from streamer.model.capabilities import Capabilities
from streamer.model.environment import NOT_BUILT
from streamer.model.filenames import why_not_name
from streamer.model.job import (
    MAX_RETRIES,
    PRIORITIES,
    JobSpec,
    Limits,
    Phase,
    ResolvedJob,
    SourceFile,
    Step,
)
from streamer.model.runtime import Runtime, public_tool_reason, sized
from streamer.model.session import ResolvedSession
from streamer.model.webhook import Webhook

__all__ = ["Resolver", "check_built"]

MAX_FILES: Final = 10_000
"""Files and the folders in their names, together: each needs an inode."""

NO_LANGUAGE: Final = Runtime("command", run=("command",))
"""What a command is given of a language: no variables, no paths, and no /tmp of its own size."""


class Resolver:
    def __init__(self, config: Config, runtimes: Mapping[str, Runtime]) -> None:
        """`runtimes` by name and alias."""
        self._config = config
        self._runtimes = runtimes
        self._targets = Targets(config.webhooks.allow_hosts)
        self._raised = {
            runtime.name: runtime.raised(config.limits.default, config.limits.max)
            for runtime in runtimes.values()
        }
        """The default limits of each language, by its name."""
        self._with_packages = {
            (runtimes[language].name, each.name): each.applied(
                runtimes[language], config.sandbox.path
            )
            for each in config.environments.values()
            for language in each.languages
        }
        """Each language as it runs with an environment, by both names."""

    def resolve(
        self,
        spec: JobSpec,
        job_id: str,
        workers: Capabilities,
        tenant: str = "",
        project: Project | None = None,
        files_url: str = "",
        session: ResolvedSession | None = None,
        traceparent: str = "",
    ) -> ResolvedJob:
        """Return the job to run; `workers` is what those who run it have together.

        `project` and `session` are those that it names, `files_url` where its files can be
        downloaded.

        Raises `InvalidJob`, `Forbidden` or `BackendUnavailable`.
        """
        self._refuse_unsupported(spec)
        if session is not None:
            check_in_session(spec, session)
            spec = self._with_packages_of(session, spec)
        backend, allow_hosts = self._where(spec, workers, session)
        files = _check_files(spec.files)
        given = check_arguments(spec.args, spec.env, "$", spec.command)
        check_metadata(spec.metadata)
        check_cases(spec, given, self._config.limits.max_cases)
        facts = workers.backends[backend]
        check_artifacts(spec.artifacts, self._config.artifacts, backend, facts)
        if spec.terminal is not None:
            check_terminal(spec.terminal, backend, facts)
        if spec.language is None:
            limits = self._limits(spec, self._config.limits.default)
            program: Program = partial(_same_for_all, spec.command)
            steps: tuple[Step, ...] = (Step(Phase.RUN, self._command(spec), limits),)
            needs = NO_LANGUAGE
            warm, fork, lively = False, None, False
        else:
            runtime = self._runtime(spec, workers, session)
            contents = None if project is None else project.contents
            entry, files = _entry_and_files(spec, files, runtime, contents)
            base = self._raised[runtime.name]
            limits = self._limits(spec, base)
            if runtime.compile and "stack_bytes" not in spec.limits:
                limits = self._deep(limits)
            names = {file.name for file in files}.union(contents.names if contents else ())
            source = next((file.content for file in files if file.name == entry), None)
            if source is None:
                source = b"" if project is None else project.begin
            program = cache(
                partial(_program, runtime, base, workers.processors, entry, names, source)
            )
            runtime = sized(runtime, base, limits, workers.processors)
            compile_argv, run_argv = checked_steps(
                runtime, entry, names, source, "$.files" if project is None else "$.projectId"
            )
            files = _with_those_of(runtime, files, names)
            steps = (Step(Phase.RUN, (*run_argv, *spec.args), limits),)
            if compile_argv:
                # The operator's limits, not the caller's lowered ones: a short time limit for the
                # program must not stop its compilation.
                compiling = replace(base, output_bytes=limits.output_bytes)
                given_to_it = runtime.compile_input.encode()
                steps = (Step(Phase.COMPILE, compile_argv, compiling, given_to_it), *steps)
            needs = runtime
            lively = runtime.terminal and spec.terminal is None
            # What was started before its job has pipes.
            plain = len(steps) == 1 and not (_has_own(spec, runtime) or lively)
            warm, fork = plain and runtime.warm, tenant if plain and runtime.fork else None
        _check_size(files, limits, project)
        job = ResolvedJob(
            job_id=job_id,
            language=spec.language if spec.language is None else runtime.name,
            backend=backend,
            steps=steps,
            files=files,
            project=None if project is None else project.for_job,
            env={**needs.env, **spec.env},
            stdin=spec.stdin,
            interactive=spec.interactive or spec.terminal is not None,
            terminal=spec.terminal,
            network=spec.network and not allow_hosts,
            allow_hosts=allow_hosts,
            read_only=needs.read_only,
            etc=needs.etc,
            tmp_bytes=needs.tmp_bytes or None,
            output_encoding=spec.output_encoding,
            metadata=dict(spec.metadata),
            preset=self._config.sandbox.preset,
            environment=spec.environment,
            warm=warm,
            fork=fork,
            output_terminal=lively,
            tenant=tenant,
            artifacts=spec.artifacts,
            retry=spec.retry,
            files_url=files_url if spec.artifacts else "",
            priority=spec.priority,
            webhook=None if spec.webhook is None else self._webhook(spec.webhook),
            traceparent=traceparent,
        )
        job = with_cases(job, spec, program, workers, self._config.limits.all_cases_s)
        return job if session is None else in_session(job, spec, session)

    def _webhook(self, webhook: Webhook) -> Webhook:
        if not self._config.webhooks.enabled:
            raise Forbidden(
                "webhooks are not allowed by the configuration (webhooks.enabled)",
                path="$.webhook",
            )
        return self._targets.checked(webhook)

    def _refuse_unsupported(self, spec: JobSpec) -> None:
        if (spec.language is None) == (not spec.command):
            raise InvalidJob("give either language or command", path="$")
        if spec.environment is not None and spec.language is None:
            raise InvalidJob("an environment needs a language", path="$.environment")
        if spec.priority not in PRIORITIES:
            most = f"from {PRIORITIES[0]} to {PRIORITIES[-1]}"
            raise InvalidJob(f"a priority is a whole number {most}", path="$.priority")
        if not 0 <= spec.retry <= MAX_RETRIES:
            raise InvalidJob(f"a job is run again {MAX_RETRIES} times at most", path="$.retry")

    def _where(
        self, spec: JobSpec, workers: Capabilities, session: ResolvedSession | None
    ) -> tuple[str, tuple[str, ...]]:
        """Return the backend of a job, and the hosts to which its network is limited."""
        if session is None:
            backend = self._backend(spec.sandbox, workers)
            return backend, self._allow_hosts(spec.network, backend, workers)
        if session.backend not in workers.backends:
            raise BackendUnavailable("the worker of the session is gone")
        return session.backend, session.allow_hosts

    def _backend(self, wanted: str | None, workers: Capabilities) -> str:
        if wanted is None or wanted == workers.default:
            check_default(workers, self._config.sandbox)
            return workers.default
        if wanted not in workers.backends:
            known = ", ".join(sorted(workers.backends))
            raise InvalidJob(
                f"unknown sandbox {quoted(wanted)}; known: {known}",
                path="$.sandbox",
            )
        if wanted not in self._config.sandbox.allow:
            raise Forbidden(
                f"the sandbox {quoted(wanted)} is not allowed by the configuration (sandbox.allow)",
                path="$.sandbox",
            )
        if workers.backends[wanted].reason:
            raise BackendUnavailable(f"the sandbox {quoted(wanted)} is not available on this host")
        return wanted

    def _allow_hosts(
        self,
        network: bool,  # noqa: FBT001 - it is not a flag of this function
        backend: str,
        workers: Capabilities,
    ) -> tuple[str, ...]:
        """Return the allowed hosts of a job with network access; none if it is unrestricted."""
        sandbox = self._config.sandbox
        if not network or sandbox.network == "open":
            return ()
        if sandbox.network == "none" or not sandbox.allow_hosts:
            key = "sandbox.network" if sandbox.network == "none" else "sandbox.allow_hosts"
            raise Forbidden(
                f"network access is not allowed by the configuration ({key})", path="$.network"
            )
        if not workers.backends[backend].filtering:
            raise Forbidden(
                f"network access is allowed to some hosts only (sandbox.network), and the sandbox "
                f"{quoted(backend)} cannot enforce that",
                path="$.network",
            )
        return sandbox.allow_hosts

    def _command(self, spec: JobSpec) -> tuple[str, ...]:
        if not self._config.sandbox.allow_command:
            raise Forbidden(
                "commands are not allowed by the configuration (sandbox.allow_command)",
                path="$.command",
            )
        if spec.code is not None or spec.entry is not None:
            raise InvalidJob(
                "code and entry need a language; with command use files",
                path="$.code" if spec.code is not None else "$.entry",
            )
        if not spec.command[0]:
            raise InvalidJob("the command is empty", path="$.command[0]")
        return (*spec.command, *spec.args)

    def _runtime(
        self, spec: JobSpec, workers: Capabilities, session: ResolvedSession | None
    ) -> Runtime:
        name = spec.language or ""
        runtime = self._runtimes.get(name)
        if runtime is None:
            known = ", ".join(sorted({known.name for known in self._runtimes.values()}))
            raise InvalidJob(
                f"unknown language {quoted(name)}; known: {known}",
                path="$.language",
                code="unknown_language",
            )
        if runtime.name not in workers.languages:
            why = public_tool_reason(workers.missing.get(runtime.name, ""))
            raise InvalidJob(
                f"the language {runtime.name!r} is not available here: {why}",
                path="$.language",
                code="unknown_language",
            )
        if session is not None:
            check_language(runtime.name, session)
        return self._in_environment(runtime, spec, workers)

    def _limits(self, spec: JobSpec, base: Limits) -> Limits:
        return resolved_limits(spec.limits, base, self._config.limits.max)

    def _with_packages_of(self, session: ResolvedSession, spec: JobSpec) -> JobSpec:
        """Return a job with the environment of its session, if that is for its language."""
        name, runtime = session.environment, self._runtimes.get(spec.language or "")
        if name is None or runtime is None or (runtime.name, name) not in self._with_packages:
            return spec
        return replace(spec, environment=name)

    def _in_environment(self, runtime: Runtime, spec: JobSpec, workers: Capabilities) -> Runtime:
        """Return the language with the packages that the job names."""
        name = spec.environment
        if name is None:
            return runtime
        chosen = self._with_packages.get((runtime.name, name))
        if chosen is None:
            others = self._config.environments
            known = [each for each in others if (runtime.name, each) in self._with_packages]
            which = "is for another language" if name in others else "is unknown"
            there_are = f"there are: {', '.join(sorted(known))}" if known else "there is none"
            raise InvalidJob(
                f"the environment {quoted(name)} {which}; for {runtime.name} {there_are}",
                path="$.environment",
            )
        check_built(name, workers)
        return chosen

    def _deep(self, limits: Limits) -> Limits:
        """Return the limits with a stack as large as the memory, for deep recursion."""
        room = min(limits.memory_bytes, self._config.limits.max.stack_bytes)
        return replace(limits, stack_bytes=max(limits.stack_bytes, room))


def check_built(name: str, workers: Capabilities) -> None:
    """Check that an environment can be used. Raises `InvalidJob`."""
    facts = workers.environments.get(name)
    if facts is None or facts.reason:
        raise InvalidJob(
            f"the environment {quoted(name)} is not available: {NOT_BUILT}", path="$.environment"
        )


def _has_own(spec: JobSpec, runtime: Runtime) -> bool:
    """Return whether the program sees something of the caller's before it reads its files.

    What one job brings is not kept for others, who could tell by their time that it was there.
    """
    given = spec.args or spec.env or spec.cases or spec.terminal is not None
    return bool(given) or spec.entry not in (None, runtime.entry)


def _same_for_all(command: tuple[str, ...], _: Limits) -> tuple[tuple[str, ...], Mapping[str, str]]:
    return command, {}


def _program(
    runtime: Runtime,
    base: Limits,
    processors: int,
    entry: str,
    names: Iterable[str],
    source: bytes,
    own: Limits,
) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Return the command and variables of a program with limits of its own."""
    runtime = sized(runtime, base, own, processors)
    # There may be thousands of names, and each case may have limits of its own.
    names = names if "{sources}" in runtime.run else ()
    return build_steps(runtime, entry, names, source)[1], runtime.env


def _entry_and_files(
    spec: JobSpec, files: tuple[SourceFile, ...], runtime: Runtime, project: Contents | None
) -> tuple[str, tuple[SourceFile, ...]]:
    entry = spec.entry if spec.entry is not None else runtime.entry
    _check_name(entry, "$.entry")
    names = {file.name for file in files}
    if spec.code is not None:
        if entry in names:
            raise InvalidJob(
                f"code becomes the file {quoted(entry)}, which is also in files", path="$.files"
            )
        files = _check_files(
            (*files, SourceFile(entry, spec.code.encode("utf-8", "surrogatepass")))
        )
    elif spec.session_id is not None:
        pass  # only its worker knows what is in its workspace
    elif not files and project is None:
        raise InvalidJob("give code, files or projectId", path="$.code")
    elif entry not in names and (project is None or entry not in project):
        # An archive of GitHub, npm or the Finder has one folder, and all below it.
        names.update(project.names if project else ())
        below = [(len(name), name) for name in names if name.endswith(f"/{entry}")]
        such_as = f", such as {quoted(min(below)[1])}" if below else ""
        raise InvalidJob(
            f"there is no file {quoted(entry)} to run: name the one to run in entry{such_as}",
            path="$.entry",
        )
    return entry, files


def _with_those_of(
    runtime: Runtime, files: tuple[SourceFile, ...], names: Container[str]
) -> tuple[SourceFile, ...]:
    """Return the files with those of the runtime; those that the job has replace them."""
    if not runtime.files:
        return files
    own = [
        SourceFile(name, text.encode()) for name, text in runtime.files.items() if name not in names
    ]
    return _check_files((*files, *own))


def _check_size(files: Sequence[SourceFile], limits: Limits, project: Project | None) -> None:
    if project is not None:
        project.contents.check_over(files, limits)
        return
    size = sum(len(file.content) for file in files)
    if size > limits.disk_bytes:
        raise InvalidJob(
            f"the files are {size} bytes together and diskBytes allows {limits.disk_bytes}",
            path="$.files",
        )


def _check_files(files: Iterable[SourceFile]) -> tuple[SourceFile, ...]:
    files = tuple(files)
    seen: set[str] = set()
    folders: set[str] = set()
    for index, file in enumerate(files):
        path = f"$.files[{index}].name"
        _check_name(file.name, path)
        if file.name in seen:
            raise InvalidJob(f"the file {quoted(file.name)} is given twice", path=path)
        seen.add(file.name)
        # From the deepest up to the first known one, so that each folder is counted once.
        end = file.name.rfind("/")
        while end > 0 and (folder := file.name[:end]) not in folders:
            folders.add(folder)
            end = file.name.rfind("/", 0, end)
        if len(seen) + len(folders) > MAX_FILES:
            raise InvalidJob(
                f"the {len(files)} files and the folders of their names are too many: "
                f"{MAX_FILES} together at most",
                path="$.files",
            )
    both = sorted(seen & folders)
    if both:
        raise InvalidJob(f"{quoted(both[0])} is both a file and a folder", path="$.files")
    return files


def _check_name(name: str, path: str) -> None:
    if why := why_not_name(name):
        raise InvalidJob(why, path=path)
