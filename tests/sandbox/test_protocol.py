"""The frames and limits of an init, at their edges."""

from __future__ import annotations

import resource
import struct

import pytest

from streamer.errors import SandboxFailure
from streamer.model.job import MIB, MOST, Limits, SourceFile
from streamer.sandbox.drivers import protocol
from streamer.sandbox.drivers.protocol import FILE_CHUNK, Frames, frame
from streamer.sandbox.drivers.rlimits import UNLIMITED, rlimits


def test_a_frame_comes_whole_however_it_is_cut() -> None:
    sent = [(b"X", bytes(range(9))), (b"W", b""), (b"L", b"1234567")]
    data = b"".join(frame(kind, payload) for kind, payload in sent)
    for size in (1, 2, 3, 5, len(data)):
        frames = Frames(10)
        cut = (data[at : at + size] for at in range(0, len(data), size))
        assert [found for part in cut for found in frames.feed(part)] == sent
    with pytest.raises(SandboxFailure, match="11 bytes"):
        list(Frames(10).feed(frame(b"X", bytes(10))))


@pytest.mark.parametrize("size", [0, 1, FILE_CHUNK, FILE_CHUNK + 1, 3 * FILE_CHUNK + 1])
def test_a_file_is_sent_whole(size: int) -> None:
    content = bytes(number % 251 for number in range(size))
    data = b"".join(protocol.file_frames([SourceFile("a", content, 0o755)]))
    (kind, first), *more = Frames().feed(data)
    assert (kind, first[:6]) == (b"F", struct.pack("<I", 0o755) + b"a\0")
    assert {kind for kind, _ in more} <= {b"A"}
    assert first[6:] + b"".join(payload for _, payload in more) == content


def test_the_peak_is_the_larger_of_what_was_seen_and_what_the_kernel_counts() -> None:
    for of_process, of_tree in ((7, 5), (5, 7)):
        end = protocol.parse_end(struct.pack("<cIQQQQ", b"-", 0, 1, of_process, of_tree, 9))
        assert end.peak_memory_bytes == 7


def test_there_may_be_a_file_for_each_page_of_the_disk() -> None:
    for disk_bytes, files in ((1, 10_000), (400 * MIB, 102_400), (MOST.disk_bytes, 2**32 - 1)):
        limits = Limits(disk_bytes=disk_bytes)
        ((_, payload),) = Frames().feed(protocol.check_frame(limits, walk_disk=False))
        assert struct.unpack("<QII", payload) == (disk_bytes, files, 0)


def test_the_largest_limits_can_be_sent() -> None:
    protocol.run_frame(("a",), {}, "/", MOST, flags=0)


def test_a_process_may_hear_that_its_time_is_up_and_raise_its_stack() -> None:
    limits = {number: (soft, hard) for number, soft, hard in rlimits(Limits(cpu_time_s=2.5))}
    soft, hard = limits[resource.RLIMIT_CPU]
    assert 2.5 < soft < hard  # the limit of the whole job comes first, then SIGXCPU, then SIGKILL
    assert limits[resource.RLIMIT_STACK] == (Limits().stack_bytes, UNLIMITED)
    assert limits[resource.RLIMIT_CORE] == (0, 0)
    assert limits[resource.RLIMIT_NPROC][0] > Limits().processes
