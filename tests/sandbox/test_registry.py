"""At the start a backend is tested for everything that the configuration needs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from streamer.errors import ConfigError
from tests.conftest import OpenService


async def test_an_allow_list_is_no_matter_to_a_backend_that_works(
    open_service: OpenService, backend: str
) -> None:
    await open_service(backend, sandbox={"network": "allow-list", "allow_hosts": ["example.org"]})


MET = {
    "bwrap": ["disk:tmpfs", "seccomp:filter", "wall:timer", "wall_time_s:timer", "cpu:polling"],
    "firejail": ["disk:polling", "seccomp:filter", "open_files:rlimit", "output:counter"],
    "plain": ["disk_bytes:polling", "seccomp:guard", "file:rlimit"],
}


async def test_what_is_met_may_be_required(open_service: OpenService, backend: str) -> None:
    await open_service(backend, sandbox={"require": MET[backend]})


@pytest.mark.parametrize(
    ("requirement", "remedy"),
    [
        ("disk:tmpfs", "private workspace"),
        ("seccomp:filter", "our system call filter"),
        ("memory:cgroup", "Delegate=yes"),
        ("processes:cgroup-v2", "Delegate=yes"),
    ],
)
async def test_what_is_not_met_stops_the_start_with_its_remedy(
    open_service: OpenService, need: Callable[[str], str], requirement: str, remedy: str
) -> None:
    with pytest.raises(ConfigError, match=remedy) as refused:
        await open_service(
            need("plain"), sandbox={"cgroup": "off", "require": ["wall:timer", requirement]}
        )
    assert requirement in refused.value.message


@pytest.mark.parametrize("requirement", ["disk", "disk:", ":tmpfs", "inodes:tmpfs", ""])
async def test_what_is_no_requirement_is_refused(
    open_service: OpenService, need: Callable[[str], str], requirement: str
) -> None:
    need("plain")
    with pytest.raises(ConfigError, match=r"sandbox\.require"):
        await open_service("plain", sandbox={"require": [requirement]})


async def test_a_machine_without_a_filter_does_not_meet_it(
    open_service: OpenService, need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.sandbox.seccomp.platform.machine", lambda: "pdp11")
    await open_service(need("bwrap"), sandbox={"require": ["seccomp:none"]})
    with pytest.raises(ConfigError, match="enforces seccomp here by none"):
        await open_service("bwrap", sandbox={"require": ["seccomp:filter"]})
