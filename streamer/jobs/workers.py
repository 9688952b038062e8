"""Which of the living workers could run a job or open a session, by what they have published."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from streamer.config.schema import SandboxConfig
from streamer.engine.interface import Broker
from streamer.errors import BackendUnavailable, Draining, InvalidJob, NoWorker, quoted
from streamer.model.capabilities import ISOLATIONS, Capabilities, able, merged
from streamer.model.job import JobSpec, ResolvedJob
from streamer.model.runtime import Runtime
from streamer.model.session import ResolvedSession, SessionSpec

__all__ = ["Workers", "check_default"]

RETRY_S: Final = 5.0
"""What callers are told to wait for a worker: one that starts publishes within some seconds."""


class Workers:
    """The workers of an engine. `runtimes` are the configured languages by name and alias."""

    def __init__(self, engine: Broker, runtimes: Mapping[str, Runtime]) -> None:
        self._engine = engine
        self._runtimes = runtimes
        self._seen: set[str] = set()
        """The languages that a worker has had since this process has started."""
        self._living: Sequence[Capabilities] = ()
        self._merged: dict[tuple[str | None, str | None], Capabilities] = {}
        """What those of `_living` can together that have a language and an environment."""

    async def published(self) -> Sequence[Capabilities]:
        """Return what each living worker has published last."""
        living = await self._engine.capabilities()
        if living is not self._living:  # a remote engine's is the same for a while
            self._living = living
            self._merged.clear()
            self._seen.update(*(worker.languages for worker in living))
        return living

    async def together(self) -> Capabilities:
        """Return what all of them can run together."""
        return self._together(await self.published())

    def may_come(self, language: str, workers: Capabilities) -> bool:
        """Tell whether a worker for a language may come, though none of these has it.

        One has been there, or none of these says that the host lacks the language: each leaves the
        languages to others that it does not take (`worker.languages`).
        """
        if self._engine.alone or language in workers.languages:
            return False
        return language in self._seen or language not in workers.missing

    def for_job(self, spec: JobSpec, published: Sequence[Capabilities]) -> Capabilities:
        """Return what those can together that could run a job; if none could, what all can.

        Raises `NoWorker` if one may come that could, `Draining` before the only one is there.
        """
        runtime = self._runtimes.get(spec.language or "")
        name = None if runtime is None else runtime.name
        self._check(() if name is None else (name,), published)
        return self._together(published, name, spec.environment)

    def for_session(
        self, spec: SessionSpec, published: Sequence[Capabilities]
    ) -> tuple[Capabilities, frozenset[str]]:
        """Return what those can together that could open a session, and the languages of its jobs.

        They are those that it asks for, or those of the worker with the most. Raises what `for_job`
        raises, and `InvalidJob`.
        """
        wanted = frozenset(self._named(spec.languages))
        self._check(wanted, published)
        some = [worker for worker in published if worker.accepting] or published
        if spec.sandbox is not None:
            some = [one for one in some if spec.sandbox in one.accepts.backends] or some
        some = able(some, wanted, spec.environment)
        if not wanted:
            most = max(some, key=lambda one: (len(one.languages), sorted(one.languages)))
            some = able(some, most.languages, spec.environment)
            return merged(some), most.languages
        if not some[0].languages.issuperset(wanted):
            raise _none_runs(wanted)
        return merged(some), wanted

    def check_job(self, job: ResolvedJob, published: Sequence[Capabilities]) -> None:
        """Raise `NoWorker` if none of them takes a job: it would wait without end."""
        if self._engine.alone or job.session_id is not None:
            return
        facts = job.facts
        if not any(worker.accepts.takes(facts) for worker in published):
            raise _none_runs((job.language or "commands",), f" in the sandbox {job.backend}")

    def check_session(self, session: ResolvedSession, published: Sequence[Capabilities]) -> None:
        """Raise `NoWorker` if none of them can open a session."""
        if not (self._engine.alone or any(one.accepts.opens(session) for one in published)):
            raise _none_runs(session.languages, f" in the sandbox {session.backend}")

    def _together(
        self,
        published: Sequence[Capabilities],
        language: str | None = None,
        environment: str | None = None,
    ) -> Capabilities:
        if not any(environment in worker.environments for worker in published):
            environment = None  # any text of a caller
        key = (language, environment)
        if published is self._living and key in self._merged:
            return self._merged[key]
        together = merged(able(published, () if language is None else (language,), environment))
        if published is self._living:
            self._merged[key] = together
        return together

    def _check(self, languages: Collection[str], published: Sequence[Capabilities]) -> None:
        workers = self._together(published)
        if not workers.places and self._engine.alone:
            raise Draining(
                "the service has not started yet: submit once the application has",
                retry_after_s=RETRY_S,
            )
        if not workers.places:
            raise NoWorker("no worker is there at the moment", retry_after_s=RETRY_S)
        for name in languages:
            if self.may_come(name, workers):
                raise _none_runs((name,))

    def _named(self, languages: Sequence[str]) -> list[str]:
        for number, name in enumerate(languages):
            if name not in self._runtimes:
                known = ", ".join(sorted({one.name for one in self._runtimes.values()}))
                raise InvalidJob(
                    f"unknown language {quoted(name)}; known: {known}",
                    path=f"$.languages[{number}]",
                    code="unknown_language",
                )
        return [self._runtimes[name].name for name in languages]


def check_default(workers: Capabilities, sandbox: SandboxConfig) -> None:
    """Refuse a default of the workers that isolates nothing, unless it is named here too.

    Raises `BackendUnavailable`.
    """
    facts, name = workers.backends.get(workers.default), workers.default
    if facts is None or name in (sandbox.backend, *sandbox.allow):
        return
    if facts.isolation == ISOLATIONS[0]:
        raise BackendUnavailable(
            f"the sandbox of the workers is {name}, which isolates nothing, and it is not the one "
            "of this service (sandbox.backend)"
        )


def _none_runs(what: Collection[str], where: str = "") -> NoWorker:
    names = " and ".join(sorted(what))
    return NoWorker(
        f"no worker that runs {names}{where} is there at the moment", retry_after_s=RETRY_S
    )
