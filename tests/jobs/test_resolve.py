"""What a job becomes: limits at their edges, and whose settings win. `tests/web` has the refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import pytest

from streamer.config.schema import Config, LimitsConfig, SandboxConfig
from streamer.errors import BackendUnavailable, InvalidJob
from streamer.jobs import arguments, resolve
from streamer.jobs.commands import MAX_COMMAND_BYTES, build_steps
from streamer.jobs.resolve import Resolver
from streamer.model import filenames
from streamer.model.capabilities import BackendFacts, Capabilities
from streamer.model.job import LEAST, MIB, Case, JobSpec, Limits, Phase, ResolvedJob, SourceFile
from streamer.model.runtime import Runtime, by_name

SCRIPT = Runtime(name="script", entry="main", run=("run", "{entry}"), aliases=("s",))
BUILT = Runtime(name="built", entry="main.x", compile=("cc",), run=("./a",), env={"A": "ours"})
LARGE = Runtime(name="large", entry="main", run=("run",), limits={"memory_bytes": 2**40})
SIZED = Runtime(
    name="sized",
    entry="main",
    compile=("cc",),
    run=("run", "-m{memory_mb}"),
    env={"A": "{memory_mb}", "B": "{memory_mb}"},
)
WORKERS = Capabilities(
    backends={name: BackendFacts("namespaces") for name in ("own", "other")},
    default="own",
    languages=frozenset({"script", "built", "large", "sized"}),
    missing={},
    processors=2,
    places=1,
)
READABLE = replace(WORKERS, backends={"own": BackendFacts("namespaces", readable=True)})


def resolved(
    configured: LimitsConfig | None = None, workers: Capabilities = WORKERS, **spec: Any
) -> ResolvedJob:
    config = Config(
        sandbox=SandboxConfig(allow_command=True, allow=("other",)),
        limits=configured or LimitsConfig(),
    )
    runtimes = by_name({runtime.name: runtime for runtime in (SCRIPT, BUILT, LARGE, SIZED)})
    if "command" not in spec:
        spec = {"language": "script", "code": "", **spec}
    return Resolver(config, runtimes).resolve(JobSpec(**spec), "1", workers)


def named(*names: str) -> dict[str, Any]:
    return {"files": tuple(SourceFile(name, b"") for name in names)}


PAGE = 4096
EDGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the parts of a name": (
        named("/".join("a" * filenames.MAX_DEPTH)),
        named("/".join("a" * (filenames.MAX_DEPTH + 1))),
    ),
    "a part of a name": (
        named("a" * filenames.MAX_PART_BYTES),
        named("a" * (filenames.MAX_PART_BYTES + 1)),
    ),
    "a name": (
        named("/".join(["a" * 204] * 5)),  # 1024 bytes
        named("/".join([*["a" * 204] * 4, "a" * 205])),
    ),
    "an argument": (
        {"args": ("a" * arguments.MAX_ARGUMENT_BYTES,)},
        {"args": ("a" * (arguments.MAX_ARGUMENT_BYTES + 1),)},
    ),
    "all arguments": (  # each with the zero byte behind it
        {"args": ("a" * 65535,) * 16},
        {"args": (*("a" * 65535,) * 16, "")},
    ),
    "the number of arguments": (
        {"args": ("",) * arguments.MAX_ARGUMENTS},
        {"args": ("",) * (arguments.MAX_ARGUMENTS + 1)},
    ),
    "the number of variables": (
        {"env": {f"A{n}": "" for n in range(arguments.MAX_VARIABLES)}},
        {"env": {f"A{n}": "" for n in range(arguments.MAX_VARIABLES + 1)}},
    ),
    "metadata": (
        {"metadata": {"a": "b" * (arguments.MAX_METADATA_BYTES - 1)}},
        {"metadata": {"a": "b" * arguments.MAX_METADATA_BYTES}},
    ),
    "the entries of metadata": (
        {"metadata": {str(n): "" for n in range(arguments.MAX_METADATA_ENTRIES)}},
        {"metadata": {str(n): "" for n in range(arguments.MAX_METADATA_ENTRIES + 1)}},
    ),
    "the size of files": (
        {"code": "x" * PAGE, "limits": {"disk_bytes": PAGE}},
        {"code": "x" * (PAGE + 1), "limits": {"disk_bytes": PAGE}},
    ),
    "the number of files and folders": (  # with the file of `code`
        named(*(f"{n}/f" for n in range(resolve.MAX_FILES // 2 - 1)), "g"),
        named(*(f"{n}/f" for n in range(resolve.MAX_FILES // 2 - 1)), "g", "h"),
    ),
}


@pytest.mark.parametrize("what", EDGES)
def test_as_much_as_is_allowed_is_taken_and_no_more(what: str) -> None:
    most, more = EDGES[what]
    resolved(**most)
    with pytest.raises(InvalidJob):
        resolved(**more)


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
def test_a_limit_may_be_the_least_and_the_most(name: str) -> None:
    most = replace(Limits(), **{name: getattr(LEAST, name) * 4})
    config = LimitsConfig(default=most, max=most)
    for value in (getattr(LEAST, name), getattr(most, name)):
        job = resolved(config, limits={name: value})
        assert getattr(job.limits, name) == value


def test_a_language_raises_the_default_up_to_the_most() -> None:
    config = LimitsConfig(max=replace(Limits(), memory_bytes=2**33))
    assert resolved(config, language="large").limits.memory_bytes == 2**33
    assert resolved(config, language="script").limits == config.default
    assert resolved(config, language="large", limits={"memory_bytes": MIB * 9}).limits == replace(
        config.default, memory_bytes=MIB * 9
    )


@pytest.mark.parametrize(
    ("wanted", "most", "stack"),
    [
        ({}, 2**40, 256 * MIB),
        ({"memory_bytes": 64 * MIB}, 2**40, 64 * MIB),
        ({}, 32 * MIB, 32 * MIB),
        ({"memory_bytes": 4 * MIB}, 2**40, 8 * MIB),
        ({"stack_bytes": MIB}, 2**40, MIB),
    ],
)
def test_a_compiled_program_has_as_much_stack_as_memory(
    wanted: Mapping[str, int], most: int, stack: int
) -> None:
    config = LimitsConfig(max=replace(Limits(), stack_bytes=most))
    assert resolved(config, language="built", limits=wanted).limits.stack_bytes == stack
    assert resolved(config, limits={}).limits.stack_bytes == 8 * MIB


def test_a_compiler_has_the_operators_limits_and_the_callers_share_of_output() -> None:
    limits = {"wall_time_s": 0.5, "memory_bytes": 8 * MIB, "output_bytes": 5}
    compiling, running = resolved(language="built", limits=limits).steps
    assert (compiling.phase, running.phase) == (Phase.COMPILE, Phase.RUN)
    assert compiling.limits == replace(Limits(), output_bytes=5)
    assert running.limits.wall_time_s == 0.5


def test_the_callers_variables_and_arguments_come_last() -> None:
    job = resolved(language="built", env={"A": "theirs", "B": "b"}, args=("x",))
    assert job.env == {"A": "theirs", "B": "b"}
    assert job.steps[-1].argv == ("./a", "x")
    assert resolved(command=("a", "b"), args=("c",)).steps[0].argv == ("a", "b", "c")


def test_a_case_changes_what_it_names_and_nothing_else() -> None:
    given: dict[str, Any] = {"language": "sized", "args": ("x",), "env": {"A": "a"}}
    lower = {"memory_bytes": 64 * MIB}
    cases = (Case(), Case(stdin=b"", args=("y",), env={"A": "b"}, name="n"), Case(limits=lower))
    job = resolved(workers=READABLE, **given, cases=cases, stop_on_failure=True)
    same, changed, limited = job.cases
    assert job.stop_on_failure
    assert (same.step, same.stdin, same.env, same.name) == (job.steps[-1], None, {}, None)
    assert same.step is job.steps[-1], "there may be hundreds"
    assert changed.step.argv == ("run", "-m256", "y")
    assert (changed.step.limits, changed.stdin) == (job.limits, b"")
    assert (changed.env, changed.name) == ({"A": "b"}, "n")
    assert limited.step.argv == ("run", "-m64", "x")
    assert limited.step.limits == replace(job.limits, memory_bytes=64 * MIB)
    assert limited.env == {"B": "64"}, "the caller's A stays"
    assert (job.warm, job.fork) == (False, None)


def test_arguments_of_a_case_count_with_those_of_the_job() -> None:
    half = ("a" * 65535,) * 8
    resolved(args=half, cases=(Case(env={"A": "b" * 65531}),) * 2)
    resolved(args=half, cases=(Case(args=half),))
    with pytest.raises(InvalidJob) as refused:
        resolved(args=half, cases=(Case(), Case(args=(*half, ""))))
    assert refused.value.path == "$.cases[1].args"


def test_words_of_all_cases_count_together() -> None:
    """A few bytes may stand for millions of arguments, which the queue would have to weigh."""
    job: dict[str, Any] = {"args": ("",) * 4096}
    assert len(resolved(**job, cases=(Case(limits={"wall_time_s": 1.0}),) * 4).cases) == 4
    assert resolved(**job, cases=(Case(args=()),) * 100).cases
    for more in (Case(), Case(args=("",)), Case(args=(), env={"A": ""})):
        with pytest.raises(InvalidJob, match="16384") as refused:
            resolved(**job, cases=(*(Case(),) * 4, more))
        assert refused.value.path == "$.cases[4]"


def test_sources_are_found_by_their_ending_or_pattern() -> None:
    runtime = Runtime(
        name="made", entry="main.x", compile=("cc", "{sources}"), run=("./a",),
        sources=("*.x", "lib[0-9]/*", "*.a*b"),
    )  # fmt: skip
    names = ["main.x", "b.x", ".x", "x", "b.xx", "lib1/y", "lib/y", "c.aab", "c.ab.c", "B.X"]
    compiling, _ = build_steps(runtime, "main.x", names)
    assert compiling == ("cc", "main.x", "b.x", "c.aab", "lib1/y")


def test_more_sources_than_a_command_can_name() -> None:
    made = Runtime(
        name="built", entry="main.c", compile=("cc", "{sources}"), run=("./a",), sources=("*.c",)
    )
    resolver = Resolver(Config(), {"built": made})
    most = (MAX_COMMAND_BYTES - len("cc main.c ./a ")) // 251
    names = [f"{i:04}{'s' * 244}.c" for i in range(most + 1)]

    def resolve_with(*names: str) -> ResolvedJob:
        return resolver.resolve(JobSpec(language="built", **named("main.c", *names)), "1", WORKERS)

    assert len(resolve_with(*names[:-1]).steps[0].argv) == 2 + most
    with pytest.raises(InvalidJob, match="source files") as refused:
        resolve_with(*names)
    assert refused.value.path == "$.files"


def test_as_many_cases_as_are_configured() -> None:
    config = LimitsConfig(max_cases=2)
    assert len(resolved(config, cases=(Case(),) * 2).cases) == 2
    with pytest.raises(InvalidJob, match="2 at most"):
        resolved(config, cases=(Case(),) * 3)


def test_cases_have_a_time_together() -> None:
    """They hold one place, one after another."""
    most = LimitsConfig(max_cases_s=100)
    assert len(resolved(most, cases=(Case(limits={"wall_time_s": 50}),) * 2).cases) == 2
    for cases in (
        (Case(limits={"wall_time_s": 50}), Case(limits={"wall_time_s": 50.5})),
        (Case(limits={"wall_time_s": 50}), Case()),
    ):
        with pytest.raises(InvalidJob, match=r"limits\.max_cases_s allows 100 s") as refused:
            resolved(most, cases=cases)
        assert refused.value.path == "$.cases"
    assert resolved(most, limits={"wall_time_s": 600}).steps


def test_as_many_cases_as_there_may_be_fit_with_the_default_time_limit() -> None:
    assert len(resolved(cases=(Case(),) * 100).cases) == 100
    assert len(resolved(cases=(Case(),) * 10, limits={"wall_time_s": 600}).cases) == 10
    with pytest.raises(InvalidJob, match="6600 s together"):
        resolved(cases=(Case(),) * 11, limits={"wall_time_s": 600})
    one = LimitsConfig(max_cases=1)
    assert resolved(one, cases=(Case(),), limits={"wall_time_s": 600}).cases
    # Rounded one after another these would be more than their product.
    tenths = LimitsConfig(max_cases_s=9 * 0.7)
    assert len(resolved(tenths, cases=(Case(),) * 9, limits={"wall_time_s": 0.7}).cases) == 9


def test_what_is_compiled_must_come_out_of_its_sandbox() -> None:
    cases = (Case(),)
    assert resolved(cases=cases).cases
    assert resolved(workers=READABLE, language="built", cases=cases).cases
    with pytest.raises(InvalidJob, match="taken out") as refused:
        resolved(language="built", cases=cases)
    assert refused.value.path == "$.cases"


def test_files_can_only_be_taken_out_of_a_sandbox_that_can_be_read() -> None:
    asked: dict[str, Any] = {"artifacts": ("a", "b/*")}
    with_cases: dict[str, Any] = {"workers": READABLE, "cases": (Case(),)}
    assert resolved(workers=READABLE, **asked).artifacts == ("a", "b/*")
    for more in ({}, with_cases):
        with pytest.raises(InvalidJob) as refused:
            resolved(**asked, **more)
        assert refused.value.path == "$.artifacts"


def test_patterns_have_bounds() -> None:
    most = ("a" * 128,) * 32
    assert resolved(workers=READABLE, artifacts=most).artifacts == most
    for patterns in ((*most, "a"), (*most[1:], "a" * 129), ("a", "/b")):
        with pytest.raises(InvalidJob) as refused:
            resolved(workers=READABLE, artifacts=patterns)
        assert str(refused.value.path).startswith("$.artifacts")


def test_a_language_is_recorded_by_its_name() -> None:
    assert resolved(language="s").language == "script"
    assert resolved(command=("a",)).language is None


def test_a_sandbox_that_does_not_work_is_refused() -> None:
    broken = replace(WORKERS, backends={**WORKERS.backends, "other": BackendFacts("", "broken")})
    assert resolved(sandbox="other").backend == "other"
    assert resolved(workers=broken, sandbox="own").backend == "own"
    with pytest.raises(BackendUnavailable, match="not available"):
        resolved(workers=broken, sandbox="other")
