"""What runs of Jobe become, and what is said of how they ended."""

from __future__ import annotations

import time
from typing import Any

import pytest

from streamer import JobSpec, Limits
from streamer.compat.jobe.files import FileCache
from streamer.compat.jobe.languages import RUN, main_class
from streamer.compat.jobe.translate import Refused, result, spec_of
from streamer.compat.outcome import Outcome, Printed
from streamer.events import Complete, Error

MOST = Limits(
    wall_time_s=600,
    cpu_time_s=600,
    memory_bytes=2**31,
    processes=512,
    file_bytes=2**30,
    output_bytes=2**30,
    stack_bytes=2**31,
)
SPEC = {"language_id": "python3", "sourcecode": "print(1)"}


def spec(most: Limits = MOST, files: dict[str, bytes] | None = None, **run: Any) -> JobSpec:
    def find(file_id: str) -> bytes | None:
        return (files or {}).get(file_id)

    job = spec_of({"run_spec": {**SPEC, **run}}, find, most)
    assert job is not None
    return job


def program(job: JobSpec) -> str:
    return next(file.content.decode() for file in job.files if file.name == RUN)


def ended(
    end: Complete | Error, stdout: bytes = b"", stderr: bytes = b"", phase: str = "run"
) -> Outcome:
    """Return how a job ended, and what the program of this phase wrote."""
    nothing = Printed(1000)
    printed = Printed(1000, bytearray(stdout), bytearray(stderr))
    compiler, program = (printed, nothing) if phase == "compile" else (nothing, printed)
    return Outcome(compiler, program, end)


def ran(
    reason: Any = "exited",
    *,
    signal: str | None = None,
    phase: Any = "run",
    stdout: bytes = b"",
    stderr: bytes = b"",
) -> Outcome:
    complete = Complete(
        reason=reason,
        exit_code=0 if reason == "exited" else None,
        signal=signal,
        duration_ms=1,
        cpu_time_ms=1,
        peak_memory_bytes=1,
        timed_out=False,
        oom_killed=False,
        output_bytes=0,
        output_truncated=False,
        sandbox="bwrap",
        phase=phase,
    )
    return ended(complete, stdout, stderr, phase)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "Non-JSON post data received"),
        ({}, "No run_spec attribute found in post data"),
        (
            {"run_spec": {"sourcecode": ""}},
            "run_spec is missing the required attribute 'language_id'",
        ),
        (
            {"run_spec": {"language_id": "c"}},
            "run_spec is missing the required attribute 'sourcecode'",
        ),
        (
            {"run_spec": {**SPEC, "language_id": 3}},
            "The language_id of the run_spec is not a string",
        ),
        ({"run_spec": {**SPEC, "language_id": "nosuch"}}, "Language 'nosuch' is not known"),
        (
            {"run_spec": {**SPEC, "sourcefilename": "../x"}},
            "The sourcefilename for the run_spec is illegal",
        ),
        (
            {"run_spec": {**SPEC, "sourcefilename": "-x"}},
            "The sourcefilename for the run_spec is illegal",
        ),
        ({"run_spec": {**SPEC, "input": ["x"]}}, "The input of the run_spec is not a string"),
        (
            {"run_spec": {**SPEC, "parameters": 3}},
            "The parameters of the run_spec are not an object",
        ),
        (
            {"run_spec": {**SPEC, "parameters": {"runargs": "x"}}},
            "The parameter runargs is not a list",
        ),
        (
            {"run_spec": {**SPEC, "parameters": {"runargs": [{}]}}},
            "The parameter runargs is not a list of strings",
        ),
        ({"run_spec": {**SPEC, "file_list": "x"}}, "The file_list of the run_spec is not a list"),
        (
            {"run_spec": {**SPEC, "file_list": [["short", "x"]]}},
            "Invalid file specifier: 'short, x'",
        ),
        (
            {"run_spec": {**SPEC, "file_list": [["longenough", "a/b"]]}},
            "Invalid file specifier: 'longenough, a/b'",
        ),
        ({"run_spec": {**SPEC, "file_list": [7]}}, "Invalid file specifier: '7'"),
        (
            {"run_spec": {**SPEC, "parameters": {"cputime": 121}}},
            "cputime exceeds maximum allowed on this Jobe server (120 secs)",
        ),
    ],
)
def test_a_run_that_jobe_refuses_is_refused_with_its_words(document: object, message: str) -> None:
    with pytest.raises(Refused) as refused:
        spec_of(document, lambda _: None, MOST)
    assert (refused.value.message, refused.value.status) == (message, 400)


def test_a_file_that_was_not_put_is_missing() -> None:
    with pytest.raises(Refused) as refused:
        spec(file_list=[["abcdefgh", "data.csv"]])
    assert refused.value.status == 404
    assert refused.value.message == "One or more of the specified files is missing/unavailable"


def test_files_lie_beside_the_source_and_over_it() -> None:
    files = {"abcdefgh": b"1,2", "ijklmnop": b"print(2)"}
    listed = [["abcdefgh", "data.csv"], ["ijklmnop", "prog.py", True]]
    job = spec(files=files, file_list=listed)
    contents = {file.name: file.content for file in job.files}
    assert contents["data.csv"] == b"1,2"
    assert contents["prog.py"] == b"print(2)"
    assert job.entry == "prog.py"


def test_parameters_become_limits() -> None:
    parameters = {
        "cputime": "7",
        "memorylimit": 100,
        "numprocs": 3,
        "streamsize": 1,
        "disklimit": 5,
    }
    limits = spec(parameters=parameters).limits
    assert limits["cpu_time_s"] == 7
    assert limits["wall_time_s"] == 14
    assert limits["processes"] == 4
    assert limits["output_bytes"] == 1_024_000
    assert limits["file_bytes"] == 5_120_000
    # The address space ends before the memory does, so the program sees it.
    assert limits["memory_bytes"] == 100 * 1_024_000 + 64 * 1024 * 1024
    assert program(spec(parameters=parameters)).startswith("ulimit -v 100000\n")


def test_no_limits_are_those_of_the_service_and_none_is_above_them() -> None:
    most = Limits(memory_bytes=2**26, processes=8, file_bytes=2**20, output_bytes=2**18)
    parameters = {"memorylimit": 0, "disklimit": -1, "numprocs": 1000, "streamsize": 100}
    job = spec(most, parameters=parameters)
    assert job.limits["memory_bytes"] == 2**26
    assert job.limits["file_bytes"] == 2**20
    assert job.limits["processes"] == 8
    assert job.limits["output_bytes"] == 2**18
    assert "ulimit" not in program(job)
    assert spec(most).limits["memory_bytes"] == 2**26


@pytest.mark.parametrize("wrong", ["five", None, [], float("nan"), float("inf"), 10**400])
def test_a_parameter_that_is_no_number_has_its_default(wrong: object) -> None:
    assert spec(parameters={"cputime": wrong}).limits["cpu_time_s"] == 5


def test_arguments_are_words_for_the_shell_and_names_are_quoted() -> None:
    job = spec(sourcefilename="two words.py", parameters={"runargs": ["a b", 7]})
    assert program(job).endswith("exec \"$0\" -BE 'two words.py' a b 7\n")


def test_a_java_source_is_named_after_its_class() -> None:
    source = "public class Thing { public static void main(String[] args) { } }"
    for name in (None, "", "prog.java"):
        job = spec(language_id="Java", sourcecode=source, sourcefilename=name)
        assert job.entry == "Thing.java"
    assert spec(language_id="java", sourcecode="class X {}").entry == "prog.java"


def test_two_main_classes_are_none() -> None:
    one = "public class A { static public void main(String[] a) {} }"
    assert main_class(one) == "A"
    assert main_class(f"{one}\n{one}") is None
    assert main_class("public class A {}") is None


def test_the_main_class_is_found_in_linear_time() -> None:
    begun = time.process_time()
    assert main_class("public class A {" * 200_000) is None
    assert main_class("public" + " " * 2_000_000) is None
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    ("end", "outcome", "stdout", "stderr"),
    [
        (ran(stdout=b"1\n"), 15, "1\n", ""),
        (ran(stdout=b"1\n", stderr=b"careful\n"), 12, "1\n", "careful\n"),
        (ran("signaled", signal="SIGSEGV", stderr=b"x"), 12, "", ""),
        (ran("signaled", signal="SIGABRT"), 12, "", "warning: command terminated with SIGABRT\n"),
        (ran("wall_time", stdout=b"1", stderr=b"x"), 13, "1", ""),
        (ran("cpu_time"), 13, "", ""),
        (ran("output_limit", stdout=b"lots"), 13, "lots", ""),
        (ran("memory", stderr=b"x"), 17, "", "x"),
        (ran("disk"), 12, "", "warning: the disk limit was reached\n"),
        (ran("cancelled"), 20, "", "the run was cancelled\n"),
        (ran(stdout=b"\x01\xc0~\x7f\n"), 15, "\\x01\\xc0~\\x7f\n", ""),
        (ended(Error("sandbox_error", "no sandbox")), 20, "", "no sandbox"),
        (ended(Error("shutting_down", "stops")), 21, "", ""),
    ],
)
def test_how_a_run_ended_is_an_outcome(
    end: Outcome, outcome: int, stdout: str, stderr: str
) -> None:
    assert result("id", "python3", end) == {
        "run_id": "id",
        "outcome": outcome,
        "cmpinfo": "",
        "stdout": stdout,
        "stderr": stderr,
    }


def test_what_the_compiler_said_is_a_compilation_error() -> None:
    said = ran(phase="compile", stderr=b"error\n", stdout=b"file:\n")
    assert result("id", "c", said)["cmpinfo"] == "file:\nerror\n"
    assert result("id", "c", said)["outcome"] == 11
    late = ran("wall_time", phase="compile", stderr=b"")
    assert (
        result("id", "c", late)["cmpinfo"] == "The compilation was ended by its limit: wall_time\n"
    )
    assert result("id", "c", ran(phase="compile"))["cmpinfo"]


def test_tabs_before_the_lines_of_a_java_traceback_become_blanks() -> None:
    assert result("id", "java", ran(stderr=b"E\n\tat A"))["stderr"] == "E\n        at A"


def test_the_cache_forgets_what_was_used_least_recently() -> None:
    cache = FileCache(4000)
    for name in ("a", "b", "c"):
        assert cache.put("", name, bytes(600))
    assert cache.find("", "a") is not None
    assert cache.put("", "d", bytes(600))
    assert cache.find("", "b") is None
    assert cache.find("", "a") is not None
    assert not cache.put("", "large", bytes(4000))
    assert cache.put("", "a", b"new")
    assert cache.find("", "a") == b"new"


def test_tenants_do_not_share_files_and_one_gets_half_at_most() -> None:
    cache = FileCache(8000)
    assert cache.put("ann", "id", b"hers")
    assert cache.find("bob", "id") is None
    for name in map(str, range(20)):
        assert cache.put("bob", name, bytes(900))
    assert cache.find("ann", "id") == b"hers"
    assert not cache.put("bob", "large", bytes(4000))
