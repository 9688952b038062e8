"""Run programs from public reports in each backend: they behave as they do elsewhere."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace

from streamer.compose import Parts, build
from streamer.config.schema import Config
from streamer.model.events import Output
from streamer.model.job import JobSpec
from streamer.worker.tools import find_tool
from tests.conftest import BACKENDS, OpenService
from tests.public.habits import HABITS
from tests.public.programs import CASES, Case
from tests.running import Ran, run_job


def names(case: Case) -> str:
    return case.name


def need_tools(case: Case, service: Parts) -> None:
    """Skip a program whose language or tools this host does not have in the jobs' PATH."""
    path = service.config.sandbox.path
    reason = find_tool(service.jobs.runtimes[case.language], path).reason
    if reason:
        pytest.skip(reason)
    for tool in case.tools:
        done = subprocess.run(
            ["/bin/bash", "-c", tool], capture_output=True, check=False, env={"PATH": path}
        )
        if done.returncode != 0:
            pytest.skip(f"this host fails at `{tool}` itself")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=BACKENDS)
async def service(
    request: pytest.FixtureRequest, need: Callable[[str], str]
) -> AsyncIterator[Parts]:
    """Return one service of each backend for all programs: they are each other's neighbours."""
    sandbox = {"backend": need(request.param), "allow_command": True, "warm": False}
    config = Config.from_mapping({"sandbox": sandbox})
    runtimes = {case.runtime.name: case.runtime for case in CASES if case.runtime}
    async with build(replace(config, runtimes={**config.runtimes, **runtimes})) as service:
        yield service


of_one_service = pytest.mark.asyncio(loop_scope="module")


@of_one_service
@pytest.mark.parametrize("case", [*CASES, *HABITS], ids=names)
async def test_a_program_does_what_it_does_everywhere(case: Case, service: Parts) -> None:
    if service.worker.backends.default not in case.backends:
        pytest.skip("not promised")
    need_tools(case, service)
    ran = await run_job(service, language=case.language, code=case.source, **case.spec)
    assert (ran.verdict, ran.text("stderr")) == (case.verdict, case.err), ran.events
    said = [event.data for event in ran.events if isinstance(event.data, Output)]
    run = [output for output in said if output.phase == "run"]  # compilers may print warnings too
    assert "".join(output.data for output in run if output.stream == "stdout") == case.out


PROMPTS = {
    "python": 'n = int(input("n: ")); print("got", n)',
    "bash": 'printf "n: "; read -r n; echo "got $n"',
    "ruby": 'print "n: "; puts "got #{gets}"',
    "php": '<?php echo "n: "; echo "got " . fgets(STDIN);',
    "perl": 'print "n: "; print "got ", scalar <STDIN>;',
    "lua": 'io.write("n: "); print("got " .. io.read())',
    "javascript": 'process.stdout.write("n: "); process.stdin.on("data", d => '
    'process.stdout.write("got " + d))',
    "c": "#include <stdio.h>\n"
    'int main(void) { int n; printf("n: "); scanf("%d", &n); printf("got %d\\n", n); }',
    "cpp": "#include <iostream>\n"
    'int main() { int n; std::cout << "n: "; std::cin >> n; std::cout << "got " << n << "\\n"; }',
}


@of_one_service
@pytest.mark.parametrize("language", PROMPTS)
async def test_a_question_is_seen_before_its_answer_is_given(language: str, service: Parts) -> None:
    """Otherwise nobody could answer the prompt."""
    if reason := find_tool(service.jobs.runtimes[language], service.config.sandbox.path).reason:
        pytest.skip(reason)
    job = await service.jobs.submit(
        JobSpec(language=language, code=PROMPTS[language], interactive=True)
    )
    events = []
    async for event in job.events():
        events.append(event)
        if isinstance(event.data, Output) and Ran(tuple(events)).text() == "n: ":
            assert await job.write(b"5\n") == "accepted"
            await job.end_input()
    ran = Ran(tuple(events))
    assert ran.text() == "n: got 5\n"


async def test_a_program_that_is_stopped_is_told_of_its_end(
    backend: str, open_service: OpenService
) -> None:
    """As systemd does: a stopped program would get SIGTERM only when it is continued."""
    service = await open_service(backend, sandbox={"kill_grace_s": 10})
    code = "trap 'echo saved; exit 3' TERM\nkill -STOP $$\nsleep 60"
    ran = await run_job(service, language="bash", code=code, limits={"wall_time_s": 1.0})
    assert (ran.verdict, ran.text()) == ("wall_time 3", "saved\n")


@of_one_service
@pytest.mark.parametrize(
    "name",
    [
        *("services", "protocols", "mime.types", "os-release", "timezone", "ssl/openssl.cnf"),
        *("fonts/fonts.conf", "ssl/certs/ca-certificates.crt", "ld.so.cache"),
    ],
)
async def test_a_file_of_etc_is_as_on_the_host(name: str, service: Parts) -> None:
    path = Path("/etc", name)
    if not path.exists():
        pytest.skip(f"this host has no {path}")
    ran = await run_job(service, command=("sha256sum", str(path)))
    assert ran.out.split()[0] == hashlib.sha256(path.read_bytes()).hexdigest()


@of_one_service
async def test_the_time_zone_has_its_name(service: Parts) -> None:
    """Node.js and Java read it from the link, and C from the file."""
    zone = Path("/etc/localtime")
    if not zone.is_symlink():
        pytest.skip("this host's /etc/localtime is no link")
    ran = await run_job(service, command=("sh", "-c", "readlink /etc/localtime; date +%Z"))
    assert Path(ran.out.split()[0]).name == zone.readlink().name
    assert ran.out.split()[1] == time.localtime().tm_zone
