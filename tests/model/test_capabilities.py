"""The merged capabilities of several workers."""

from __future__ import annotations

from dataclasses import replace

from streamer.model.capabilities import (
    NOTHING,
    Accepts,
    BackendFacts,
    Capabilities,
    EnvironmentFacts,
    merged,
)
from streamer.model.job import JobFacts

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
    assert (both.places, both.processors, both.resisting) == (6, 2, 1)
    assert both.trusted
    assert both.accepting
    idle = replace(STRONG, accepting=False)
    assert not merged([idle, replace(WEAK, accepting=False)]).accepting


def test_what_neither_can_use_has_a_reason() -> None:
    both = merged([WEAK, replace(WEAK, places=1)])
    assert both.backends["bwrap"].reason == "no user namespaces"


def test_hosts_are_listed_only_where_each_worker_holds_jobs_to_them() -> None:
    leaky = replace(STRONG, backends={"bwrap": BackendFacts("namespaces", filtering=False)})
    for workers in ([STRONG, leaky], [leaky, STRONG]):
        assert not merged(workers).backends["bwrap"].filtering
    # One that cannot use it gets no such job.
    assert merged([WEAK, STRONG]).backends["bwrap"].filtering


def test_there_are_terminals_only_where_each_worker_has_them() -> None:
    facts = BackendFacts("deny_list", filtering=True)
    without = replace(STRONG, backends={"firejail": facts})
    having = replace(STRONG, backends={"firejail": replace(facts, filtering=False, terminals=True)})
    for workers in ([without, having], [having, without]):
        assert not merged(workers).backends["firejail"].terminals
    for workers in (
        [having, having],
        [having, replace(WEAK, backends={"firejail": replace(facts, reason="none")})],
    ):
        assert merged(workers).backends["firejail"].terminals


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
