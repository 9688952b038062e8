"""Settings that would have no effect are refused, or logged at the start."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

import streamer
from streamer.config.tokens import changed_tokens, new_token
from streamer.errors import ConfigError
from streamer.sandbox.cgroups.tree import cgroup_tree
from streamer.web.app import ACCESS
from tests.conftest import Start


def test_a_misspelt_sandbox_that_callers_may_choose_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^sandbox\.allow: unknown backend 'firejial'"):
        streamer.create_app({"sandbox": {"allow": ["plain", "firejial"]}})


def test_a_list_of_hosts_that_nobody_may_reach_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    hosts = {"allow_hosts": ["example.org"]}
    streamer.create_app({"sandbox": hosts})
    assert caplog.messages == ['sandbox.allow_hosts has no effect while sandbox.network is "none"']
    caplog.clear()
    streamer.create_app({"sandbox": {**hosts, "network": "allow-list"}})
    assert caplog.messages == []


def test_the_bounds_of_a_tenant_that_no_token_has_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token, stored = new_token("school")
    with changed_tokens(tmp_path / "tokens.json") as tokens:
        tokens.append(stored)
    file = {"tokens_file": str(tmp_path / "tokens.json")}
    fixed = {"tokens": [{"tenant": "ann", "sha256": "5" * 64}]}
    tenants = {"tenants": {name: {"max_running": 1} for name in ("", "ann", "school", "schol")}}

    def told(*auth: dict[str, Any], plugins: tuple[object, ...] = ()) -> str:
        caplog.clear()
        config = {"auth": {key: one[key] for one in auth for key in one}}
        streamer.create_app(config, plugins=plugins)[ACCESS].announce()
        return " ".join(re.findall("no token has the tenant '(.*)',", caplog.text))

    assert told(tenants, file, fixed) == " schol"
    assert told(tenants, file) == " ann schol"
    assert told(tenants) == "ann schol school", "all callers are the one without a name"
    assert told(tenants, fixed) == " schol school"
    assert told(tenants, plugins=(Deciding(),)) == "", "a plugin may know any"
    assert token not in caplog.text


class Deciding:
    @streamer.hookimpl
    def streamer_authorize(self) -> str:
        return "schol"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a plugin that cannot be imported, under another name than its distribution's."""
    info = tmp_path / "mine_dist-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine-dist\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[aiohttp_streamer.plugins]\nmine = not_there\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])


@pytest.mark.usefixtures("installed")
def test_a_plugin_is_switched_off_by_either_of_its_names_and_by_no_other() -> None:
    for name in ("mine", "mine-dist"):
        streamer.create_app({"plugins": {"disabled": [name]}})
    with pytest.raises(ConfigError) as refused:
        streamer.create_app({"plugins": {"disabled": ["mine-dits"]}})
    assert str(refused.value) == (
        "plugins.disabled: no installed plugin or distribution is named 'mine-dits' "
        "(did you mean mine-dist?); installed: mine, mine-dist"
    )


async def test_a_path_without_any_language_is_told_of_and_not_ready(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = {"path": str(tmp_path)}
    client = await start(sandbox={**nowhere, "allow_command": False})
    async with client.get("/readyz") as response:
        checks = (await response.json())["checks"]
        assert (response.status, [name for name, held in checks.items() if not held]) == (
            *(503, ["languages"]),
        )
    assert [line for line in caplog.messages if "no language is available" in line]
    # If callers may send commands, no language is needed.
    client = await start(sandbox={**nowhere, "allow_command": True})
    async with client.get("/readyz") as response:
        assert response.status == 200


def test_a_control_group_that_was_named_and_cannot_be_used_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with cgroup_tree("/nowhere/streamer", 12) as tree:
        assert tree is None
    assert "sandbox.cgroup = '/nowhere/streamer' cannot be used" in caplog.text
    assert caplog.records[-1].levelname == "WARNING"
