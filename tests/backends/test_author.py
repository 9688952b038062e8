"""Mistakes of a backend's author, and whether the message leads to the fix."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

import streamer
from streamer import spi
from streamer.compose import build
from streamer.config.load import load_config
from streamer.errors import BackendUnavailable, ConfigError, PluginError
from streamer.sandbox.drivers import protocol
from streamer.testing.running import plugin
from tests.backends.test_third_party import Wrapped
from tests.conftest import OpenService


def named(name: str, **methods: Any) -> type[spi.Backend]:
    return type("Theirs", (Wrapped,), {"name": name, **methods})


def plain_probe(self: object, host: spi.Host) -> None:
    return None


async def async_plan(self: object, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
    return spi.LaunchPlan(())


async def bare_session(
    self: object, job: spi.SandboxJob, workspace: Path
) -> AsyncIterator[spi.LaunchPlan]:
    yield spi.LaunchPlan(())


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (named("theirs", probe=plain_probe), "probe is not async: write `async def probe"),
        (named("theirs", plan=async_plan), "plan is async: write `def plan"),
        (named("theirs", template_plan=async_plan), "template_plan is async: write `def templ"),
        (named("theirs", ahead="programs"), "ahead is 'programs': set it to one of program, sa"),
        (named("theirs", ahead=None), "ahead is None: set it to one of program, sandbox, nothing"),
        (named("theirs", session=bare_session), "decorate it with @contextlib.asynccontextmanager"),
        (named("my box"), r"the name 'my box' is not of the form \[a-z\]\[a-z0-9_\]\*"),
        (named("My"), "is not of the form"),
        (named("my-box"), "is not of the form"),
        (named(""), "is not of the form"),
        (named("8box"), "is not of the form"),
        (named("auto"), "sandbox.auto is a setting"),
        (named("allow"), "sandbox.allow is a setting"),
    ],
)
def test_a_slip_is_found_at_the_registration(cls: type[spi.Backend], said: str) -> None:
    with pytest.raises(PluginError, match=said):
        streamer.create_app(plugins=[plugin(cls)])


@dataclass(frozen=True)
class Refusing(Wrapped):
    name: ClassVar[str] = "refusing"

    async def probe(self, host: spi.Host) -> None:
        raise BackendUnavailable("nice is not installed", "install the package coreutils")


@dataclass(frozen=True)
class WithoutInput(Wrapped):
    name: ClassVar[str] = "without_input"

    def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
        argv = ("/bin/sh", "-c", 'exec "$@" </dev/null 2>/dev/null', "sh", *job.argv)
        return spi.LaunchPlan(argv, workspace=str(workspace), cwd=str(workspace))


async def test_an_init_of_another_build_is_not_blamed_on_the_backend(
    monkeypatch: pytest.MonkeyPatch, open_service: OpenService
) -> None:
    monkeypatch.setattr(protocol, "PROTOCOL", protocol.PROTOCOL + 1)
    with pytest.raises(BackendUnavailable, match="build it again") as caught:
        await open_service("plain")
    assert "standard input" not in str(caught.value)
    assert "the wrapper" not in str(caught.value)


@dataclass(frozen=True)
class Textual(Wrapped):
    name: ClassVar[str] = "textual"

    def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
        return spi.LaunchPlan(argv=" ".join(job.argv))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Planless(Wrapped):
    name: ClassVar[str] = "planless"

    def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
        return job.argv  # type: ignore[return-value]


@dataclass(frozen=True)
class PlanlessDirect(Planless):
    name: ClassVar[str] = "planless_direct"
    gated: ClassVar[bool] = False


@dataclass(frozen=True)
class AsRoot(Wrapped):
    """Forgets `start_as`."""

    name: ClassVar[str] = "as_root"

    def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
        return replace(super().plan(job, workspace), start_as=None)


@dataclass(frozen=True)
class AllVisible(Wrapped):
    """Claims namespaces, and has a network of its own at most."""

    name: ClassVar[str] = "all_visible"
    isolation: ClassVar[spi.Isolation] = spi.Isolation.NAMESPACES

    def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
        user = () if os.geteuid() == 0 else ("--map-current-user",)
        return spi.LaunchPlan(
            argv=("/usr/bin/unshare", *user, "--net", *job.argv),
            cwd=str(workspace),
            workspace=str(workspace),
            own_pid_namespace=True,
        )


@dataclass(frozen=True)
class Online(Wrapped):
    """Hides nothing and shares the network."""

    name: ClassVar[str] = "online"
    isolation: ClassVar[spi.Isolation] = spi.Isolation.DENY_LIST


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (Refusing, "nice is not installed: install the package coreutils"),
        (WithoutInput, "does it pass on standard input?"),
        (Textual, "LaunchPlan.argv is a tuple of arguments"),
        (Planless, "plan() returned a value of type tuple: return a streamer.spi.LaunchPlan"),
        (PlanlessDirect, "plan() returned a value of type tuple: return a streamer.spi.LaunchPlan"),
        pytest.param(
            AsRoot,
            "its programs run as root: start the sandbox as the job's user, with start_as=job.identity",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="takes a service that is root"),
        ),
        (Online, "claims Isolation.DENY_LIST, but a program in it has the host's network"),
        (AllVisible, "claims Isolation.NAMESPACES, but a program in it sees files of the host"),
    ],
)
async def test_a_backend_that_was_named_is_refused_by_name(
    open_service: OpenService, tmp_path: Path, cls: type[spi.Backend], said: str
) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == tmp_path.owner() and folder.stat().st_mode & 0o001 == 0:
            folder.chmod(folder.stat().st_mode | 0o011)
    with pytest.raises(BackendUnavailable) as caught:
        await open_service(
            cls.name, plugins=(plugin(cls),), server={"state_dir": str(tmp_path / "state")}
        )
    message = caught.value.message
    assert message.startswith(f"sandbox.backend = '{cls.name}' does not work: ")
    assert said in message
    assert "no sandbox works" not in message
    assert "or name another backend: auto, bwrap, firejail" in message


@dataclass(frozen=True)
class Optional(Wrapped):
    name: ClassVar[str] = "optional"

    title: str = ""
    other: str | None = None
    level: int = 10
    quick: bool = False
    folders: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("title", "5", "5"),
        ("title", "true", "true"),
        ("title", '"quoted"', '"quoted"'),
        ("title", "/usr/bin/env", "/usr/bin/env"),
        ("other", "5", "5"),
        ("level", "5", 5),
        ("quick", "true", True),
        ("folders", '["/a", "/b"]', ("/a", "/b")),
    ],
)
def test_a_value_of_the_environment_is_read_by_the_rule_for_every_key(
    option: str, text: str, value: object
) -> None:
    for config in (
        load_config(environ={f"STREAMER_SANDBOX__OPTIONAL__{option.upper()}": text}),
        load_config(environ={}, overrides=[f"sandbox.optional.{option}={text}"]),
    ):
        backend = build(config, [plugin(Optional)]).worker.backends["optional"]
        assert getattr(backend, option) == value
        assert type(getattr(backend, option)) is type(value)


@pytest.mark.parametrize(
    ("option", "text", "said"),
    [
        ("level", "high", "sandbox.optional.level: expected a whole number, got a string"),
        ("quick", "5", "sandbox.optional.quick: expected true or false, got a whole number"),
        (
            "folders",
            "/a",
            'sandbox.optional.folders: expected a list, got a string; write it like ["a", "b"]',
        ),
    ],
)
def test_a_wrong_value_is_refused_as_for_any_key(option: str, text: str, said: str) -> None:
    config = load_config(environ={f"STREAMER_SANDBOX__OPTIONAL__{option.upper()}": text})
    with pytest.raises(ConfigError) as caught:
        streamer.create_app(config, plugins=[plugin(Optional)])
    assert str(caught.value) == said
