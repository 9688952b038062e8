"""Backends of other projects: they pass the same suites, and broken ones are refused."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from streamer import spi
from streamer.errors import BackendUnavailable, PluginError
from streamer.model.capabilities import NOT_TESTED
from streamer.model.events import Error
from streamer.testing.running import plugin
from tests.backends.conftest import checked_runs
from tests.conftest import OpenService
from tests.running import program, run_job, script


@dataclass(frozen=True)
class Wrapped(spi.Backend):
    """A wrapper with a command of its own before the init, as most backends are."""

    name: ClassVar[str] = "wrapped"
    isolation: ClassVar[spi.Isolation] = spi.Isolation.NONE

    path: str = "/usr/bin/env"

    def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
        return spi.LaunchPlan(
            argv=(self.path, "-i", *job.argv),
            cwd=str(workspace),
            workspace=str(workspace),
            start_as=job.identity,
            own_pid_namespace=True,
        )


@dataclass(frozen=True)
class Direct(Wrapped):
    """The same for a backend that cannot run the init."""

    name: ClassVar[str] = "direct"
    gated: ClassVar[bool] = False

    def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
        variables = [f"{name}={value}" for name, value in job.env.items()]
        return spi.LaunchPlan(
            argv=(self.path, "-i", *variables, *job.argv),
            cwd=str(workspace),
            start_as=job.identity,
            own_pid_namespace=True,
        )


@pytest.mark.parametrize("cls", [Wrapped, Direct])
async def test_a_backend_of_a_plugin_runs_programs(
    open_service: OpenService, cls: type[Wrapped]
) -> None:
    service = await open_service(cls.name, plugins=(plugin(cls),))
    async for run in checked_runs(service):
        files = (
            script("run.sh", "#!/bin/sh\necho $1 $G; cat; id -u; echo e >&2; exit 7\n", 0o755),
        )
        ran = await run(command=("./run.sh", "a"), files=files, env={"G": "g"}, stdin=b"in\n")
        lines = ran.text().split()
        assert lines[:3] == ["a", "g", "in"]
        assert (lines[3] == "0") is False
        assert ran.text("stderr") == "e\n"
        assert (ran.complete.reason, ran.complete.exit_code) == ("exited", 7)
        assert ran.complete.sandbox == cls.name
        assert (await run(command=("touch", "new", "run.sh"), files=files)).out == ""
        ran = await run(
            command=("sh", "-c", "trap '' TERM; sleep 600"), limits={"wall_time_s": 0.4}
        )
        assert ran.complete.reason == "wall_time"
        ran = await run(command=("sh", "-c", "sleep 600 & echo started"))
        assert ran.out == "started\n"
        ran = await run(command=("yes",), limits={"output_bytes": 10_000})
        assert ran.complete.reason == "output_limit"


async def test_what_left_its_group_dies_with_the_namespace_of_a_direct_backend(
    open_service: OpenService,
) -> None:
    service = await open_service("direct", plugins=(plugin(Direct),))
    async for run in checked_runs(service):
        ran = await run(command=("sh", "-c", "setsid sleep 600 & echo started"))
        assert ran.out == "started\n"


PACKAGE = """
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from streamer.spi import Backend, Isolation, LaunchPlan, SandboxJob


@dataclass(frozen=True)
class Theirs(Backend):
    name: ClassVar[str] = "theirs"
    isolation: ClassVar[Isolation] = Isolation.{isolation}

    path: str = "/nowhere"

    def plan(self, job: SandboxJob, workspace: Path) -> LaunchPlan:
        return LaunchPlan(
            argv=(self.path, "-i", *job.argv),
            cwd=str(workspace),
            workspace=str(workspace),
            start_as=job.identity,
            own_pid_namespace=True,
        )
"""

TESTS = """
from theirs import Theirs

from streamer.testing import ATTACKS, ConformanceSuite, EscapeSuite

CHOSEN = [
    "processes of the host", "a server on loopback", "passing for killed", "a daemon",
    "another job's files", "readable files of others in /tmp",
]


class TestTheirs(ConformanceSuite):
    backend = Theirs
    options = {"path": "/usr/bin/env"}


class TestTheirsHolds(EscapeSuite):
    backend = Theirs
    options = {"path": "/usr/bin/env"}
    attacks = [attack for attack in ATTACKS if attack.name in CHOSEN]
    exceptions = {"another job's files": "as an ordinary user"}
"""


def run_suites(folder: Path, isolation: str, *options: str, tests: str = TESTS) -> dict[str, str]:
    """Run both suites as another project does, without our tests or any plugin of pytest."""
    (folder / "theirs.py").write_text(PACKAGE.replace("{isolation}", isolation))
    (folder / "test_theirs.py").write_text(tests)
    pytest_alone = (sys.executable, "-W", "error", "-m", "pytest", "-c", "/dev/null")
    here = ("--rootdir", str(folder), "-p", "no:cacheprovider", "-q", "-rA")
    done = subprocess.run(
        [*pytest_alone, *here, *options, "test_theirs.py"],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    (folder / "said").write_text(done.stdout)
    found = re.findall(
        r"^([A-Z]+) test_theirs.py::\w+::(.+?)(?: - .*)?$", done.stdout, re.MULTILINE
    )
    outcomes = {name: outcome for outcome, name in found}
    assert outcomes, done.stdout + done.stderr
    return outcomes


@pytest.mark.slow
def test_a_stranger_runs_both_suites_on_its_backend(tmp_path: Path) -> None:
    outcomes = run_suites(tmp_path, "NONE")
    assert {name for name, outcome in outcomes.items() if outcome != "PASSED"} == set()
    assert "test_attack[a server on loopback]" in outcomes
    assert len(outcomes) > 50


def test_a_backend_that_promises_too_much_is_not_even_tried(tmp_path: Path) -> None:
    outcomes = run_suites(tmp_path, "NAMESPACES", "-k", "TestTheirsHolds and test_attack")
    assert set(outcomes.values()) <= {"ERROR", "FAILED"}
    assert "claims Isolation.NAMESPACES, but a program in it" in (tmp_path / "said").read_text()


def test_an_attack_that_gets_through_tells_what_helps(tmp_path: Path) -> None:
    # Asked of a backend without isolation, which promises no such thing.
    harder = TESTS.replace(
        "if attack.name in CHOSEN]",
        "if attack.name == 'a server on loopback']\n"
        "    attacks = [dataclasses.replace(attack, except_for={}) for attack in attacks]",
    ).replace("exceptions = ", "unused = ")
    outcomes = run_suites(
        tmp_path,
        "NONE",
        "-k",
        "TestTheirsHolds and test_attack",
        tests=f"import dataclasses\n{harder}",
    )
    assert outcomes == {"test_attack[a server on loopback]": "FAILED"}
    said = (tmp_path / "said").read_text()
    assert "promised by Isolation.NONE and above, and theirs claims NONE" in said
    assert "usual cause: the sandbox is in the host's network namespace" in said


@dataclass(frozen=True)
class Missing(Wrapped):
    name: ClassVar[str] = "missing"
    path: str = "/no/such/wrapper"


@dataclass(frozen=True)
class Raising(Wrapped):
    name: ClassVar[str] = "raising"

    async def probe(self, host: spi.Host) -> None:
        raise BackendUnavailable("the flux is gone: refill it")


@dataclass(frozen=True)
class Crashing(Wrapped):
    name: ClassVar[str] = "crashing"

    async def probe(self, host: spi.Host) -> None:
        raise ZeroDivisionError("by zero")


@dataclass(frozen=True)
class Quitting(Wrapped):
    name: ClassVar[str] = "quitting"

    def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
        return spi.LaunchPlan(argv=("/bin/sh", "-c", "echo no thanks >&2; exit 3"))

    def explain(self, wrapper_exit: int, wrapper_stderr: str) -> str | None:
        return f"explained: {wrapper_exit} {wrapper_stderr.strip()}"


@dataclass(frozen=True)
class Lying(Direct):
    """Exits with 0 whatever the program's exit code."""

    name: ClassVar[str] = "lying"

    def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
        return spi.LaunchPlan(argv=("/bin/true",))


@dataclass(frozen=True)
class Hanging(Wrapped):
    """Never starts our init."""

    name: ClassVar[str] = "hanging"

    def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
        return spi.LaunchPlan(argv=("/bin/sleep", "600"))


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (Missing, "/no/such/wrapper"),
        (Raising, "the flux is gone: refill it"),
        (Crashing, "ZeroDivisionError: by zero"),
        (Quitting, "explained: 3 no thanks"),
        (Lying, "a test program ended with exit code 0 instead of 23"),
        (Hanging, "the init gave no answer within 0.5 s: does the wrapper start it"),
    ],
)
async def test_a_broken_backend_is_refused_with_its_reason(
    open_service: OpenService,
    monkeypatch: pytest.MonkeyPatch,
    cls: type[spi.Backend],
    reason: str,
) -> None:
    monkeypatch.setattr("streamer.sandbox.drivers.gated.START_TIMEOUT_S", 0.5)
    with pytest.raises(BackendUnavailable, match=cls.name) as caught:
        await open_service(cls.name, plugins=(plugin(cls),))
    assert reason in caught.value.message


async def test_a_backend_that_breaks_later_fails_its_job_and_nothing_else(
    open_service: OpenService, tmp_path: Path
) -> None:
    wrapper = tmp_path / "wrapper"
    wrapper.symlink_to("/usr/bin/env")
    for folder in (tmp_path, *tmp_path.parents):
        if os.geteuid() == 0 and folder.stat().st_mode & 0o001 == 0:
            folder.chmod(folder.stat().st_mode | 0o011)
    sandbox = {"wrapped": {"path": str(wrapper)}}
    service = await open_service("wrapped", plugins=(plugin(Wrapped),), sandbox=sandbox)
    assert (await run_job(service, command=("echo", "1"))).out == "1\n"
    wrapper.unlink()
    broken = await run_job(service, command=("echo", "2"))
    assert broken.end == Error("sandbox_error", "the sandbox could not run the job")
    wrapper.symlink_to("/usr/bin/env")
    assert (await run_job(service, command=("echo", "3"))).out == "3\n"


async def test_a_plan_that_raises_fails_its_job_only(open_service: OpenService) -> None:
    calls = []

    @dataclass(frozen=True)
    class Moody(Wrapped):
        name: ClassVar[str] = "moody"

        def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
            calls.append(job.name)
            if len(calls) == 2:
                raise RuntimeError("not today")
            return super().plan(job, workspace)

    service = await open_service("moody", plugins=(plugin(Moody),))
    assert isinstance((await run_job(service, command=("true",))).end, Error)
    assert (await run_job(service, **program("print(1)"))).out == "1\n"


async def test_two_backends_of_one_name_stop_the_start(open_service: OpenService) -> None:
    other = type("Other", (Wrapped,), {"__module__": "elsewhere"})
    with pytest.raises(PluginError, match="elsewhere"):
        await open_service("wrapped", plugins=(plugin(Wrapped), plugin(other)))


PACKAGED = Path(__file__).parents[2] / "examples" / "backend-package"


async def test_the_packaged_backend_with_a_template_works(
    need: Callable[[str], str],
    open_service: OpenService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need("bwrap")
    monkeypatch.syspath_prepend(PACKAGED / "src")
    packaged = importlib.import_module("streamer_boxed.plugin")
    service = await open_service("boxed", plugins=(packaged,))
    pool = service.worker.pool
    assert pool
    async with asyncio.timeout(60):
        while (why_not := pool.templates.why_not("boxed")) == NOT_TESTED:
            await asyncio.sleep(0.01)
    assert why_not == ""
    async for run in checked_runs(service):
        command = "touch /tmp/a /dev/shm/b c; id -u; ls /tmp /dev/shm .; cat"
        ran = await run(command=("sh", "-c", command), stdin=b"in\n")
        assert ran.out.split() == ["65534", ".:", "c", "/dev/shm:", "b", "/tmp:", "a", "in"]
        ran = await run(command=("sh", "-c", "touch /usr/a"))
        assert "Read-only file system" in ran.text("stderr")
    # It claims as much as bwrap does, and its name comes before: to be installed is not enough.
    by_default = await open_service("auto", plugins=(packaged,))
    assert by_default.worker.backends.default == "bwrap"


@dataclass(frozen=True)
class Environment:
    """A virtual environment with a package that pip has installed, beside the service."""

    folder: Path
    """Where its programs run: a copy of the package, from which nothing is imported."""
    bin: Path

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.bin / program, *arguments],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "LANG": "C.UTF-8",
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """Install the package of the examples in an environment of its own."""
    sources = tmp_path / "package"
    shutil.copytree(PACKAGED, sources, ignore=shutil.ignore_patterns("__pycache__"))
    place = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    made = Environment(sources, place / "bin")
    # The service, pip and all packages are those of the tests, and no index is asked.
    (packages,) = (place / "lib").glob("python*/site-packages")
    ours = [path for path in sys.path if path.endswith("site-packages")]
    lines = [f"import site; site.addsitedir({path!r})" for path in ours]
    (packages / "beside.pth").write_text("\n".join([*lines, str(PACKAGED.parents[1])]))
    install = ("install", "--no-index", "--no-build-isolation", "--no-deps", ".")
    done = made.run("python", "-m", "pip", "--disable-pip-version-check", *install)
    assert done.returncode == 0, done.stderr
    return made


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_package_that_pip_installs_passes_both_suites(
    environment: Environment, need: Callable[[str], str]
) -> None:
    need("bwrap")
    streamer = ("-m", "streamer")
    listed = environment.run("python", *streamer, "plugins", "--json")
    assert listed.returncode == 0, listed.stderr
    (row,) = [row for row in json.loads(listed.stdout) if row["plugin"] == "boxed"]
    assert (row["distribution"], row["version"]) == ("streamer-boxed", "1.0.0")
    assert (row["backends"], row["hooks"]) == (["boxed"], ["streamer_backends"])
    (environment.folder / "hello.py").write_text("print('hello')")
    ran = environment.run("python", *streamer, "run", "-n", "--sandbox", "boxed", "hello.py")
    assert (ran.returncode, ran.stdout) == (0, "hello\n"), ran.stderr

    alone = ("-W", "error", "-m", "pytest", "-c", "/dev/null", "--rootdir", ".")
    suites = environment.run("python", *alone, "-p", "no:cacheprovider", "-q", "-rA", "tests")
    outcomes = re.findall(r"^([A-Z]+) tests/test_boxed.py::", suites.stdout, re.MULTILINE)
    assert suites.returncode == 0, suites.stdout[-5000:]
    assert outcomes.count("PASSED") > 350
    assert not {"FAILED", "ERROR"} & {*outcomes}

    (module,) = environment.bin.parent.rglob("streamer_boxed/plugin.py")
    module.write_text("import gone\n")
    for code, command in ((2, ("serve", "--port", "0")), (125, ("run", "-n", "hello.py"))):
        broken = environment.run("python", *streamer, *command)
        assert (broken.returncode, broken.stdout) == (code, "")
        assert broken.stderr.count("\n") == 1
        assert "plugin 'boxed' of streamer-boxed 1.0.0 cannot be imported" in broken.stderr
        assert "list 'boxed' in plugins.disabled" in broken.stderr
