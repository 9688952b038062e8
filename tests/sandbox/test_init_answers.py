"""Ask an init for a path and for the usage, also with malformed frames."""

from __future__ import annotations

import errno
import os
import resource
import socket
import struct
from pathlib import Path

import pytest

from streamer.sandbox.drivers.protocol import OF_RUN, WALK_DISK
from tests.sandbox.init_peer import Init, run_frame


def asked(init: Init, path: bytes, flags: int = os.O_RDONLY) -> tuple[int, list[int]]:
    """Return the errno and the descriptors of the answer."""
    init.send(b"O", struct.pack("<II", flags, 0o600) + path + b"\0")
    frame, fds, _, _ = socket.recv_fds(init.sock, 64, 3)
    assert frame[:5] == struct.pack("<I", 5) + b"O"
    return int.from_bytes(frame[5:], "little"), fds


def test_it_hands_out_a_file_and_keeps_nothing_of_it(init: Init, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("content")
    resource.prlimit(init.process.pid, resource.RLIMIT_NOFILE, (20, 20))
    for _ in range(30):  # more than it may have open
        number, (fd,) = asked(init, b"f")
        assert (number, os.read(fd, 9)) == (0, b"content")
        os.close(fd)


def test_it_tells_why_it_opens_nothing(init: Init, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    for path, number in (
        (b"none", errno.ENOENT),
        (b"", errno.ENOENT),
        (b"link", errno.ELOOP),
        (b"..", errno.EXDEV),
    ):
        assert asked(init, path) == (number, [])


@pytest.mark.parametrize(
    "payload",
    [b"", bytes(8), bytes(8) + b"name", bytes(8) + b"a\0b\0", bytes(8) + b"name\0\0"],
)
def test_it_refuses_a_malformed_path(init: Init, payload: bytes) -> None:
    init.send(b"O", payload)
    kind, told = init.read()
    assert (kind, told[:1]) == (b"E", b"p")


def test_it_opens_a_path_while_a_program_runs(init: Init, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("content")
    init.send_stdio()
    init.send(b"R", run_frame("/bin/sleep", "600"))
    number, (fd,) = asked(init, b"f")
    os.close(fd)
    assert number == 0
    init.send(b"K")
    assert init.read()[0] == b"X"


def used(init: Init, flags: int = WALK_DISK) -> tuple[int, ...]:
    """Return CPU time, memory, disk, and the number of processes."""
    init.send(b"U", struct.pack("<I", flags))
    kind, told = init.read()
    assert kind == b"U"
    return struct.unpack("<QQQQ", told)


def test_it_adds_up_what_its_programs_have_used(init: Init, tmp_path: Path) -> None:
    assert used(init)[0] == 0
    (tmp_path / "f").write_bytes(bytes(100_000))
    assert used(init)[2] >= 100_000
    sums = []
    for _ in range(3):
        init.send_stdio()
        busy = "import time\nwhile time.process_time() < 0.05: pass"
        init.send(b"R", run_frame("/usr/bin/env", "python3", "-c", busy))
        assert init.read()[0] == b"X"
        sums.append(used(init)[0])
    assert sums == sorted(sums)
    assert sums[-1] >= 150_000


def test_with_a_flag_it_tells_nothing_of_earlier_programs_and_of_the_disk(
    init: Init, tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(bytes(100_000))
    of_run = WALK_DISK | OF_RUN
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    init.send_stdio()
    init.send(b"R", run_frame("/usr/bin/env", "python3", "-c", busy))
    assert init.read()[0] == b"X"
    assert used(init)[0] >= 300_000
    assert used(init)[2] >= 100_000
    cpu, _, disk, processes = used(init, of_run)
    assert (cpu, disk) == (0, 0)
    assert processes > 0, "it is in no namespace of its own here"


@pytest.mark.parametrize("payload", [b"", bytes(3), bytes(5)])
def test_it_refuses_a_malformed_question_for_the_use(init: Init, payload: bytes) -> None:
    init.send(b"U", payload)
    assert init.read()[0] == b"E"
