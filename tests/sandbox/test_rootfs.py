"""What a sandbox shows of the host: where it is mounted, and what of /etc is never shown."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from streamer.config.schema import Config
from streamer.errors import ConfigError
from streamer.sandbox.host.rootfs import build_rootfs, host_of, shown
from streamer.spi import Host, Shown
from streamer.worker.tools import missing_tools


@pytest.fixture
def host(tmp_path: Path) -> Host:
    build_rootfs(tmp_path / "rootfs")
    return host_of(tmp_path / "rootfs", tmp_path / "init")


def places(host: Host, *read_only: Path | str) -> list[Shown]:
    """Return what is shown of `read_only` alone."""
    common = shown(host, (), (), network=False)
    return [one for one in shown(host, map(str, read_only), (), network=False) if one not in common]


def test_a_path_is_shown_where_it_is(host: Host, tmp_path: Path) -> None:
    assert places(host, tmp_path) == [Shown(str(tmp_path), str(tmp_path))]


def test_a_path_that_may_be_missing_is_shown_if_it_is_there(host: Host, tmp_path: Path) -> None:
    assert places(host, f"-{tmp_path}") == [Shown(str(tmp_path), str(tmp_path))]
    assert places(host, f"-{tmp_path}/none") == []


def test_what_the_system_shows_anyway_is_not_mounted_again(host: Host) -> None:
    assert places(host, "/usr/bin", "/bin/sh", "/usr") == []


def test_a_folder_comes_before_what_lies_in_it(host: Host, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    assert places(host, inner, tmp_path) == [Shown(str(tmp_path), str(tmp_path))]


def test_links_that_the_sandbox_shows_are_followed(host: Host, tmp_path: Path) -> None:
    """While a sandbox is set up, a mount over a link ends up on the host, or is refused."""
    shelf, elsewhere = tmp_path / "shelf", tmp_path / "elsewhere"
    shelf.mkdir()
    elsewhere.mkdir()
    (shelf / "absolute").symlink_to(elsewhere)
    (shelf / "relative").symlink_to("../elsewhere")
    (shelf / "loop").symlink_to("loop")
    for name in ("absolute", "relative"):
        assert places(host, shelf, shelf / name)[1:] == [
            Shown(str(shelf / name), str(elsewhere))
        ], name
    assert places(host, shelf, shelf / "loop") == [Shown(str(shelf), str(shelf))]
    # If the folder of the link is not shown, the sandbox has no link.
    assert places(host, shelf / "absolute") == [
        Shown(str(shelf / "absolute"), str(shelf / "absolute"))
    ]


def test_links_at_the_top_are_followed_to_where_the_sandbox_has_them(
    host: Host, tmp_path: Path
) -> None:
    own = replace(host, links=((f"{tmp_path}", "/usr/x"),))
    (tmp_path / "tool").mkdir()
    assert places(own, tmp_path / "tool") == [Shown(f"{tmp_path}/tool", "/usr/x/tool")]


def test_a_path_that_is_gone_is_left_out(host: Host, tmp_path: Path) -> None:
    assert places(host, tmp_path / "missing") == []


def test_mount_points_below_the_prepared_folders_are_made(host: Host) -> None:
    names = [
        name for name in ("profile", "bash.bashrc", "login.defs") if Path("/etc", name).exists()
    ]
    (one,) = (
        one for one in shown(host, (), names[:1], network=False) if one.target.endswith(names[0])
    )
    assert one == Shown(f"/etc/{names[0]}", f"/etc/{names[0]}")
    assert (host.rootfs / "etc" / names[0]).read_bytes() == b""


def test_a_files_link_into_usr_stays_a_link(host: Host) -> None:
    """Programs read the time zone's name from it."""
    if not Path("/etc/localtime").is_symlink():
        pytest.skip("this host has no link /etc/localtime")
    assert os.readlink(host.rootfs / "etc/localtime") == os.readlink("/etc/localtime")


def test_nothing_of_accounts_or_secrets_is_shown(host: Host) -> None:
    """Whichever pattern matches it."""
    assert "root:x:0:0" in (host.rootfs / "etc/passwd").read_text()
    everything = ["[a-z]*", "s*", "p*", "ssl*", "pki*", "ssl/*"]
    targets = {one.target for one in shown(host, (), everything, network=False)}
    for secret in ("passwd", "shadow", "group", "gshadow", "ssh", "ssl", "ssl/private", "sudoers"):
        assert f"/etc/{secret}" not in targets
    assert "/etc/profile" in targets or "/etc/services" in targets


def test_the_name_servers_are_shown_to_who_may_use_them(host: Host) -> None:
    def names(*, network: bool) -> set[str]:
        return {one.target for one in shown(host, (), (), network=network)}

    assert names(network=True) - names(network=False) == {"/etc/resolv.conf"}


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        build_rootfs(tmp_path / "rootfs")
    finally:
        os.umask(before)
    for folder, _, files in os.walk(tmp_path / "rootfs"):
        assert Path(folder).stat().st_mode & 0o005 == 0o005, folder
        for name in files:
            assert Path(folder, name).lstat().st_mode & 0o004, name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            ("etc", name)
            for name in ("passwd", "shadow-", "ssh", "ssl", "ssl/private", "ssl/private/key")
        ),
        *(
            ("etc", name)
            for name in ("", "/etc/php", "../root", "php/../shadow", "*", "?hadow", "pam.d")
        ),
        *(
            ("read_only", path)
            for path in ("opt", "/", "//", "/etc", "/tmp/", "/work", "/proc/1", "/dev/kvm")
        ),
        ("read_only", "/opt/../etc"),
    ],
)
def test_what_cannot_be_shown_stops_the_start_with_its_key(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"runtimes\.x\.{key}"):
        Config.from_mapping({"runtimes": {"x": {"run": ["true"], key: [value]}}})


def test_a_path_that_is_missing_is_told_with_its_key() -> None:
    config = Config.from_mapping(
        {"runtimes": {"x": {"run": ["true"], "read_only": ["/usr", "/opt/not-there"]}}}
    )
    reason = missing_tools(config.runtimes, "/usr/bin:/bin")["x"]
    assert reason == "runtimes.x.read_only: /opt/not-there does not exist on this host"
