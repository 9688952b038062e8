"""Plugins that pip has installed: a broken one stops the start, and its distribution is named."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import streamer
from streamer.cli.main import main
from streamer.errors import PluginError

Install = Callable[..., None]

BACKEND = """
from pathlib import Path
from typing import ClassVar
import streamer
from streamer.spi import Backend, Isolation, LaunchPlan, SandboxJob

class Mine(Backend):
    name: ClassVar[str] = "{name}"
    isolation: ClassVar[Isolation] = Isolation.NONE

    def plan(self, job: SandboxJob, workspace: Path) -> LaunchPlan:
        return LaunchPlan(argv=job.argv)

@streamer.hookimpl
def streamer_backends():
    return {returned}

@streamer.hookimpl
def streamer_job_finished(job):
    pass
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Return a function that installs a distribution with one plugin."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = set(sys.modules)

    def put(distribution: str, plugin: str, code: str | None, module: str = "") -> None:
        module = module or f"their_{plugin}"
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n"
        )
        entry = f"[aiohttp_streamer.plugins]\n{plugin} = {module}\n"
        (info / "entry_points.txt").write_text(entry)
        if code is not None:
            (tmp_path / f"{module}.py").write_text(code)

    yield put
    for name in set(sys.modules) - before:
        if name.startswith("their_"):
            del sys.modules[name]


MARKED = "import streamer\n@streamer.hookimpl\n"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (None, "cannot be imported: ModuleNotFoundError: No module named 'their_mine'"),
        ("import no_such_thing", "cannot be imported: ModuleNotFoundError"),
        ("def (", "cannot be imported: SyntaxError"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        ("x = 1", "has no hook: write a function"),
        ("def streamer_authorize(request, action, job): return False", "is not decorated"),
        (f"{MARKED}def streamer_authorise(request): ...", "did you mean streamer_authorize?"),
        (f"{MARKED}async def streamer_authorize(request): ...", "hooks are plain functions"),
        (f"{MARKED}def streamer_backends(): return 1 / 0", "ZeroDivisionError: division by zero"),
        (BACKEND.format(name="x", returned="5"), "return a list of classes"),
        (BACKEND.format(name="x", returned="[int]"), "not a subclass of Backend"),
        (BACKEND.format(name="My box", returned="[Mine]"), "is not of the form"),
    ],
)
def test_a_broken_one_stops_the_start_and_is_named(
    install: Install, capsys: pytest.CaptureFixture[str], code: str | None, said: str
) -> None:
    install("their-dist", "mine", code)
    with pytest.raises(PluginError) as refused:
        streamer.create_app()
    message = str(refused.value)
    assert said in message
    assert message.count("'mine' of their-dist 1.2") == 1
    assert message.endswith("fix or uninstall it, or list 'mine' in plugins.disabled")
    streamer.create_app({"plugins": {"disabled": ["mine"]}})

    with pytest.raises(SystemExit) as exited:
        main(["plugins", "--json"])
    assert exited.value.code == 1
    rows = json.loads(capsys.readouterr().out)
    (row,) = [row for row in rows if row["plugin"] == "mine"]
    assert (row["state"], row["reason"]) == ("broken", message)
    assert (row["distribution"], row["version"]) == ("their-dist", "1.2")


def test_what_each_provides_is_listed(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("their-dist", "mine", BACKEND.format(name="box", returned="[Mine]"))
    install("quiet", "other", None)
    with pytest.raises(SystemExit) as exited:
        main(["plugins", "--json", "--set", "plugins.disabled=['quiet']"])
    assert exited.value.code == 0
    rows = {row["plugin"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["mine"] == {
        "plugin": "mine",
        "distribution": "their-dist",
        "version": "1.2",
        "state": "used",
        "hooks": ["streamer_backends", "streamer_job_finished"],
        "backends": ["box"],
        "routes": [],
        "reason": "",
    }
    assert (rows["other"]["state"], rows["other"]["hooks"]) == ("disabled", [])
    assert rows["sandboxes.bwrap"]["backends"] == ["bwrap"]
    assert rows["sandboxes.bwrap"]["distribution"] == "aiohttp-streamer"


@pytest.mark.parametrize(
    ("plugin", "said"),
    [("other", "two backends are named 'box'"), ("mine", "two plugins are named 'mine'")],
)
def test_a_clash_is_told_below_the_list(
    install: Install, capsys: pytest.CaptureFixture[str], plugin: str, said: str
) -> None:
    install("first", "mine", BACKEND.format(name="box", returned="[Mine]"), "their_first")
    install("second", plugin, BACKEND.format(name="box", returned="[Mine]"), "their_second")
    with pytest.raises(SystemExit) as exited:
        main(["plugins"])
    printed, wrong = capsys.readouterr()
    assert exited.value.code == 2
    assert "first 1.2" in printed
    assert "second 1.2" in printed
    assert said in wrong


def test_a_plugin_may_wrap_the_others(install: Install) -> None:
    wrapper = (
        "import streamer\n@streamer.hookimpl(wrapper=True)\ndef streamer_backends():\n"
        "    groups = yield\n    return [[c for c in g if c.name != 'box'] for g in groups]\n"
    )
    install("first", "mine", BACKEND.format(name="box", returned="[Mine]"))
    streamer.create_app({"sandbox": {"backend": "box"}})
    install("strict", "strict", wrapper)
    with pytest.raises(streamer.errors.ConfigError, match="box"):
        streamer.create_app({"sandbox": {"backend": "box"}})
