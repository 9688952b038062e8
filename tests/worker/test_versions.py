"""Tools are asked for their versions in the sandbox, and again when they are replaced."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamer.compose import Parts
from streamer.model.job import JobSpec
from streamer.model.runtime import Runtime
from streamer.worker import versions as module
from streamer.worker.versions import version_in
from tests.conftest import OpenService
from tests.running import run_job

BASH = version_in(subprocess.check_output(["/bin/bash", "--version"], text=True))
IN_SANDBOX = "read -r name </etc/hostname; test $name = sandbox && echo tool 3.1"


def language(name: str, says: str) -> Runtime:
    """Return a language whose tool is asked for its version by a command of the shell."""
    return Runtime(name=name, run=("sh", "{entry}"), version=("sh", "-c", says))


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder whose tools sandboxes can show."""
    if os.geteuid() != 0:
        pytest.skip("only root may write to /opt, and a sandbox has its own /tmp")
    with tempfile.TemporaryDirectory(dir="/opt") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def put(tool: Path, says: str) -> Runtime:
    """Replace a tool at once, as the installation of a package does; return its language."""
    new = tool.with_suffix(".new")
    new.write_text(f"#!/bin/sh\necho {says}\n")
    new.chmod(0o755)
    new.rename(tool)
    return in_folder(tool)


def in_folder(tool: Path) -> Runtime:
    run, shown = (str(tool), "{entry}"), (str(tool.parent),)
    return Runtime(name=tool.name, run=run, version=(str(tool), "--version"), read_only=shown)


@contextlib.contextmanager
def heard(service: Parts) -> Iterator[asyncio.Event]:
    """Set an event when the languages of the service may have changed."""
    languages, event = service.worker.host.languages, asyncio.Event()
    before = languages.on_change

    def tell() -> None:
        before()
        event.set()

    languages.on_change = tell
    yield event
    languages.on_change = before


async def until(service: Parts, true: Callable[[], bool]) -> None:
    with heard(service) as event:
        while not true():
            await event.wait()
            event.clear()


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("Python 3.11.2\n", "3.11.2"),
        ("cc (Debian 12.2.0-14+deb12u1) 12.2.0\nCopyright (C) 2022", "12.2.0"),
        ("This is perl 5, version 36, subversion 0 (v5.36.0) built for x86_64", "5.36.0"),
        ("openjdk 21 2023-09-19\n", "21"),
        ("go version go1.19.8 linux/amd64", "1.19.8"),
        ("info: kotlinc-jvm 1.3-SNAPSHOT (JRE 17.0.15+6)", "1.3"),
        ("no number", ""),
    ],
)
def test_the_version_is_found_in_what_a_tool_says(said: str, version: str) -> None:
    assert version_in(said) == version


async def test_versions_are_those_of_the_sandbox(open_service: OpenService) -> None:
    runtimes = (
        language("inside", IN_SANDBOX),
        language("fails", "echo 1.2; exit 3"),
        language("mute", ":"),
        language("on-stderr", "echo tool 4.5 >&2"),
        Runtime(name="silent", run=("sh", "{entry}")),
        Runtime(name="absent", run=("absent", "{entry}"), version=("sh", "-c", "echo 1.2")),
    )
    service = await open_service("bwrap", runtimes=runtimes)
    languages = service.worker.host.languages
    assert languages.versions == {}
    await languages.ask([*(runtime.name for runtime in runtimes), "bash"])
    assert languages.versions == {"inside": "3.1", "on-stderr": "4.5", "bash": BASH}


async def test_a_tool_that_does_not_answer_costs_the_others_nothing(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "VERSION_S", 1.0)
    says = {"first": "echo 1.0", "hangs": "sleep 60", "floods": "yes", "last": "echo 2.0"}
    runtimes = tuple(language(name, script) for name, script in says.items())
    service = await open_service("bwrap", runtimes=runtimes)
    await service.worker.host.languages.ask(says)
    assert service.worker.host.languages.versions == {"first": "1.0", "last": "2.0"}
    told = [record.message for record in caplog.records if record.name == module.__name__]
    assert [message.split(" ", 1)[0] for message in told] == ["hangs", "floods"]


async def test_a_replaced_tool_is_asked_again_and_a_new_one_can_be_used(
    open_service: OpenService, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLE_S", 0.0)
    runtimes = (put(folder / "tool", "1.0"), in_folder(folder / "later"))
    service = await open_service("bwrap", runtimes=runtimes)
    languages = service.worker.host.languages
    service.ask_versions()
    service.ask_versions()  # begins once
    await until(service, lambda: languages.versions.get("tool") == "1.0")
    put(folder / "tool", "1.1")
    await until(service, lambda: languages.versions.get("tool") == "1.1")
    put(folder / "tool", "nothing")
    await until(service, lambda: "tool" not in languages.versions)
    put(folder / "later", "7.0")
    await until(service, lambda: languages.versions.get("later") == "7.0")
    await service.worker._publish()
    ran = await run_job(service, language="later", code="")
    assert (ran.verdict, ran.text()) == ("exited 0", "7.0\n")
    (folder / "tool").unlink()
    await until(service, lambda: "tool" in languages.missing)
    await service.worker._publish()
    assert "tool" not in (await service.jobs.capabilities()).languages


async def test_without_a_question_no_tool_is_run(open_service: OpenService) -> None:
    """Most who start a service in a program of theirs never ask."""
    service = await open_service("bwrap")
    job = await service.jobs.submit(JobSpec(language="bash", code="echo"))
    async for _ in job.events():
        pass
    assert service.worker.host.languages.versions == {}
