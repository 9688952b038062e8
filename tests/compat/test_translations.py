"""What requests of SandboxFusion and Dify become, and what is said of how they ended."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from streamer import Limits
from streamer.compat.dify import translate as dify
from streamer.compat.outcome import Outcome
from streamer.compat.sandboxfusion import translate as fusion
from streamer.errors import InvalidRequest
from streamer.events import Error
from tests.compat.test_jobe_translate import MOST, ended, ran


def run_code(**more: Any) -> fusion.RunCode:
    return fusion.RunCode(**{"code": "print(1)", "language": "python", **more})


def test_a_request_of_sandboxfusion_becomes_a_job() -> None:
    files = {"./a/b.txt": base64.b64encode(b"in").decode(), "left": None}
    asked = run_code(
        run_timeout=3, memory_limit_MB=100, stdin="x", files=files, fetch_files=["./out", "out"]
    )
    job = fusion.spec_of(asked, MOST, "science")
    assert [(file.name, file.content) for file in job.files] == [("a/b.txt", b"in")]
    assert job.limits["wall_time_s"] == 3
    assert job.limits["memory_bytes"] == 100 * 2**20
    assert job.stdin == b"x"
    assert job.artifacts == ("out",)
    assert job.environment == "science"


def test_its_limits_are_at_most_those_of_the_service() -> None:
    limits = fusion.spec_of(run_code(run_timeout=1e9, memory_limit_MB=10**6), Limits()).limits
    assert limits["wall_time_s"] == Limits().wall_time_s
    assert limits["memory_bytes"] == Limits().memory_bytes
    assert fusion.spec_of(run_code(run_timeout=-1), Limits()).limits["wall_time_s"] == 0.1
    assert "memory_bytes" not in fusion.spec_of(run_code(), Limits()).limits


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"language": "cuda"}, "$.language"),
        ({"files": {"a": "%"}}, "$.files"),
        ({"fetch_files": ["*.png"]}, "$.fetch_files"),
    ],
)
def test_what_sandboxfusion_alone_has_is_refused(more: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        fusion.spec_of(run_code(**more), MOST)
    assert refused.value.path == path


def test_php_needs_no_opening_tag() -> None:
    assert fusion.spec_of(run_code(language="php"), MOST).code == "<?php\nprint(1)"


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        (ran(stdout=b"1\n"), "Success", ("Finished", 0, "1\n", "")),
        (ran("signaled", signal="SIGSEGV"), "Failed", ("Finished", -11, "", "")),
        (ran("wall_time", stdout=b"1"), "Failed", ("TimeLimitExceeded", None, "1", "")),
        (ran("memory"), "Failed", ("Finished", -9, "", "killed: memory\n")),
    ],
)
def test_how_a_program_ended_is_told(end: Outcome, status: str, said: tuple[object, ...]) -> None:
    answer = fusion.result(end, compiled=False, files={"f": b"\0"})
    assert (answer["status"], answer["compile_result"]) == (status, None)
    ended = answer["run_result"]
    assert tuple(ended[key] for key in ("status", "return_code", "stdout", "stderr")) == said
    assert answer["files"] == {"f": "AA=="}


def test_a_failed_compilation_has_no_run() -> None:
    end = ran("signaled", signal="SIGKILL", phase="compile", stderr=b"oh")
    answer = fusion.result(end, compiled=True, files={})
    assert answer["run_result"] is None
    assert answer["compile_result"]["return_code"] == -9
    assert answer["compile_result"]["stderr"] == "oh"
    assert answer["status"] == "Failed"


def test_a_fault_of_ours_is_one_of_the_sandbox() -> None:
    answer = fusion.result(ended(Error("internal", "sorry")), compiled=True, files={})
    assert (answer["status"], answer["message"]) == ("SandboxError", "sorry")
    assert dify.result(ended(Error("internal", "sorry")))["message"] == "sorry"


def test_dify_gets_the_network_only_where_it_is_allowed() -> None:
    asked = dify.Run("python3", "1", enable_network=True)
    for allowed in (True, False):
        job = dify.spec_of(asked, network=allowed, python_environment="jinja")
        assert job is not None
        assert (job.network, job.environment) == (allowed, "jinja")
    job = dify.spec_of(dify.Run("nodejs", "1"), network=True, python_environment="jinja")
    assert job is not None
    assert (job.language, job.network, job.environment) == ("javascript", False, None)
    assert dify.spec_of(dify.Run("ruby", "1"), network=True) is None


@pytest.mark.parametrize(
    ("end", "code", "error"),
    [
        (ran(stdout=b"1", stderr=b"log"), 0, ""),
        (ran("wall_time"), -1, "process exited with code -1\nerror: timeout\n"),
        (ran("memory", stderr=b"x"), -1, "process exited with code -1\nerror: memory\nx"),
        (
            ran("signaled", signal="SIGSYS"),
            -1,
            "process exited with code -1\nerror: operation not permitted\n",
        ),
        (ran("signaled", signal="SIGSEGV"), -1, "process exited with code -1\nerror: SIGSEGV\n"),
    ],
)
def test_dify_is_told_how_a_program_ended(end: Outcome, code: int, error: str) -> None:
    data = dify.result(end)["data"]
    assert (data["exit_code"], data["error"]) == (code, error)
