"""Programs of a language with `terminal`: lines come at once, and nothing else is changed."""

from __future__ import annotations

import asyncio
import base64
import hashlib

import pytest

from streamer.errors import ConfigError
from streamer.events import Complete, Output
from streamer.model.job import Case, JobSpec, TerminalSize
from streamer.model.runtime import Runtime
from streamer.model.session import SessionSpec
from tests.conftest import OpenService
from tests.running import run_job
from tests.worker.keeping import keeping

# Python without PYTHONUNBUFFERED: to a pipe it writes 8 KiB at a time.
LIVELY = Runtime(name="lively", run=("python3", "{entry}"), entry="main.py", terminal=True)
COMPILED = Runtime(
    name="compiled",
    compile=("python3", "-c", "print(__import__('os').isatty(1))"),
    run=("python3", "{entry}"),
    entry="main.py",
    terminal=True,
)
SIZE = 1_000_000


async def test_a_line_comes_while_the_program_waits(
    open_service: OpenService, backend: str
) -> None:
    service = await open_service(backend, runtimes=(LIVELY,))
    code = "print('one'); got = input(); print('two', got)"
    spec = JobSpec(language="lively", code=code, interactive=True)
    job = await service.jobs.submit(spec)
    written = ""
    async with asyncio.timeout(30):
        async for event in job.events():
            if isinstance(event.data, Output):
                written += event.data.data
                if written == "one\n":
                    await job.write("three\n")
    assert written == "one\ntwo three\n"


async def test_what_passes_is_not_changed(open_service: OpenService, backend: str) -> None:
    service = await open_service(backend, runtimes=(LIVELY,))
    code = """
import hashlib, os, sys
got = sys.stdin.buffer.read()
os.write(2, repr((hashlib.sha256(got).hexdigest(), *map(os.isatty, range(3)))).encode())
os.write(1, bytes(range(256)))
for _ in range(1000):
    sys.stdout.buffer.write(bytes(range(250)) * 4)
"""
    given = bytes(range(1, 128)).decode() * 10_000
    job = await service.jobs.submit(
        JobSpec(language="lively", code=code, stdin=given.encode(), output_encoding="base64")
    )
    out = {"stdout": b"", "stderr": b""}
    async for event in job.events():
        if isinstance(event.data, Output):
            out[event.data.stream] += base64.b64decode(event.data.data)
    assert out["stdout"] == bytes(range(256)) + bytes(range(250)) * 4000
    digest = hashlib.sha256(given.encode()).hexdigest()
    assert out["stderr"].decode() == repr((digest, False, True, False))
    end = await job.result()
    assert isinstance(end, Complete)
    assert (end.reason, end.exit_code, end.output_bytes) == (
        *("exited", 0),
        SIZE + 256 + len(out["stderr"]),
    )


async def test_each_case_has_one_and_a_compiler_none(open_service: OpenService) -> None:
    service = await open_service("plain", runtimes=(COMPILED,))
    code = "import os; print(os.isatty(1), input())"
    cases = (Case(stdin=b"a"), Case(stdin=b"b"))
    job = await service.jobs.submit(JobSpec(language="compiled", code=code, cases=cases))
    written = [
        (event.data.phase, event.data.data)
        async for event in job.events()
        if isinstance(event.data, Output)
    ]
    assert written == [("compile", "False\n"), ("run", "True a\n"), ("run", "True b\n")]


async def test_a_job_with_a_terminal_of_its_own_gets_that(open_service: OpenService) -> None:
    service = await open_service("plain", runtimes=(LIVELY,))
    code = "import os; print(*map(os.isatty, range(3)), os.get_terminal_size().columns)"
    spec = JobSpec(language="lively", code=code, terminal=TerminalSize(91, 20))
    job = await service.jobs.submit(spec)
    written = "".join(
        [event.data.data async for event in job.events() if isinstance(event.data, Output)]
    )
    assert written == "True True True 91\r\n"


@pytest.mark.parametrize("keeps", [False, True])
async def test_a_session_that_keeps_processes_has_none(
    open_service: OpenService, *, keeps: bool
) -> None:
    """A pseudo-terminal of the host lasts as long as anybody has it, and there are few."""
    service = await keeping(open_service, "plain", runtimes=(LIVELY,))
    session = await service.jobs.sessions.open(SessionSpec(keep_processes=keeps))
    of_session = session.session.session_id
    code = "import os; print(os.isatty(1))"
    ran = await run_job(service, language="lively", code=code, session_id=of_session)
    assert ran.text() == f"{not keeps}\n"


async def test_its_programs_are_started_for_their_jobs(open_service: OpenService) -> None:
    service = await open_service("bwrap", runtimes=(LIVELY,), sandbox={"warm": True})
    for _ in range(3):  # others would wait for the second and the third
        job = await service.jobs.submit(JobSpec(language="lively", code="print(1)"))
        end = await job.result()
        assert isinstance(end, Complete)
        assert (end.exit_code, end.output_bytes) == (0, 2)


def test_a_forked_program_has_none() -> None:
    with pytest.raises(ConfigError, match=r"runtimes\.x\.terminal: .*forked"):
        Runtime(name="x", run=("python3", "{entry}"), fork=True, terminal=True)
