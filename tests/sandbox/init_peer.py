"""Start an init, and exchange frames with it directly."""

from __future__ import annotations

import os
import platform
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

import pytest

from tests.running import adopt_orphans, descendants

__all__ = ["INIT", "Init", "run_frame", "served_init", "waits_ms"]

INIT = str(files("streamer.sandbox") / "init" / "streamer-init")
POLL: Final = "7"
"""The number of poll(2) on x86-64."""


@dataclass
class Init:
    """An init that is served by the test, not as pid 1."""

    process: subprocess.Popen[bytes]
    sock: socket.socket

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        """Send one well-formed frame."""
        self.sock.sendall(struct.pack("<I", 1 + len(payload)) + kind + payload)

    def send_stdio(self, count: int = 3) -> None:
        """Send descriptors of /dev/null, as standard input, output and error."""
        null = os.open(os.devnull, os.O_RDWR)
        socket.send_fds(self.sock, [struct.pack("<I", 1) + b"D"], [null] * count)
        os.close(null)

    def read(self) -> tuple[bytes, bytes]:
        """Return the type and payload of the next frame; nothing when the init hung up."""
        head = self.sock.recv(4, socket.MSG_WAITALL)
        if not head:
            return b"", b""
        frame = self.sock.recv(int.from_bytes(head, "little"), socket.MSG_WAITALL)
        return frame[:1], frame[1:]

    def files_written(self, disk_bytes: int = 0, inodes: int = 0) -> int:
        """Ask whether all files are written, and return the answer: 0 or an errno."""
        self.send(b"C", struct.pack("<QII", disk_bytes, inodes, 1))
        kind, told = self.read()
        assert kind == b"C"
        return int.from_bytes(told, "little")

    def ends(self) -> int:
        """Wait for its exit code."""
        return self.process.wait(10)


@contextmanager
def served_init(folder: Path, wrapper: tuple[str, ...] = ()) -> Iterator[Init]:
    """Start an init in a folder, and check at the end that it leaves nothing behind."""
    adopt_orphans()
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    process = subprocess.Popen(
        (*wrapper, INIT, "serve"), stdin=theirs.fileno(), stderr=subprocess.DEVNULL, cwd=folder
    )
    theirs.close()
    served = Init(process, ours)
    assert served.read()[0] == b"H"
    served.send(b"Q", struct.pack("<I", 1000))
    try:
        yield served
    finally:
        ours.close()
        served.ends()
    assert descendants() == {}


def waits_ms(pid: int) -> int:
    """Return for how many milliseconds an init waits for events now; -1 is without end.

    Skips the test where nobody may see that.
    """
    if platform.machine() != "x86_64":
        pytest.skip("poll(2) gets its time in another way there")
    while True:
        try:
            number, *arguments = Path(f"/proc/{pid}/syscall").read_text().split()
        except PermissionError:
            pytest.skip("only root may see where an init waits")
        if number == POLL:
            found = int(arguments[2], 16) & 0xFFFFFFFF
            return -1 if found == 0xFFFFFFFF else found


def run_frame(
    *argv: str,
    arguments: int | None = None,
    limits: int = 0,
    variables: int = 0,
    tail: bytes = b"",
    flags: int = 0,
) -> bytes:
    """Return the payload of a frame that runs a program, perhaps with false counts."""
    strings = b"".join(word.encode() + b"\0" for word in ("/", *argv))
    count = len(argv) if arguments is None else arguments
    head = struct.pack("<QQQIIIII", 0, 0, 0, 0, flags, limits, count, variables)
    return head + strings + tail
