"""The table of names: languages, backends, commands, options, and what Python can import."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import streamer
from streamer.errors import StreamerError
from tests.conftest import OpenService, Start
from tests.contract import KEPT, Mark, differences, table_names
from tests.environments.making import made_for_python
from tests.jobs.archives import zip_of


async def test_languages_and_backends(start: Start) -> None:
    client = await start()
    async with client.get("/api/runtimes") as response:
        runtimes = (await response.json())["runtimes"]
    found = {name for one in runtimes for name in (one["name"], *one["aliases"])}
    assert differences(table_names.LANGUAGES, found) == []
    assert {one["name"]: one["entry"] for one in runtimes} == table_names.ENTRIES
    async with client.get("/api/sandboxes") as response:
        sandboxes = (await response.json())["sandboxes"]
    assert differences(table_names.BACKENDS, {one["name"] for one in sandboxes}) == []


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamer", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_commands() -> None:
    text = run("--help").stdout.partition("Commands:")[2]
    assert differences(table_names.COMMANDS, re.findall(r"^  ([a-z]+)", text, re.MULTILINE)) == []


@pytest.mark.parametrize("command", table_names.COMMANDS)
def test_options(command: str) -> None:
    shown = run(command, "--help")
    assert shown.returncode == 0, shown.stderr
    found = set(re.findall(r"^ +(?:-[a-zA-Z], )?(--[a-z-]+)", shown.stdout, re.MULTILINE))
    assert "--help" in found
    table = {
        option.partition(" ")[2]: mark
        for option, mark in table_names.OPTIONS.items()
        if option.startswith(f"{command} ")
    }
    assert differences(table, found - {"--help"}) == []
    wrong = run(command, "--nonsense")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert len(wrong.stderr.strip().splitlines()) == 1


def test_python_names() -> None:
    modules = {name.rpartition(".")[0] for name in table_names.PYTHON}
    found = {
        f"{module}.{name}" for module in modules for name in importlib.import_module(module).__all__
    }
    assert differences(table_names.PYTHON, found) == []


def test_verbs_of_the_client() -> None:
    found = {name for name in dir(streamer.Client) if not name.startswith("_")}
    assert differences(table_names.CLIENT, found) == []


SPECS: dict[str, dict[str, Any]] = {
    "command": {"language": None, "code": None, "command": ("true",)},
    "files": {"code": None, "files": (streamer.SourceFile("main.py", b"print(1)"),)},
    "project_id": {"project_id": "p"},
    "entry": {"code": None, "entry": "a.py", "files": (streamer.SourceFile("a.py", b""),)},
    "args": {"args": ("--x",)},
    "env": {"env": {"K": "v"}},
    "stdin": {"stdin": b"text"},
    "interactive": {"interactive": True},
    "terminal": {"terminal": streamer.TerminalSize(80, 24)},
    "limits": {"limits": {"wall_time_s": 5}},
    "network": {"network": True},
    "sandbox": {"sandbox": "plain"},
    "artifacts": {"artifacts": ("out/*",)},
    "output_encoding": {"output_encoding": "base64"},
    "metadata": {"metadata": {"k": "v"}},
    "session_id": {"session_id": "s"},
    "environment": {"environment": "science"},
    "cases": {"cases": (streamer.Case(stdin=b"1"),)},
    "stop_on_failure": {"cases": (streamer.Case(),), "stop_on_failure": True},
    "webhook": {"webhook": streamer.Webhook("http://127.0.0.1:9/")},
    "retry": {"retry": 1},
    "priority": {"priority": 1},
}


async def project() -> AsyncIterator[bytes]:
    yield zip_of([("lib.py", b"")])


async def test_what_a_job_can_be_submitted_with(open_service: OpenService, place: Path) -> None:
    built = {"science": made_for_python(place / "science", {})}
    webhooks = {"enabled": True, "secrets": ["whsec_" + "QUFB" * 8], "allow_hosts": ["127.0.0.1"]}
    service = await open_service(
        "plain", sandbox={"network": "open"}, environments=built, webhooks=webhooks
    )
    found = set()
    known = inspect.signature(streamer.JobSpec).parameters
    for name in {*table_names.SPEC, *known}:
        given = {"language": "python", "code": "print(1)", **SPECS.get(name, {})}
        if name == "project_id":
            given[name] = (await service.jobs.projects.upload(project())).id
        if name == "session_id":
            opened = await service.jobs.sessions.open(streamer.SessionSpec())
            given[name] = opened.session.session_id
        if name in known:
            try:
                await service.jobs.submit(streamer.JobSpec(**given))
            except StreamerError:
                continue
            found.add(name)
    assert differences(table_names.SPEC, found) == []


async def test_a_mounted_service_runs_a_job(open_service: OpenService) -> None:
    service = await open_service("plain")
    job = await service.jobs.submit(streamer.JobSpec(language="python", code="print(1)"))
    events = [event async for event in job.events(after=0)]
    assert [event async for event in job.events(after=events[0].id)] == events[1:]
    assert (events[-1].kind, events[-1].id) == ("complete", len(events))


def test_how_it_is_called() -> None:
    kept: dict[str, tuple[str, ...]] = {
        "setup": ("app", "config", "prefix", "plugins"),
        "create_app": ("config", "plugins"),
    }
    for name, arguments in kept.items():
        assert {*arguments} <= inspect.signature(getattr(streamer, name)).parameters.keys()
    mark: Mark = table_names.PYTHON["streamer.setup"]
    assert mark == KEPT
