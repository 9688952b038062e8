"""Values from Python callers: wrong types are refused at once, and the error names the place."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

import streamer
from streamer.compose import build
from streamer.errors import Draining, InvalidJob
from streamer.events import Output
from streamer.model.job import TerminalSize
from streamer.model.typed import typed_spec
from tests.conftest import OpenService
from tests.running import ended, program, run_job

TAKES = """
    import signal
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2])
    print(input(), flush=True)
    for _ in range(2):
        print(signal.sigwait([signal.SIGUSR1, signal.SIGUSR2]).name, flush=True)
"""
SPEC: dict[str, Any] = {"language": "python", "code": "print(1)"}


WRONG: list[tuple[dict[Any, Any], str, str]] = [
    ({"stdin": 5}, "$.stdin", "expected bytes or None, got an int"),
    ({"code": b"print(1)"}, "$.code", "expected a str or None, got bytes"),
    ({"language": 3}, "$.language", "expected a str or None, got an int"),
    ({"args": [1]}, "$.args[0]", "expected a str, got an int"),
    ({"args": "one"}, "$.args", "expected a list or tuple, got a str"),
    ({"command": "ls -l"}, "$.command", "expected a list or tuple, got a str"),
    ({"args": None}, "$.args", "expected a list or tuple, got None"),
    ({"env": {"A": 1}}, "$.env", "expected a str, got an int"),
    ({"env": {1: "a"}}, "$.env", "expected a str, got an int"),
    ({"env": ["A=1"]}, "$.env", "expected a mapping, got a list or tuple"),
    ({"metadata": {"a": {}}}, "$.metadata", "expected a str, got a mapping"),
    ({"interactive": "yes"}, "$.interactive", "expected True or False, got a str"),
    ({"network": 1}, "$.network", "expected True or False, got an int"),
    ({"limits": streamer.Limits()}, "$.limits", '{"wall_time_s": 5}, got a Limits'),
    ({"limits": [5]}, "$.limits", "got a list"),
    ({"limits": None}, "$.limits", "got None"),
    ({"limits": {5: 5}}, "$.limits", "got a dict"),
    ({"limits": {"wall_time_s": True}}, "$.limits.wallTimeS", "expected a number"),
    ({"files": {"name": "a"}}, "$.files", "expected a list or tuple, got a mapping"),
    ({"files": [{"name": "a"}]}, "$.files[0]", "expected a streamer.SourceFile, got a dict"),
    ({"files": [streamer.SourceFile("a", 5)]}, "$.files[0].content", "expected bytes"),  # type: ignore[arg-type]
    ({"files": [streamer.SourceFile(5, b"")]}, "$.files[0].name", "expected a str"),  # type: ignore[arg-type]
    ({"files": [streamer.SourceFile("a", b"", "0644")]}, "$.files[0].mode", "an int"),  # type: ignore[arg-type]
    ({"files": [streamer.SourceFile("a", b"", 0o4755)]}, "$.files[0].mode", "0 to 0o777"),
    ({"files": [streamer.SourceFile("a", b"", -1)]}, "$.files[0].mode", "0 to 0o777"),
    ({"stdin": "\udc80"}, "$.stdin", "not valid Unicode"),
    ({"output_encoding": "latin-1"}, "$.outputEncoding", "unknown value 'latin-1'"),
    ({"limits": {"wallTimeS": 5}}, "$.limits.wallTimeS", "'wallTimeS'; known: cpu_time_s,"),
    ({"project_id": 5}, "$.projectId", "expected a str or None"),
    ({"terminal": (80, 24)}, "$.terminal", "expected a mapping or None, got a list or tuple"),
    ({"terminal": TerminalSize(80, "24")}, "$.terminal.rows", "expected an int"),  # type: ignore[arg-type]
]


async def test_a_wrong_type_is_refused_with_its_place(open_service: OpenService) -> None:
    service = await open_service("bwrap")
    for fields, path, said in WRONG:
        with pytest.raises(InvalidJob) as caught:
            await service.jobs.submit(streamer.JobSpec(**{**SPEC, **fields}))
        assert caught.value.path == path, fields
        assert said in caught.value.message
        # The message in a host's log contains the place.
        assert str(caught.value).endswith(f"({path})")
        assert (await service.jobs.stats()).waiting == 0


@pytest.mark.parametrize("spec", [SPEC, "print(1)", None, streamer.JobSpec])
async def test_what_is_no_job_is_refused(open_service: OpenService, spec: Any) -> None:
    service = await open_service("bwrap")
    with pytest.raises(InvalidJob, match=r"expected a streamer\.JobSpec"):
        await service.jobs.submit(spec)
    with pytest.raises(TypeError, match="tenant must be a str"):
        await service.jobs.submit(streamer.JobSpec(**SPEC), tenant=None)  # type: ignore[arg-type]


async def test_text_stands_for_bytes_and_lists_for_tuples(open_service: OpenService) -> None:
    service = await open_service("bwrap")
    source = streamer.SourceFile("main.py", "import sys; print(sys.argv[1], input())")  # type: ignore[arg-type]
    ran = await run_job(service, language="python", files=[source], args=["é"], stdin="ü\n")
    assert ran.out == "é ü\n"


def test_every_field_survives_the_door() -> None:
    given: dict[str, Any] = {
        "command": ("a", "b"),
        "files": (streamer.SourceFile("a", b"1", 0o755),),
        "env": {"A": "1"},
        "stdin": b"x",
        "interactive": True,
        "terminal": TerminalSize(80, 24),
        # Whole numbers stay whole: a number of bytes is not 5.0.
        "limits": {"memory_bytes": 5, "wall_time_s": 0.5, "disk_bytes": "1MiB"},
        "metadata": {"k": "v"},
    }
    spec = typed_spec(streamer.JobSpec(**given))
    assert spec == streamer.JobSpec(**given)
    assert type(spec.limits["memory_bytes"]) is int


async def test_input_and_signals_of_other_types_raise_at_once(open_service: OpenService) -> None:
    service = await open_service("bwrap")
    job = await service.jobs.submit(streamer.JobSpec(**program(TAKES), interactive=True))
    for wrong in (5, None, ["a"], object()):
        with pytest.raises(TypeError, match="expected bytes or str"):
            await job.write(wrong)  # type: ignore[arg-type]
    for unfit in (None, b"SIGINT", 1.0, True):
        with pytest.raises(TypeError, match="expected a signal's number or name"):
            await job.signal(unfit)  # type: ignore[arg-type]
    for unknown in ("SIGNOTHING", "int", "SIG32", 0, -9, 65, 10**9):
        with pytest.raises(ValueError, match="unknown signal"):
            await job.signal(unknown)
    for number in (0, -1):  # it would be silently dropped as a repetition
        with pytest.raises(ValueError, match="begin with 1"):
            await job.write("lost", number=number)
        with pytest.raises(ValueError, match="begin with 1"):
            await job.end_input(number=number)
    with pytest.raises(ValueError, match="the first byte is 0"):
        await job.write("lost", seq=-1)
    with pytest.raises(ValueError, match="the first byte is 0"):
        await job.end_input(seq=-1)
    assert await job.write("tëxt\n", number=1) == "accepted"
    async for event in job.events():
        if isinstance(event.data, Output):
            break
    assert await job.signal("SIGUSR1") == "accepted"
    assert await job.signal(signal.SIGUSR2) == "accepted"
    out = (await ended(job)).text()
    assert out.splitlines()[0] == "tëxt"
    assert set(out.split()[1:]) == {"SIGUSR1", "SIGUSR2"}
    # A finished job takes no input: this is returned, not raised.
    assert await job.write(b"late") == "closed"
    assert await job.signal("SIGTERM") == "closed"
    assert await job.cancel() == "done"


async def test_a_service_that_has_not_started_or_has_stopped_says_so(
    need: Callable[[str], str],
) -> None:
    service = build({"sandbox": {"backend": need("plain")}})
    with pytest.raises(Draining, match="has not started"):
        await service.jobs.submit(streamer.JobSpec(**SPEC))
    async with service:
        pass
    with pytest.raises(Draining, match="is shutting down"):
        await service.jobs.submit(streamer.JobSpec(**SPEC))


@pytest.mark.parametrize("prefix", ["code", "", "code/", "./code"])
def test_a_prefix_without_its_slash_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match=r"prefix = .*begins with a slash"):
        streamer.setup(web.Application(), prefix=prefix)
    with pytest.raises(ValueError, match=r"prefix = '/': name a folder"):
        streamer.setup(web.Application(), prefix="/")


async def test_a_second_request_finds_its_job_again(open_service: OpenService) -> None:
    service = await open_service("bwrap")
    first = await service.jobs.submit(streamer.JobSpec(**SPEC), tenant="ann")
    again = service.jobs.job(first.id)
    assert (await again.view()).tenant == "ann"
    first_end, end = await asyncio.gather(first.result(), again.result())
    assert first_end == end
    with pytest.raises(streamer.errors.UnknownJob):
        await service.jobs.job("a" * 26).view()
