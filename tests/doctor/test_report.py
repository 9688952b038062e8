"""Test what `streamer doctor` reports, on this host and for backends that leak."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import msgspec
import pytest
from rich.console import Console

import streamer
from sandboxes.bwrap import Bwrap
from streamer.cli.doctor import show
from streamer.config.schema import Config
from streamer.doctor.hostfacts import (
    CgroupFacts,
    HostFacts,
    UserNamespaces,
    WrapperFacts,
    host_warnings,
    remedies,
    wrapper_facts,
    wrapper_warnings,
)
from streamer.doctor.lures import PLANT_FOLDERS, marked_processes
from streamer.doctor.probes import PROBES
from streamer.doctor.report import Report, _environments, _try_probe, examine
from streamer.doctor.target import Ran, Target
from streamer.engine.memory.engine import MemoryEngine
from streamer.model.events import Complete
from tests.conftest import OpenService
from tests.sandbox.forking import can_fork
from tests.sandbox.templated import powerless

ROOT = Path(streamer.__file__).parent.parent

LEAKY = """
import os
from dataclasses import dataclass
from typing import ClassVar

from streamer.spi import Backend, Isolation, LaunchPlan, hookimpl


@dataclass(frozen=True)
class Leaky(Backend):
    "Declares what it does not do."

    name: ClassVar[str] = "leaky"
    isolation: ClassVar[Isolation] = Isolation.NAMESPACES
    seccomp: ClassVar[bool] = False

    def plan(self, job, workspace):
        return LaunchPlan(
            argv=job.argv,
            cwd=str(workspace),
            workspace=str(workspace),
            start_as=job.identity,
            own_pid_namespace=True,
        )


@dataclass(frozen=True)
class Sly(Backend):
    "Has a network of its own, which the trial sees, and hides nothing."

    name: ClassVar[str] = "sly"
    isolation: ClassVar[Isolation] = Isolation.DENY_LIST
    seccomp: ClassVar[bool] = False

    def plan(self, job, workspace):
        return LaunchPlan(
            argv=("/usr/bin/unshare", "--map-current-user", "--net", *job.argv),
            cwd=str(workspace),
            workspace=str(workspace),
            start_as=job.identity,
            own_pid_namespace=True,
        )


@dataclass(frozen=True)
class Careless(Backend):
    "Has neither our init nor a user of the job's own."

    name: ClassVar[str] = "careless"
    isolation: ClassVar[Isolation] = Isolation.NONE
    gated: ClassVar[bool] = False

    def plan(self, job, workspace):
        env = dict(os.environ)
        return LaunchPlan(argv=job.argv, env=env, cwd=str(workspace), workspace=str(workspace))


@hookimpl
def streamer_backends():
    return [Leaky, Sly, Careless]
"""


@dataclass(frozen=True)
class Diagnosis:
    """What a run of the command printed."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """The document of ``--json``."""
        assert self.err == ""
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document

    def backend(self, name: str) -> dict[str, Any]:
        """The report of one backend."""
        (found,) = [entry for entry in self.report["backends"] if entry["name"] == name]
        assert isinstance(found, dict)
        return found

    def outcomes(self, name: str) -> dict[str, str]:
        """The outcome of each probe of a backend."""
        return {probe["name"]: probe["outcome"] for probe in self.backend(name)["probes"]}

    def details(self, name: str) -> dict[str, str]:
        """The details of each probe of a backend."""
        return {probe["name"]: probe["detail"] for probe in self.backend(name)["probes"]}


def diagnose(folder: Path, *arguments: str, paths: tuple[Path, ...] = ()) -> Diagnosis:
    """Run the command in a folder without a configuration file."""
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": ":".join(map(str, (ROOT, *paths))),
        "HOME": str(folder),
        "LANG": "C.UTF-8",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "streamer", "doctor", *arguments],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return Diagnosis(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Diagnosis:
    """Return the command's report of this host; the configuration is the default but for a fork."""
    fork = ("--set", "runtimes.python.fork=true")
    return diagnose(tmp_path_factory.mktemp("here"), "--json", *fork)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which a plugin with backends that leak is installed."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "leaky.py").write_text(LEAKY)
    info = folder / "leaky-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: leaky\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[aiohttp_streamer.plugins]\nleaky = leaky\n")
    return folder


@pytest.fixture(scope="module")
def leaking(plugin: Path) -> Diagnosis:
    """Return the report with a leaking backend configured."""
    off = ("--set", "sandbox.cgroup=off")
    return diagnose(plugin, "--json", "--sandbox", "sly", *off, paths=(plugin,))


def test_a_host_whose_sandbox_holds_is_told_so(here: Diagnosis, need: Callable[[str], str]) -> None:
    need("bwrap")
    assert here.code == 0
    assert here.report["ok"] is True
    assert (here.report["configured"], here.report["chosen"]) == ("auto", "bwrap")
    assert set(here.outcomes("bwrap").values()) == {"ok"}, here.details("bwrap")


def test_what_was_measured_is_what_the_backends_promise(here: Diagnosis, backend: str) -> None:
    found = here.backend(backend)
    assert found["available"] is True
    assert [probe for probe in found["probes"] if probe["outcome"] == "fails"] == []
    assert all(probe["detail"] for probe in found["probes"])
    assert found["enforces"]["outputBytes"] == "counter"
    enforced = {probe["name"]: probe["enforcedBy"] for probe in found["probes"]}
    assert enforced["disk"] == found["enforces"]["diskBytes"]


def test_the_probes_see_what_plain_leaves_open(here: Diagnosis, need: Callable[[str], str]) -> None:
    need("plain")
    outcomes, details = here.outcomes("plain"), here.details("plain")
    open_names = {name for name, outcome in outcomes.items() if outcome == "not promised"}
    assert {"read", "write", "loopback", "abstract", "seccomp"} <= open_names
    assert "was read" in details["read"]
    assert "/var/tmp" in details["write"]
    assert "was reached" in details["loopback"]
    assert "within reach" in details["abstract"]
    assert here.backend("plain")["enforces"]["seccomp"] == "guard"


async def test_it_is_told_whether_templates_are_used(
    here: Diagnosis, open_service: OpenService, need: Callable[[str], str]
) -> None:
    service = await open_service(need("bwrap"))
    assert service.worker.pool is not None
    why_not = service.worker.pool.templates.why_not("bwrap")
    way = f"not used, each job has its own command: {why_not}" if why_not else "used"
    assert here.backend("bwrap")["template"] == way
    assert here.backend("plain")["template"] == ""


def test_it_is_told_whose_programs_are_forked(here: Diagnosis, need: Callable[[str], str]) -> None:
    need("bwrap")
    forks = here.backend("bwrap")["template"] == "used" and can_fork()
    assert (here.backend("bwrap")["forks"] == {"python": "used"}) == forks
    reason = here.backend("plain")["forks"]["python"]
    assert reason.startswith("not used: this needs a template")


def test_the_facts_of_the_host_are_told(here: Diagnosis) -> None:
    host = here.report["host"]
    assert host["kernel"] == os.uname().release
    assert host["root"] is (os.geteuid() == 0)
    cgroup = host["cgroup"]
    assert cgroup["level"] in ("cgroup-v1", "cgroup-v2") or (cgroup["reason"] and cgroup["remedy"])
    assert "maxUserNamespaces" in host["userNamespaces"]


def test_a_configured_backend_that_leaks_fails(leaking: Diagnosis) -> None:
    assert leaking.code == 1
    assert leaking.report["ok"] is False
    assert leaking.report["chosen"] == "sly"
    failed = {p["name"]: p for p in leaking.backend("sly")["probes"] if p["outcome"] == "fails"}
    assert {"namespaces"} <= failed.keys()
    assert all(probe["remedy"] for probe in failed.values())
    # The init does the same for every backend.
    assert leaking.outcomes("sly")["memory"] == "ok"
    assert leaking.outcomes("sly")["verdict"] == "ok"


def test_a_backend_that_does_not_keep_what_it_claims_is_not_available(leaking: Diagnosis) -> None:
    leaky = leaking.backend("leaky")
    assert (leaky["available"], leaky["probes"]) == (False, [])
    assert "it claims Isolation.NAMESPACES, but a program in it" in leaky["reason"]


@pytest.mark.slow
def test_a_backend_that_leaks_fails_where_callers_may_choose_it(
    plugin: Path, need: Callable[[str], str]
) -> None:
    need("bwrap")
    found = diagnose(plugin, "--json", "--set", 'sandbox.allow=["sly"]', paths=(plugin,))
    assert (found.code, found.report["chosen"], found.report["ok"]) == (1, "bwrap", False)


def test_the_probes_see_what_the_init_and_a_user_of_its_own_are_for(leaking: Diagnosis) -> None:
    outcomes = leaking.outcomes("careless")
    failed = {name for name, outcome in outcomes.items() if outcome == "fails"}
    assert {"processes", "signals", "environment", "privileges", "leftovers"} <= failed
    assert ("user" in failed) is (os.geteuid() == 0)
    assert "disk" not in failed  # nothing is promised where nothing enforces it
    assert outcomes["memory"] == outcomes["cpu time"] == outcomes["disk"] == "not promised"
    # It is neither configured nor offered, so this alone would not be the service's fault.
    assert leaking.backend("bwrap")["probes"] == [] or "fails" not in set(
        leaking.outcomes("bwrap").values()
    )


def planted() -> set[tuple[str, int]]:
    """Return the files that are planted on this host, and the user of each."""
    found = (path for folder in PLANT_FOLDERS for path in Path(folder).glob("streamer-plant-*"))
    return {(str(path), path.lstat().st_uid) for path in found}


@pytest.fixture(scope="module", autouse=True)
def planted_before() -> set[tuple[str, int]]:
    """What was planted before this module's doctors: by attacks that were broken off, say."""
    return planted()


def test_nothing_of_it_is_left(
    planted_before: set[tuple[str, int]], here: Diagnosis, leaking: Diagnosis
) -> None:
    for diagnosis in (here, leaking):
        assert diagnosis.report

    def left() -> list[object]:
        return [*planted() - planted_before, *marked_processes("sleep 60; :")]

    deadline = time.monotonic() + 60
    while left() and time.monotonic() < deadline:
        time.sleep(0.1)  # another doctor may run on this host
    assert left() == []


def test_without_control_groups_a_requirement_of_them_fails_the_backend(
    tmp_path: Path, need: Callable[[str], str]
) -> None:
    need("bwrap")
    off = ("--set", "sandbox.cgroup=off", "--set", 'sandbox.require=["memory:cgroup"]')
    found = diagnose(tmp_path, "--json", "--sandbox", "bwrap", *off)
    assert found.code == 1
    bwrap = found.backend("bwrap")
    assert bwrap["available"] is False
    assert "Delegate=yes" in bwrap["reason"]
    assert found.report["host"]["cgroup"]["reason"] == "sandbox.cgroup is off"


async def test_an_engine_that_does_not_close_does_not_hold_up_the_report(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    close = MemoryEngine.close

    async def hang(self: MemoryEngine) -> None:
        await close(self)
        await asyncio.Event().wait()

    monkeypatch.setattr(MemoryEngine, "close", hang)
    monkeypatch.setattr("streamer.engine.lifetime.CLOSE_S", 0.01)
    monkeypatch.setattr("streamer.doctor.report.PROBES", ())
    report = await asyncio.wait_for(examine(Config()), 120)
    assert {found.name for found in report.backends} >= {"bwrap", "firejail", "plain"}
    assert "did not close within 0.01 s" in caplog.text


def test_a_missing_backend_is_told_with_its_remedy_and_people_can_read_it(tmp_path: Path) -> None:
    nowhere = ("--set", "sandbox.bwrap.path=/nowhere/bwrap")
    found = diagnose(tmp_path, "--sandbox", "bwrap", *nowhere)
    assert found.code == 1
    lines = found.out.splitlines()
    text = " ".join(" ".join(lines).split())
    assert "/nowhere/bwrap is not installed: install the package bubblewrap" in text
    assert "sandbox.backend = bwrap: no sandbox works" in text
    assert "\x1b" not in found.out
    assert [line for line in lines if len(line) > 80] == []


async def test_what_a_sandbox_cannot_limit_here_is_told(
    monkeypatch: pytest.MonkeyPatch, need: Callable[[str], str]
) -> None:
    need("bwrap")
    monkeypatch.setattr(Bwrap, "plan", powerless)
    monkeypatch.setattr("streamer.doctor.report.PROBES", ())
    found = {backend.name: backend.warnings for backend in (await examine(Config())).backends}
    told = {name for name, warnings in found.items() if "share inotify" in " ".join(warnings)}
    # Each job of root's service has an account of its own.
    assert told == ({"bwrap"} if os.geteuid() else set())


def test_people_are_told_which_way_jobs_run(tmp_path: Path, need: Callable[[str], str]) -> None:
    need("bwrap")
    off = ("--set", "sandbox.bwrap.template=false", "--set", "sandbox.warm=false")
    found = diagnose(tmp_path, "--sandbox", "bwrap", *off)
    text = " ".join(found.out.split())
    why = "it has no template, or its options switch it off"
    assert text.count(f"template: not used, each job has its own command: {why}") == 1
    assert "warm: not used: sandbox.warm is false" in text


class Busy(Target):
    """A service on a machine whose processors other programs use."""

    async def run(self, script: str, *arguments: str, **limits: float) -> Ran:
        end = Complete(
            "wall_time", None, "SIGTERM", 4000, 290, None, True, False, 0, False, "bwrap", "run"
        )
        return Ran("", "", end)


async def test_busy_processors_are_no_fault_of_the_sandbox() -> None:
    (probe,) = [probe for probe in PROBES if probe.name == "cpu time"]
    enforces = {"cpu_time_s": "polling"}
    found = await _try_probe(probe, Busy(cast("Any", None), cast("Any", None)), Bwrap(), enforces)
    assert found.outcome == "fails"  # it is not known that it holds
    assert "other programs keep the processors busy" in found.detail
    assert found.remedy == "repeat it when the machine is less busy"


def test_an_unknown_backend_is_an_error_of_usage(tmp_path: Path) -> None:
    found = diagnose(tmp_path, "--sandbox", "bwarp")
    assert (found.code, found.out) == (2, "")
    assert "there is no such backend" in found.err


def facts(
    settings: Mapping[str, int] = MappingProxyType({}),
    *,
    no_new_privs: bool = False,
    core_pattern: str = "core",
) -> HostFacts:
    names = (
        "max_user_namespaces",
        "unprivileged_userns_clone",
        "apparmor_restrict_unprivileged_userns",
    )
    values: Mapping[str, int | None] = {name: settings.get(name) for name in names}
    return HostFacts(
        system="Linux",
        kernel="6",
        machine="x86_64",
        root=False,
        no_new_privs=no_new_privs,
        user_namespaces=UserNamespaces(**values),
        cgroup=CgroupFacts(None),
        core_pattern=core_pattern,
    )


@pytest.mark.parametrize(
    ("setting", "value", "remedy"),
    [
        ("max_user_namespaces", 0, "sysctl user.max_user_namespaces="),
        ("unprivileged_userns_clone", 0, "sysctl kernel.unprivileged_userns_clone=1"),
        ("apparmor_restrict_unprivileged_userns", 1, "/etc/apparmor.d/bwrap"),
    ],
)
def test_each_setting_that_forbids_user_namespaces_has_its_remedy(
    tmp_path: Path, setting: str, value: int, remedy: str
) -> None:
    command = tmp_path / "bwrap"
    command.touch(0o755)
    (found,) = remedies(facts({setting: value}), "bwrap", str(command))
    assert remedy in found
    assert list(remedies(facts({setting: 1 - value}), "bwrap", str(command))) == []


def test_setuid_wrappers_have_remedies_of_their_own(tmp_path: Path) -> None:
    command = tmp_path / "firejail"
    command.touch(0o755)
    (found,) = remedies(facts(), "firejail", str(command))
    assert "chmod u+s" in found
    command.chmod(0o4755)
    assert list(remedies(facts({"max_user_namespaces": 0}), "firejail", str(command))) == []
    (found,) = remedies(facts(no_new_privs=True), "firejail", str(command))
    assert "NoNewPrivileges" in found


def test_no_remedy_lifts_a_restriction_for_every_program(tmp_path: Path) -> None:
    """Ubuntu's own profile is for bwrap where it is installed; elsewhere one is to be written."""
    restricted = facts({"apparmor_restrict_unprivileged_userns": 1})
    elsewhere = tmp_path / "bwrap"
    elsewhere.touch(0o755)
    (own,) = remedies(restricted, "bwrap", str(elsewhere))
    assert f"profile bwrap {elsewhere} flags=(unconfined)" in own
    assert "restrict_unprivileged_userns=0" not in own
    if os.access("/usr/bin/bwrap", os.X_OK):
        (ubuntus,) = remedies(restricted, "bwrap", "/usr/bin/bwrap")
        assert "bwrap-userns-restrict" in ubuntus
        assert "restrict_unprivileged_userns=0" not in ubuntus


def test_a_core_pattern_that_starts_a_program_is_warned_of() -> None:
    assert list(host_warnings(facts(core_pattern="core.%p"))) == []
    (warning,) = host_warnings(facts(core_pattern="|/usr/share/apport/apport -p%p"))
    assert "/usr/share/apport/apport on the host, as root" in warning


@pytest.mark.parametrize(
    ("version", "setuid", "told"),
    [
        ("0.8.0", False, {"CVE-2026-87766"}),
        ("0.8.0", True, {"CVE-2026-87766", "chmod u-s"}),
        ("0.11.0", False, {"CVE-2026-87766"}),
        ("0.11.1", True, {"CVE-2026-87766", "CVE-2026-41163", "chmod u-s"}),
        ("0.11.2", True, {"CVE-2026-87766", "chmod u-s"}),
        ("0.12.0", False, set()),
        ("1.0", False, set()),
        ("", True, set()),
    ],
)
def test_what_is_known_of_a_version_of_bubblewrap_is_told(
    version: str, *, setuid: bool, told: set[str]
) -> None:
    text = " ".join(wrapper_warnings("bwrap", WrapperFacts("/usr/bin/bwrap", version, setuid)))
    known = ("CVE-2026-87766", "CVE-2026-41163", "chmod u-s")
    assert {words for words in known if words in text} == told
    assert list(wrapper_warnings("firejail", WrapperFacts("/x", version, setuid))) == []


def test_a_wrapper_is_asked_for_its_version(tmp_path: Path) -> None:
    command = tmp_path / "wrapper"
    assert wrapper_facts(str(command)) is None
    assert wrapper_facts("") is None
    command.write_text("#!/bin/sh\necho a wrapper of 2026, version 0.11.1\n")
    command.chmod(0o4755)
    assert wrapper_facts(str(command)) == WrapperFacts(str(command), "0.11.1", setuid=True)
    command.write_text("#!/bin/sh\nexit 1\n")
    command.chmod(0o755)
    assert wrapper_facts(str(command)) == WrapperFacts(str(command), "", setuid=False)


def test_the_report_has_the_version_of_each_wrapper(here: Diagnosis) -> None:
    for name in ("bwrap", "firejail"):
        found = here.backend(name)["wrapper"]
        if found is not None:
            said = subprocess.run([found["command"], "--version"], capture_output=True, check=True)
            assert found["version"] in said.stdout.decode()
            assert found["version"][0].isdigit()
    assert here.backend("plain")["wrapper"] is None
    assert here.report["warnings"] == list(
        host_warnings(facts(core_pattern=here.report["host"]["corePattern"]))
    )


def test_only_a_refusal_of_namespaces_is_explained_as_one() -> None:
    """Other messages of a wrapper mention namespaces too."""
    for said in ("bwrap: No permissions to create new namespace", "bwrap: setting up uid map: x"):
        assert "bwrap-userns-restrict" in (Bwrap().explain(1, said) or "")
    assert Bwrap().explain(125, "usage: streamer-init enter [--pid-namespace] -- COMMAND") is None


def test_what_cannot_be_used_of_packages_is_told(tmp_path: Path) -> None:
    table = {"languages": ["python"], "path": str(tmp_path / "science")}
    found = _environments(Config.from_mapping({"environments": {"science": table}}))
    (science,) = found
    assert science.reason.startswith(f"nothing is built in {tmp_path}/science; build it: streamer")
    report = Report(host=facts(), configured="auto", chosen="bwrap", backends=(), ok=True)
    console = Console(record=True, width=400, file=io.StringIO())
    show(msgspec.structs.replace(report, environments=found), console)
    assert f"environment science: {science.reason}\n" in console.export_text()
    used = msgspec.structs.replace(science, reason="")
    show(msgspec.structs.replace(report, environments=(used,)), console)
    assert "environment science: can be used\n" in console.export_text()
