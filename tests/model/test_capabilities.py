"""The merged capabilities of several workers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from streamer.model.capabilities import (
    ISOLATIONS,
    NOTHING,
    Accepts,
    Ahead,
    BackendFacts,
    Capabilities,
    EnvironmentFacts,
    able,
    merged,
)
from streamer.model.job import JobFacts, Limits
from streamer.model.session import ResolvedSession
from streamer.spi import Isolation

STRONG = Capabilities(
    {
        "bwrap": BackendFacts("namespaces", filtering=True),
        "plain": BackendFacts("none"),
    },
    default="bwrap",
    languages=frozenset({"python", "c"}),
    missing={"java": "java is not installed"},
    processors=8,
    places=4,
    cgroup_level="cgroup-v2",
)
WEAK = Capabilities(
    {
        "bwrap": BackendFacts("namespaces", reason="no user namespaces"),
        "firejail": BackendFacts("deny_list", filtering=True),
    },
    default="firejail",
    languages=frozenset({"python", "java"}),
    missing={"c": "gcc is not installed", "lua": "lua is not installed"},
    processors=2,
    places=2,
    trusted=False,
    resisting=1,
)


def job(backend: str, language: str | None = "python") -> JobFacts:
    return JobFacts("j", language, backend, interactive=False, metadata={})


def test_without_workers_there_is_nothing() -> None:
    assert merged([]) is NOTHING
    assert not NOTHING.accepting
    assert not NOTHING.trusted
    assert NOTHING.accepts == Accepts(frozenset(), frozenset())


def test_one_worker_is_all_there_is() -> None:
    assert merged([STRONG]) is STRONG


def test_together_they_have_what_one_of_them_has() -> None:
    both = merged([STRONG, WEAK])
    assert {name: facts.reason for name, facts in both.backends.items()} == {
        "bwrap": "",
        "plain": "",
        "firejail": "",
    }
    assert both.default == "bwrap"
    assert both.languages == {"python", "c", "java"}
    assert both.missing == {"lua": "lua is not installed"}
    assert (both.places, both.processors, both.resisting) == (6, 2, 0)
    assert both.trusted
    assert both.accepting
    idle = replace(STRONG, accepting=False)
    assert not merged([idle, replace(WEAK, accepting=False)]).accepting


def test_the_default_is_the_strongest_in_whatever_order_the_workers_come() -> None:
    assert [isolation.name.lower() for isolation in Isolation] == [*ISOLATIONS]
    for workers in ([STRONG, WEAK], [WEAK, STRONG]):
        assert merged(workers).default == "bwrap"
    bare = replace(STRONG, default="plain", places=100)
    for workers in ([bare, WEAK], [WEAK, bare]):
        assert merged(workers).default == "firejail"


def test_a_job_is_for_those_that_have_its_language_and_its_environment() -> None:
    java = replace(WEAK, environments={"words": EnvironmentFacts()})
    assert able([STRONG, java], ["java"], None) == [java]
    assert able([STRONG, java], ["python"], None) == [STRONG, java]
    assert able([STRONG, java], ["python"], "words") == [java]
    assert able([STRONG, java], [], "words") == [java]
    assert able([STRONG, java], ["c"], "words") == [STRONG], "it has no such environment"
    assert able([STRONG, java], ["lua"], "none") == [STRONG, java]


def test_a_session_is_for_one_that_has_all_its_languages() -> None:
    session = ResolvedSession("s", "", "bwrap", Limits(), 60.0, 600.0, languages=("c", "python"))
    assert STRONG.accepts.opens(session)
    assert not STRONG.accepts.opens(replace(session, languages=("c", "java")))
    assert not STRONG.accepts.opens(replace(session, environment="words"))


def test_what_is_done_ahead_is_added_up() -> None:
    one = Ahead(
        {"bwrap": 2},
        warm=1,
        not_held={"bwrap": "", "plain": "why"},
        not_forked={"bwrap": {"python": "why"}},
    )
    other = Ahead({"bwrap": 1}, forks={"bwrap": ["python"]}, not_held={"bwrap": "why"})
    both = merged([replace(STRONG, ahead=one), replace(WEAK, ahead=other)]).ahead
    assert both.held == {"bwrap": 3}
    assert both.warm == 1
    assert both.forks == {"bwrap": ["python"]}
    assert both.not_forked == {"bwrap": {}}
    assert both.not_held == {"bwrap": "", "plain": "why"}


def test_what_neither_can_use_has_a_reason() -> None:
    both = merged([WEAK, replace(WEAK, places=1)])
    assert both.backends["bwrap"].reason == "no user namespaces"


def test_hosts_are_listed_only_where_each_worker_holds_jobs_to_them() -> None:
    leaky = replace(STRONG, backends={"bwrap": BackendFacts("namespaces", filtering=False)})
    for workers in ([STRONG, leaky], [leaky, STRONG]):
        assert not merged(workers).backends["bwrap"].filtering
    # One that cannot use it gets no such job.
    assert merged([WEAK, STRONG]).backends["bwrap"].filtering


def test_a_session_that_any_may_get_has_the_largest_tmp_of_them() -> None:
    sized = BackendFacts("namespaces", tmp_bytes=2)
    for other, size in ((replace(sized, tmp_bytes=3), 3), (replace(sized, tmp_bytes=None), 2)):
        workers = [replace(STRONG, backends={"own": facts}) for facts in (sized, other)]
        assert merged(workers).backends["own"].tmp_bytes == size


@pytest.mark.parametrize("name", ["terminals", "readable", "sessions", "keeps"])
def test_there_is_what_may_be_missing_only_where_each_worker_has_it(name: str) -> None:
    facts = BackendFacts("deny_list", filtering=True)
    has: dict[str, Any] = {name: True}
    without = replace(STRONG, backends={"firejail": facts})
    having = replace(STRONG, backends={"firejail": replace(facts, filtering=False, **has)})
    for workers in ([without, having], [having, without]):
        assert not getattr(merged(workers).backends["firejail"], name)
    for workers in (
        [having, having],
        [having, replace(WEAK, backends={"firejail": replace(facts, reason="none")})],
    ):
        assert getattr(merged(workers).backends["firejail"], name)


def test_a_worker_accepts_what_it_can_run() -> None:
    accepts = WEAK.accepts
    assert accepts.takes(job("firejail"))
    assert accepts.takes(job("firejail", None))
    assert not accepts.takes(job("bwrap"))
    assert not accepts.takes(job("firejail", "c"))
    assert not accepts.takes(job("plain"))


def test_an_environment_is_used_where_it_is_built() -> None:
    facts = {"one": EnvironmentFacts("not built"), "two": EnvironmentFacts()}
    worker = replace(STRONG, environments=facts)
    assert worker.accepts.takes(replace(job("bwrap"), environment="two"))
    for name in ("one", "three"):
        assert not worker.accepts.takes(replace(job("bwrap"), environment=name))
    built = EnvironmentFacts(packages={"a": "1", "b": "1"})
    other = replace(WEAK, environments={"one": built})
    for workers in ([worker, other], [other, worker]):
        assert merged(workers).environments == {"one": built, "two": EnvironmentFacts()}


def test_of_packages_those_are_told_that_all_who_have_them_agree_on() -> None:
    one = EnvironmentFacts(packages={"a": "1", "b": "1"})
    two = EnvironmentFacts(packages={"a": "1", "b": "2", "c": "1"})
    workers = [replace(STRONG, environments={"x": facts}) for facts in (one, two)]
    assert merged(workers).environments["x"].packages == {"a": "1"}


def test_a_version_is_told_if_all_who_have_the_language_agree() -> None:
    one = replace(STRONG, versions={"python": "3.11", "c": "12.2"})
    other = replace(WEAK, versions={"python": "3.12", "java": "17"})
    assert merged([one, other]).versions == {"c": "12.2", "java": "17"}
    assert merged([one, replace(one, versions={"c": "12.2"})]).versions == {"c": "12.2"}
