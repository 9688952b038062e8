"""Swapped pages count, shared ones once; tested with a made-up /proc, without swap."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

from streamer.sandbox.drivers.protocol import SEES_PROC
from tests.sandbox.init_peer import INIT, Init, run_frame

MIB = 1024 * 1024
LIMIT = 64 * MIB

STAT = "{pid} (x) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0\n"
STATUS = "Name:\tx\nRssAnon:\t 1024 kB\nRssShmem:\t 0 kB\nVmPTE:\t 0 kB\nVmSwap:\t 102400 kB\n"
ROLLUP = (
    "00400000-7ffe0000 ---p 00000000 00:00 0 [rollup]\n"
    "Pss_Anon: 1024 kB\nPss_Shmem: 0 kB\nSwap: 102400 kB\nSwapPss: {share} kB\n"
)


def make_proc(folder: Path, shares: dict[int, int]) -> Path:
    """Create the files in /proc that the init reads: each process has a share of 100 MiB in swap."""
    folder.mkdir()
    (folder / "self").symlink_to("1")  # the init, which is the first process
    for pid, share in shares.items():
        (folder / str(pid)).mkdir()
        (folder / str(pid) / "stat").write_text(STAT.format(pid=pid))
        (folder / str(pid) / "status").write_text(STATUS)
        (folder / str(pid) / "smaps_rollup").write_text(ROLLUP.format(share=share // 1024))
    return folder


def test_swapped_pages_are_divided_among_those_who_share_them(
    tmp_path: Path, need: Callable[[str], str]
) -> None:
    proc = make_proc(tmp_path / "proc", {100: 30 * MIB, 101: 40 * MIB})
    ours, theirs = socket.socketpair()
    ours.settimeout(30)
    process = subprocess.Popen(
        (
            *(need("bwrap"), "--unshare-user", "--unshare-pid", "--as-pid-1"),
            *("--ro-bind", "/", "/", "--bind", str(proc), "/proc", "--dev", "/dev"),
            *("--tmpfs", "/tmp", "--chdir", "/tmp", INIT, "serve"),
        ),
        stdin=theirs.fileno(),
    )
    theirs.close()
    init = Init(process, ours)
    kind, said = init.read()
    assert (kind, said[1] & SEES_PROC) == (b"H", SEES_PROC), "it takes this /proc for its own"
    init.send(b"Q", struct.pack("<I", 1000))
    init.send_stdio()
    limits = struct.pack("<QQ", 0, LIMIT)  # of time and of memory
    init.send(b"R", limits + run_frame("/bin/sleep", "600")[len(limits) :])
    kind, told = init.read()
    assert (kind, told[:1]) == (b"X", b"m")
    peak_tree = struct.unpack_from("<Q", told, 21)[0]
    assert peak_tree == 72 * MIB
    ours.close()
    assert init.ends() == 0
