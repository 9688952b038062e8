"""Run the table of languages: each does what it does in a terminal, and its lines come at once."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import AsyncIterator, Callable
from pathlib import Path, PurePosixPath

import pytest
import pytest_asyncio

from streamer import web
from streamer.compose import Parts, build
from streamer.model.events import Complete, Output
from streamer.model.job import JobSpec, SourceFile
from streamer.model.languages import DEFAULT_RUNTIMES
from tests.conftest import BACKENDS
from tests.languages.managed import MANAGED
from tests.languages.native import NATIVE
from tests.languages.scripts import SCRIPTS
from tests.languages.table import LETTERS, Row
from tests.running import Ran, run_job
from tests.tools import tool

TABLE = {row.language: row for row in (*SCRIPTS, *NATIVE, *MANAGED)}

REQUIRED = frozenset(filter(None, os.environ.get("STREAMER_REQUIRE_LANGUAGES", "").split(",")))

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


async def test_every_language_is_in_the_table() -> None:
    assert TABLE.keys() == DEFAULT_RUNTIMES.keys()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["bwrap"])
async def service(
    request: pytest.FixtureRequest, need: Callable[[str], str]
) -> AsyncIterator[Parts]:
    async with build({"sandbox": {"backend": need(request.param), "warm": False}}) as service:
        yield service


def need_language(service: Parts, name: str) -> None:
    """Skip the test, or fail it, where the language is missing."""
    if reason := service.worker.host.languages.missing.get(name):
        if name in REQUIRED:
            pytest.fail(f"required here (STREAMER_REQUIRE_LANGUAGES): {reason}")
        pytest.skip(reason)


async def ran(service: Parts, row: Row, program: str, **fields: object) -> Ran:
    """Run one program of the row, if the language and the row have such a thing."""
    need_language(service, row.language)
    if not getattr(row, program) and program not in ("adds", "arguments"):
        pytest.skip("the language has no such thing")
    return await run_job(service, language=row.language, code=row.program(program), **fields)


def of(ran: Ran, phase: str = "run", stream: str = "stdout") -> str:
    said = [event.data for event in ran.events if isinstance(event.data, Output)]
    return "".join(o.data for o in said if (o.phase, o.stream) == (phase, stream))


@pytest.fixture(params=TABLE)
def row(request: pytest.FixtureRequest) -> Row:
    return TABLE[request.param]


async def test_hello(row: Row, service: Parts) -> None:
    end = await ran(service, row, "hello")
    assert (end.verdict, of(end), of(end, stream="stderr")) == ("exited 0", "hello\n", ""), (
        end.events
    )


@pytest.mark.parametrize("service", sorted({*BACKENDS} - {"bwrap"}), indirect=True)
async def test_hello_in_other_sandboxes(row: Row, service: Parts) -> None:
    end = await ran(service, row, "hello")
    assert (end.verdict, of(end)) == ("exited 0", "hello\n"), end.events


async def test_an_error(row: Row, service: Parts) -> None:
    end = await ran(service, row, "error")
    expected = "signaled SIGABRT" if row.exit_code < 0 else f"exited {row.exit_code}"
    assert end.verdict == expected, end.events
    assert "boom" in of(end, stream="stderr")


async def test_a_program_that_is_none(row: Row, service: Parts) -> None:
    end = await ran(service, row, "broken")
    runtime = DEFAULT_RUNTIMES[row.language]
    phase = "compile" if runtime.compile else "run"
    complete = end.events[-1].data
    assert isinstance(complete, Complete)
    assert (complete.reason, complete.phase) == ("exited", phase)
    assert complete.exit_code
    said = of(end, phase) + of(end, phase, "stderr")
    assert (row.complains or runtime.entry) in said
    assert "hello\n" not in of(end)


async def test_standard_input(row: Row, service: Parts) -> None:
    end = await ran(service, row, "adds", stdin=row.numbers.encode())
    assert (end.verdict, of(end)) == ("exited 0", "7\n"), end.events


async def test_arguments(row: Row, service: Parts) -> None:
    end = await ran(service, row, "arguments", args=row.given)
    assert (end.verdict, of(end)) == ("exited 0", f"a b\n--x\n{LETTERS}\n"), end.events


async def test_an_entry_in_a_folder(row: Row, service: Parts) -> None:
    need_language(service, row.language)
    entry = PurePosixPath(DEFAULT_RUNTIMES[row.language].entry)
    # Java wants the name of the class.
    name = f"src/{entry}" if row.language == "java" else f"src/my first.try{entry.suffix}"
    file = SourceFile(name, row.program("hello").encode())
    end = await run_job(service, language=row.language, entry=name, files=(file,))
    assert (end.verdict, of(end)) == ("exited 0", "hello\n"), end.events


async def test_letters_of_every_length(row: Row, service: Parts) -> None:
    end = await ran(service, row, "letters", stdin=f"{row.line}\n".encode())
    assert (end.verdict, of(end).split()) == ("exited 0", [LETTERS, LETTERS]), end.events


async def test_threads(row: Row, service: Parts) -> None:
    end = await ran(service, row, "threads")
    assert (end.verdict, of(end)) == ("exited 0", "28\n"), end.events


async def test_a_limit(row: Row, service: Parts) -> None:
    end = await ran(service, row, "endless", limits={"cpu_time_s": 0.5})
    complete = end.events[-1].data
    assert isinstance(complete, Complete)
    assert (complete.reason, complete.phase) == ("cpu_time", "run"), end.events


async def ends_at_its_line(service: Parts, language: str, code: str) -> None:
    """Cancel the program when its line comes; one that is not seen while it waits ends otherwise."""
    job = await service.jobs.submit(JobSpec(language=language, code=code))
    events = []
    async for event in job.events():
        events.append(event)
        if isinstance(event.data, Output) and of(Ran(tuple(events))) == "now\n":
            await job.cancel()
    complete = events[-1].data
    assert isinstance(complete, Complete)
    assert complete.reason == "cancelled", events


async def test_a_line_comes_at_once(row: Row, service: Parts) -> None:
    need_language(service, row.language)
    await ends_at_its_line(service, row.language, row.program("waits"))


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("tcl", "puts now; after 60000"),
        ("fortran", "print '(A)', 'now'; call sleep(60); end"),
    ],
)
async def test_a_line_of_a_documented_language_comes_at_once(language: str, code: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "languages.md").read_text()
    (shown,) = re.findall(rf"```toml\n(\[runtimes\.{language}\].*?)```", page, re.DOTALL)
    config = {"sandbox": {"backend": "bwrap", "warm": False}, **tomllib.loads(shown)}
    async with build(config) as service:
        need_language(service, language)
        await ends_at_its_line(service, language, code)


@pytest.fixture(scope="module")
def samples() -> dict[str, str]:
    """Return the playground's first programs."""
    path = Path(web.__file__).parent / "static" / "samples.js"
    script = "import(process.argv[1]).then(m => console.log(JSON.stringify([...m.SAMPLES])))"
    with tempfile.TemporaryDirectory() as folder:
        module = shutil.copy(path, Path(folder) / "samples.mjs")
        shown = subprocess.check_output([tool("node"), "-e", script, module])
    return dict(json.loads(shown))


async def test_the_playground_has_first_programs(
    need: Callable[[str], str], samples: dict[str, str]
) -> None:
    """All at once, since each takes five seconds, in which it waits."""
    assert samples.keys() >= TABLE.keys()
    sandbox = {"backend": need("bwrap"), "warm": False}
    settings = {"sandbox": sandbox, "queue": {"concurrency": len(TABLE)}}
    async with build(settings) as service:
        names = sorted(TABLE.keys() & service.worker.host.languages.available)
        ends = await asyncio.gather(
            *(run_job(service, language=name, code=samples[name]) for name in names)
        )
    for name, end in zip(names, ends, strict=True):
        assert end.verdict == "exited 0", (name, end.events)
        lines = re.sub(r"\x1b\[\d+m", "", of(end)).splitlines()
        begins = [line.split("|")[0] for line in lines]
        assert begins == [f"line {number}" for number in range(1, 26)], name
