"""The service's folder on the host: what a killed service left is removed, and nothing else."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.sandbox.host.state import state_folder
from streamer.sandbox.host.workspace import remove_tree

LONG_AGO = 1.0


@pytest.fixture
def parent() -> Iterator[Path]:
    """Return a folder that the users of a root service's jobs may pass through."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def looks_like_ours(path: Path) -> Path:
    """Make what a killed service would leave, with a file that nobody may read."""
    (path / "rootfs").mkdir(parents=True)
    (path / "secret").write_text("x")
    (path / "secret").chmod(0)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def test_what_a_killed_service_left_is_removed(parent: Path) -> None:
    left = looks_like_ours(parent / "streamer-left")
    with state_folder(str(parent)):
        assert not left.exists()


@pytest.mark.parametrize("target", ["elsewhere", "streamer"])
def test_a_link_is_not_followed(parent: Path, target: str) -> None:
    """Another user may place such a link in /tmp, to a folder that is ours, as a container's."""
    elsewhere = looks_like_ours(parent / target)
    (parent / "state").mkdir()
    link = parent / "state" / "streamer-x"
    link.symlink_to(elsewhere)
    os.utime(link, (LONG_AGO, LONG_AGO), follow_symlinks=False)
    with state_folder(str(parent / "state")):
        pass
    assert (elsewhere / "secret").stat().st_mode & 0o777 == 0
    assert link.is_symlink()


def test_a_folder_whose_root_is_a_link_is_not_ours(parent: Path) -> None:
    other = parent / "streamer-x"
    other.mkdir()
    (other / "rootfs").symlink_to("/")
    os.utime(other, (LONG_AGO, LONG_AGO))
    with state_folder(str(parent)):
        assert other.exists()


def test_a_link_in_place_of_a_tree_is_removed_and_not_followed(parent: Path) -> None:
    elsewhere = looks_like_ours(parent / "elsewhere")
    link = parent / "link"
    link.symlink_to(elsewhere)
    remove_tree(link)
    assert not link.is_symlink()
    assert (elsewhere / "secret").stat().st_mode & 0o777 == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who could remove it")
def test_the_folder_of_another_account_is_left_to_it(parent: Path) -> None:
    left = looks_like_ours(parent / "streamer-left")
    os.chown(left, 60000, 60000)
    with state_folder(str(parent)):
        assert left.exists()
