"""Which workers could run a job or open a session, and what is said if none could."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, cast

import pytest

from streamer.config.schema import Config, SandboxConfig
from streamer.engine.interface import Broker
from streamer.errors import BackendUnavailable, Draining, InvalidJob, NoWorker
from streamer.jobs.resolve import Resolver
from streamer.jobs.workers import Workers
from streamer.model.capabilities import BackendFacts, Capabilities, EnvironmentFacts
from streamer.model.job import JobSpec, Limits
from streamer.model.languages import DEFAULT_RUNTIMES
from streamer.model.runtime import by_name
from streamer.model.session import ResolvedSession, SessionSpec

RUNTIMES: Final = by_name(DEFAULT_RUNTIMES)
BWRAP: Final = Capabilities(
    {"bwrap": BackendFacts("namespaces")},
    "bwrap",
    frozenset({"python", "c"}),
    {"haskell": "runghc is not installed"},
    processors=1,
    places=2,
)
FIREJAIL: Final = replace(
    BWRAP,
    backends={"firejail": BackendFacts("deny_list")},
    default="firejail",
    languages=frozenset({"bash", "c", "lua"}),
    environments={"words": EnvironmentFacts()},
)


class Engine:
    """The workers that a test names."""

    def __init__(self, *living: Capabilities, alone: bool = False) -> None:
        self.living: Sequence[Capabilities] = living
        self.alone = alone

    async def capabilities(self) -> Sequence[Capabilities]:
        return self.living


def workers_of(engine: Engine) -> Workers:
    return Workers(cast("Broker", engine), RUNTIMES)


async def for_job(workers: Workers, **spec: Any) -> Capabilities:
    return workers.for_job(JobSpec(**spec), await workers.published())


async def test_a_job_is_resolved_for_those_that_have_its_language() -> None:
    workers = workers_of(Engine(FIREJAIL, BWRAP))
    assert (await for_job(workers, language="python")).default == "bwrap"
    assert (await for_job(workers, language="shell")).default == "firejail", "by an alias"
    assert (await for_job(workers, language="c")).backends.keys() == {"bwrap", "firejail"}
    assert (await for_job(workers, language="c", environment="words")).default == "firejail"
    assert (await for_job(workers, command=("true",))).places == 4


async def test_without_a_worker_one_may_come_unless_it_is_alone() -> None:
    with pytest.raises(NoWorker, match="no worker is there") as refused:
        await for_job(workers_of(Engine()), language="python")
    assert (refused.value.status, refused.value.code) == (503, "sandbox_unavailable")
    assert refused.value.retry_after_s > 0
    with pytest.raises(Draining, match="has not started yet"):
        await for_job(workers_of(Engine(alone=True)), language="python")


async def test_a_language_whose_worker_has_gone_may_come_again() -> None:
    engine = Engine(BWRAP, replace(FIREJAIL, missing={"python": "python3 is not installed"}))
    workers = workers_of(engine)
    missing = {**BWRAP.missing, "bash": "bash is not installed"}
    assert "bash" in (await for_job(workers, language="bash")).languages
    engine.living = [replace(BWRAP, missing=missing)]
    with pytest.raises(NoWorker, match="no worker that runs bash is there"):
        await for_job(workers, language="bash")
    # That it is not installed is all that one knows who has not seen the other.
    assert "bash" not in (await for_job(workers_of(engine), language="bash")).languages
    # No living worker takes it, and none says that it could not.
    with pytest.raises(NoWorker, match="runs java"):
        await for_job(workers, language="java")
    assert "haskell" not in (await for_job(workers, language="haskell")).languages


async def test_the_only_worker_decides_for_all() -> None:
    workers = workers_of(Engine(BWRAP, alone=True))
    assert "java" not in (await for_job(workers, language="java")).languages


async def test_a_session_has_the_languages_of_one_worker() -> None:
    workers = workers_of(Engine(BWRAP, FIREJAIL))
    published = await workers.published()

    def named(**spec: Any) -> tuple[str, list[str]]:
        together, languages = workers.for_session(SessionSpec(**spec), published)
        return together.default, sorted(languages)

    assert named() == ("firejail", ["bash", "c", "lua"])
    assert named(languages=["py", "c"]) == ("bwrap", ["c", "python"])
    assert named(languages=["c"]) == ("bwrap", ["c"])
    assert named(languages=["c"], environment="words") == ("firejail", ["c"])
    assert named(sandbox="bwrap") == ("bwrap", ["c", "python"])
    for languages, refusal in (
        (["python", "bash"], "runs bash and python is"),
        (["java"], "runs java is"),
    ):
        with pytest.raises(NoWorker, match=refusal):
            named(languages=languages)
    with pytest.raises(InvalidJob, match="unknown language 'klingon'") as refused:
        named(languages=["c", "klingon"])
    assert refused.value.path == "$.languages[1]"
    idle = [BWRAP, replace(FIREJAIL, accepting=False)]
    assert workers.for_session(SessionSpec(), idle)[1] == BWRAP.languages


async def test_what_no_worker_takes_is_not_left_to_wait() -> None:
    broken = replace(BWRAP, backends={"bwrap": BackendFacts("namespaces", reason="broken")})
    engine = Engine(broken)
    workers = workers_of(engine)
    spec = JobSpec(language="python", code="")
    job = Resolver(Config(), RUNTIMES).resolve(spec, "1", broken)
    with pytest.raises(NoWorker, match=re.escape("runs python in the sandbox bwrap is")):
        workers.check_job(job, engine.living)
    workers.check_job(job, [broken, BWRAP])
    session = ResolvedSession("s", "", "bwrap", Limits(), 60.0, 600.0, languages=("python",))
    with pytest.raises(NoWorker, match=re.escape("runs python in the sandbox bwrap is")):
        workers.check_session(session, engine.living)
    workers.check_session(session, [BWRAP])


@pytest.mark.parametrize("sandbox", [{"backend": "plain"}, {"allow": ("plain",)}, {}])
def test_a_default_that_isolates_nothing_must_be_named_here_too(sandbox: dict[str, Any]) -> None:
    bare = replace(BWRAP, backends={"plain": BackendFacts("none")}, default="plain")
    resolver = Resolver(Config(sandbox=SandboxConfig(**sandbox)), RUNTIMES)
    spec = JobSpec(language="python", code="")
    if sandbox:
        assert resolver.resolve(spec, "1", bare).backend == "plain"
    else:
        with pytest.raises(BackendUnavailable, match="which isolates nothing"):
            resolver.resolve(spec, "1", bare)
