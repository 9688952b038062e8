"""Run the service as systemd starts it; the rest of these tests is in .ci/cgroup-v2-vm."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest

import streamer
from streamer.doctor.hostfacts import CGROUP_REMEDY

ROOT = Path(streamer.__file__).parent.parent
UNIT = ROOT / "deploy" / "streamer.service"
PARTS = {"streamer-api@.service": "8081", "streamer-worker@.service": "8091"}
"""The units of parts, and a port of each."""
STREAMER = Path(sys.executable).parent / "streamer"
INSTALLED = "/opt/streamer/bin/streamer"
"""The command that the unit starts."""

BOMB = "x = []\nwhile True: x.append(bytearray(10_000_000))"
DAEMON = "trap '' TERM; setsid sleep 617 & echo up; sleep 600"
USER = "streamer"

needs_systemd = pytest.mark.skipif(
    os.geteuid() != 0
    or not Path("/run/systemd/system").exists()
    or not Path("/sys/fs/cgroup/cgroup.controllers").exists(),
    reason="needs root, systemd and cgroup version 2",
)


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@dataclass(frozen=True)
class Unit:
    """A unit in which a service listens."""

    name: str
    port: int

    @contextmanager
    def ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> Iterator[HTTPResponse]:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=90)) as connection:
            connection.request(
                method, path, json.dumps(body), {"Content-Type": "application/json", **headers}
            )
            with connection.getresponse() as response:
                yield response

    def run(self, **job: object) -> dict[str, Any]:
        """Run a job and return its result."""
        with self.ask("POST", "/api/execute", job, Prefer="wait=60") as answer:
            return dict(json.load(answer)["result"])

    @property
    def levels(self) -> dict[str, str]:
        """How memory is limited, by backend."""
        with self.ask("GET", "/api/sandboxes") as answer:
            return {
                entry["name"]: entry["enforces"]["memoryBytes"]
                for entry in json.load(answer)["sandboxes"]
                if entry["available"]
            }

    def show(self, *properties: str) -> list[str]:
        return run(
            "systemctl", "show", "--value", *(f"-p{name}" for name in properties), self.name
        ).splitlines()

    def wait_until_up(self) -> None:
        """Wait until the service listens; on an emulated machine that takes long."""
        end = time.monotonic() + 60
        while True:
            try:
                with self.ask("GET", "/healthz"):
                    return
            except OSError:
                assert time.monotonic() < end, run("journalctl", "-n30", "-u", self.name)
                time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


Serve = Callable[..., Unit]


@contextmanager
def started(
    *options: str, command: tuple[str, ...] = (), settings: tuple[str, ...] = ()
) -> Iterator[Unit]:
    unit = Unit(f"streamer-test-{os.urandom(4).hex()}.service", free_port())
    serve = (str(STREAMER), "serve", "--port", str(unit.port))
    run(
        "systemd-run",
        "--quiet",
        f"--unit={unit.name}",
        "--working-directory=/",
        *options,
        *command,
        *serve,
        *(f"--set={setting}" for setting in settings),
    )
    try:
        unit.wait_until_up()
        yield unit
    finally:
        subprocess.run(["systemctl", "stop", unit.name], check=False)
        subprocess.run(
            ["systemctl", "reset-failed", unit.name], check=False, stderr=subprocess.DEVNULL
        )


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts a service by systemd-run with the given options."""
    with ExitStack() as stack:
        yield lambda *options, command=(): stack.enter_context(started(*options, command=command))


def survives_a_bomb(unit: Unit) -> dict[str, Any]:
    end = unit.run(language="python", code=BOMB, limits={"memoryBytes": 64 << 20})
    assert unit.run(language="bash", code="echo after")["stdout"] == "after\n"
    return end


@needs_systemd
@pytest.mark.parametrize("user", ["root", USER])
def test_a_delegated_unit_has_groups(serve: Serve, user: str) -> None:
    unit = serve("-p", "Delegate=memory pids", "-p", f"User={user}")
    assert set(unit.levels.values()) == {"cgroup-v2"}
    end = survives_a_bomb(unit)
    assert (end["reason"], end["signal"]) == ("memory", "SIGKILL")
    assert end["peakMemoryBytes"] >= 63 << 20
    assert unit.show("ActiveState") == ["active"]


@needs_systemd
@pytest.mark.parametrize("user", ["root", USER])
def test_a_unit_that_is_not_delegated_has_none_and_lives(serve: Serve, user: str) -> None:
    # With groups the kernel's kill in one of them would have systemd stop the unit.
    unit = serve("-p", f"User={user}")
    assert unit.show("OOMPolicy") == ["stop"]
    assert set(unit.levels.values()) == {"polling"}
    assert survives_a_bomb(unit)["reason"] == "memory"
    assert unit.show("ActiveState") == ["active"]


@needs_systemd
def test_the_remedy_of_the_doctor_works(serve: Serve) -> None:
    line = CGROUP_REMEDY.partition("`")[2].rpartition("`")[0].split()
    assert (line[0], line[-2:]) == ("systemd-run", ["streamer", "serve"])
    unit = serve("-p", f"User={USER}", "-p", "PAMName=login", command=tuple(line[:-2]))
    assert set(unit.levels.values()) == {"cgroup-v2"}
    assert survives_a_bomb(unit)["reason"] == "memory"


@needs_systemd
def test_the_shell_that_started_it_in_a_delegated_unit_moves_too(serve: Serve) -> None:
    shell = ("/bin/sh", "-c", '"$@"; exit $?', "sh")
    unit = serve("-p", "Delegate=yes", "-p", f"User={USER}", command=shell)
    assert set(unit.levels.values()) == {"cgroup-v2"}


@needs_systemd
def test_a_killed_service_comes_back_and_leaves_nothing(serve: Serve) -> None:
    unit = serve("-p", "Delegate=yes", "-p", "Restart=always", "-p", f"User={USER}")
    job = {"language": "bash", "code": DAEMON, "limits": {"wallTimeS": 50}}
    with unit.ask("POST", "/api/execute", job, Accept="text/event-stream") as stream:
        while b"up" not in stream.readline():
            pass
        run("systemctl", "kill", "--signal=KILL", "--kill-who=main", unit.name)
    while unit.show("NRestarts") != ["1"]:
        time.sleep(0.1)
    unit.wait_until_up()
    assert subprocess.run(["pgrep", "-f", "sleep 617"], check=False).returncode == 1
    assert set(unit.levels.values()) == {"cgroup-v2"}
    group = Path("/sys/fs/cgroup", *unit.show("ControlGroup")[0].split("/"))
    assert len([path for path in group.iterdir() if path.name.startswith("streamer-")]) == 1


@needs_systemd
@pytest.mark.parametrize(("user", "level"), [("root", "cgroup-v2"), (USER, "polling")])
def test_a_group_elsewhere_is_for_who_may_enter_it(user: str, level: str) -> None:
    group = Path("/sys/fs/cgroup/streamer-test")
    group.mkdir()
    try:
        for path in (group, group / "cgroup.procs", group / "cgroup.subtree_control"):
            shutil.chown(path, user)
        with started("-p", f"User={user}", settings=(f"sandbox.cgroup={group}",)) as unit:
            assert set(unit.levels.values()) == {level}
            assert survives_a_bomb(unit)["reason"] == "memory"
    finally:
        group.rmdir()


def unit_for_here(folder: Path) -> Path:
    """Return a copy of the unit that starts what is installed here."""
    path = folder / "streamer-deployed.service"
    path.write_text(UNIT.read_text().replace(INSTALLED, str(STREAMER)))
    return path


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")
@pytest.mark.parametrize("name", [UNIT.name, *PARTS])
def test_the_units_of_the_repository_are_valid(tmp_path: Path, name: str) -> None:
    path = tmp_path / name.replace("@", f"@{PARTS.get(name)}")
    path.write_text((UNIT.parent / name).read_text().replace(INSTALLED, str(STREAMER)))
    done = subprocess.run(
        ["systemd-analyze", "verify", path],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_the_unit_of_the_repository_serves(tmp_path: Path) -> None:
    unit = Unit("streamer-deployed.service", free_port())
    text = unit_for_here(tmp_path).read_text()
    text = text.replace("streamer serve", f"streamer serve --port {unit.port}")
    # As it is installed: the account's folders are not hidden by ProtectHome.
    Path("/etc/streamer").mkdir(exist_ok=True)
    path = Path("/run/systemd/system", unit.name)
    path.write_text(text)
    try:
        run("systemctl", "daemon-reload")
        run("systemctl", "start", unit.name)
        unit.wait_until_up()
        assert unit.levels["bwrap"] == "cgroup-v2"
        assert survives_a_bomb(unit)["reason"] == "memory"
        assert unit.show("ActiveState") == ["active"]
    finally:
        run("systemctl", "stop", unit.name)
        path.unlink()
        run("systemctl", "daemon-reload")
