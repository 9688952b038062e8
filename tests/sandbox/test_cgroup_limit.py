"""Setting the limits of a group and reading its files does not block the loop."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest

from streamer.model.job import Limits
from streamer.sandbox.cgroups.files import GroupFiles
from streamer.sandbox.cgroups.v2 import CgroupV2


@pytest.mark.parametrize(("used", "elsewhere"), [(1, False), (2**40, True)], ids=["small", "full"])
async def test_a_limit_below_what_is_there_is_not_set_on_the_loop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, used: int, *, elsewhere: bool
) -> None:
    """The kernel reclaims, or kills, before it returns from that write."""
    threads: list[threading.Thread] = []

    def set_limits(*_: Any) -> bool:
        threads.append(threading.current_thread())
        return True

    monkeypatch.setattr(CgroupV2, "set_limits", set_limits)
    (tmp_path / "memory.current").write_text(f"{used}\n")
    (tmp_path / "memory.stat").write_text(f"file {used}\nshmem 0\nslab_reclaimable 0\n")
    with contextlib.closing(CgroupV2((tmp_path,))) as group:
        assert await group.limit(Limits())
    assert (threads[0] is not threading.main_thread()) == elsewhere


@pytest.mark.parametrize(
    ("shared", "cached", "slab", "fits"),
    [(200, 0, 0, False), (0, 200, 0, True), (0, 0, 200, True), (100, 100, 50, True)],
)
async def test_what_the_kernel_cannot_drop_has_to_fit(
    tmp_path: Path, shared: int, cached: int, slab: int, *, fits: bool
) -> None:
    """Otherwise it would kill everything in the group, which a session keeps."""
    mib = 2**20
    (tmp_path / "memory.current").write_text(f"{(shared + cached + slab) * mib}\n")
    stat = f"file {(shared + cached) * mib}\nshmem {shared * mib}\nslab_reclaimable {slab * mib}\n"
    (tmp_path / "memory.stat").write_text(stat)
    for name in ("pids.max", "memory.max"):
        (tmp_path / name).touch()
    with contextlib.closing(CgroupV2((tmp_path,))) as group:
        assert await group.limit(Limits(memory_bytes=128 * mib)) == fits
    assert bool((tmp_path / "memory.max").read_text()) == fits


def test_numbers_are_read_alone_and_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("123\n")
    (tmp_path / "named").write_text("oom 4\noom_kill 5\noom_kill_more 6\n")
    with contextlib.closing(GroupFiles(tmp_path)) as files:
        assert files.number("one") == 123
        assert files.counter("named", "oom_kill") == 5
        assert files.counter("named", "kill") == 0
        with pytest.raises(FileNotFoundError):
            files.number("none")
