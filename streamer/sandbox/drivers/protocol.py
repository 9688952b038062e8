"""The frames that the service and the init inside a sandbox exchange (``init/streamer-init.c``).

On a Unix stream socket, in both directions: u32 length of the rest, u8 type, payload; integers are
little endian. Descriptors are sent beside a frame (SCM_RIGHTS).

======  =========================================================  =============================
to it   what                                                       its answer
======  =========================================================  =============================
``B``   install a system call filter for programs                  ``E`` if it fails
``M``   mounts to count                                            ``E`` if it fails
``T``   paths that are the same for every job                      ``E`` if it fails
``Q``   files begin; the limit on their number                     ``E`` if it fails
``Z``   unpack the project in the descriptor beside it             in the answer to ``C``
``F``   a file; ``A``: more of it                                  in the answer to ``C``
``C``   ask whether all files since ``Q`` are written; if not,     ``C`` and an errno, or 0
        all of them are removed. With ``REST_ONLY``: whether what
        goes on beside has written too much
``N``   listen on a port                                           ``L`` and the socket, or ``E``
``O``   open a path beneath the workspace                          ``O`` and an errno, or 0 and
                                                                   the descriptor
``U``   ask what is used, by all programs or with ``OF_RUN`` by    ``U``
        the one that runs
``D``   carries the three descriptors of the next program          in the answer to ``R``
``Y``   prepare the terminal of the next program, instead; its     ``Y`` and the descriptor, or
        size                                                       ``E``
``R``   run a program                                              ``E`` if it fails; with
                                                                   ``HOLD`` then ``P``
``G``   let a program that is held go on; with a byte of payload,  ``E`` if it fails;
        say whether it does, and has not ended                     ``G`` and 1 or 0
``S``   signal it; ``K``: kill all of it                           ``X``, once all of it is dead
``L``   the time at which all of it is killed, if no later one
        comes, in us on CLOCK_BOOTTIME
``V``   let go on what it has left, with ``KEEP``; else as ``K``   ``X``
======  =========================================================  =============================

By itself it sends ``H`` (hello, the first frame), ``W`` (the program has ended and left others
running) and ``X`` (the program and everything it started are dead, but for what ``V`` lets go on;
what that was, a later ``K`` kills too). ``P`` has an errno: 0 says that
the program is held, otherwise it cannot be, and ``X`` follows.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from streamer.errors import SandboxFailure
from streamer.model.job import Limits, SourceFile, TerminalSize, most_inodes
from streamer.sandbox.drivers.files import not_written
from streamer.sandbox.drivers.rlimits import rlimits
from streamer.sandbox.shape import Cause, FilesDoNotFit, RunEnd, Use

__all__ = [
    "FIRST",
    "FORK",
    "GATE",
    "GROUP_MEMORY",
    "GROUP_SHARE",
    "GROUP_TIME",
    "HOLD",
    "KEEP",
    "PROTOCOL",
    "REST_ONLY",
    "SEES_PROC",
    "TERMINAL",
    "UNBOUNDED",
    "WALK_DISK",
    "Frames",
    "check_files",
    "check_frame",
    "failure",
    "file_frames",
    "frame",
    "open_frame",
    "parse_end",
    "parse_use",
    "quota_frame",
    "run_frame",
    "same_frame",
    "terminal_frame",
    "use_frame",
    "why_not_held",
    "why_not_hello",
]

PROTOCOL: Final = 16
"""The hello has the init's version; in an editable installation it may be an old build."""

SEES_PROC: Final = 1
"""Flag of ``H``: /proc shows the processes of the init's own namespace."""
UNBOUNDED: Final = 2
"""Flag of ``H``: the init could not limit inotify for its sandbox, which it should."""
FIRST: Final = 4
"""Flag of ``H``: the init is pid 1 of its namespace, so nothing inside can stop it."""

WALK_DISK: Final = 1
"""Flag of ``C`` and ``R``: the workspace is a folder on a disk of the host, so its use must be
found by a walk; otherwise it is a separate mount."""

REST_ONLY: Final = 2
"""Flag of ``C``: too much is only what is there while something runs that earlier programs left."""

GROUP_MEMORY: Final = 2
"""Flag of ``R``: a control group limits its memory, swap included."""
GROUP_TIME: Final = 4
"""Flag of ``R``: a control group counts its CPU time."""
GROUP_SHARE: Final = 8
"""Flag of ``R``: a control group gives it its share of the processors."""

HOLD: Final = 16
"""Flag of ``R``: the program is started before its job, and held where it could notice that."""

FORK: Final = 32
"""Flag of ``R``: the program is the one that the init was forked from (``init/forked``)."""

TERMINAL: Final = 64
"""Flag of ``R``: the program runs on the terminal that ``Y`` has prepared."""

KEEP: Final = 128
"""Flag of ``R``: what it leaves may go on beside later programs; a group counts its CPU time."""

GATE: Final = 256
"""Flag of ``R``: nothing of the program is executed before ``G``. There is no ``P``."""

OF_RUN: Final = 256
"""Flag of ``U``: tell the CPU time of the present run alone, and do not look at the disk."""

PATH_MAX: Final = 4096
"""Of Linux, with the zero byte at the end (limits.h)."""

FILE_CHUNK: Final = 256 * 1024

MAX_ANSWER: Final = 1024
"""The most bytes of a frame of an init; its longest has fewer than 64."""

BLIND: Final = (
    "the init cannot see the sandbox's processes, so it could enforce no limit: /proc is not that "
    "of its namespace. In a container with a masked /proc none can be mounted: start the container "
    "with an unmasked one (docker run --security-opt systempaths=unconfined)"
)

OTHER_BUILD: Final = (
    "streamer/sandbox/init/streamer-init was built from other sources than this service: "
    "build it again (pip install ., or `make setup` in the repository)"
)

_END: Final = struct.Struct("<cIQQQQ")
_CAUSES: Final[dict[bytes, Cause | None]] = {
    b"-": None,
    b"c": "cpu_time",
    b"m": "memory",
    b"d": "disk",
    b"k": "killed",
    b"l": "lost",
}
_STAGES: Final = {
    "b": "install the system call filter for the program, which did not run",
    "n": "listen for the proxy",
    "r": "start the program",
    "y": "give the program a terminal",
}


class Frames:
    def __init__(self, most: int = 2**32 - 1) -> None:
        """`most` is the number of bytes that a frame may have."""
        self._buffer = bytearray()
        self._most = most

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Add bytes, and yield the type and payload of each complete frame.

        Raises `SandboxFailure` for an impossible length: the wrapper may have written to the
        socket, and whatever has it must not make us keep gigabytes.
        """
        self._buffer += data
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "little")
            if not 0 < size <= self._most:
                raise SandboxFailure(f"what answers is not the init: a frame of {size} bytes")
            if len(self._buffer) < 4 + size:
                return
            whole = bytes(self._buffer[4 : 4 + size])
            del self._buffer[: 4 + size]
            yield whole[:1], whole[1:]


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    return struct.pack("<I", 1 + len(payload)) + kind + payload


def quota_frame(limits: Limits) -> bytes:
    """Return the frame that comes before the first file, and before a project."""
    return frame(b"Q", struct.pack("<I", most_inodes(limits)))


def file_frames(files: Sequence[SourceFile]) -> Iterator[bytes]:
    for file in files:
        head = struct.pack("<I", file.mode) + file.name.encode() + b"\0"
        yield frame(b"F", head + file.content[:FILE_CHUNK])
        for at in range(FILE_CHUNK, len(file.content), FILE_CHUNK):
            yield frame(b"A", file.content[at : at + FILE_CHUNK])


def check_frame(limits: Limits, *, walk_disk: bool, rest_only: bool = False) -> bytes:
    """Return the frame that asks whether all files are written."""
    flags = (WALK_DISK if walk_disk else 0) | (REST_ONLY if rest_only else 0)
    return frame(b"C", struct.pack("<QII", limits.disk_bytes, most_inodes(limits), flags))


def check_files(payload: bytes, *, walk_disk: bool) -> None:
    """Check the answer to files. Raises `FilesDoNotFit`, `PathRefused`, or `SandboxFailure`."""
    number = int.from_bytes(payload, "little")
    # A separate mount is full at the job's limit. A full disk of the host is not the job's fault.
    if number == errno.EDQUOT or (number == errno.ENOSPC and not walk_disk):
        raise FilesDoNotFit
    if number:
        raise not_written(number)


def run_frame(
    argv: Sequence[str], env: Mapping[str, str], cwd: str, limits: Limits, *, flags: int
) -> bytes:
    """Return the frame that runs a program; its descriptors must have been sent just before."""
    triples = rlimits(limits, kept=bool(flags & KEEP))
    variables = [f"{name}={value}" for name, value in env.items()]
    strings = b"".join(os.fsencode(text) + b"\0" for text in (cwd, *argv, *variables))
    head = struct.pack(
        "<QQQIIIII",
        int(limits.cpu_time_s * 1e6),
        limits.memory_bytes,
        limits.disk_bytes,
        most_inodes(limits),
        flags,
        len(triples),
        len(argv),
        len(variables),
    )
    resources = b"".join(struct.pack("<IQQ", *triple) for triple in triples)
    return frame(b"R", head + resources + strings)


def terminal_frame(size: TerminalSize) -> bytes:
    return frame(b"Y", struct.pack("<HH", size.cols, size.rows))


def same_frame(paths: Sequence[str]) -> bytes:
    """Return the frame with the paths whose content is the same for every job of a sandbox."""
    return frame(b"T", b"".join(os.fsencode(path) + b"\0" for path in paths))


def why_not_held(payload: bytes) -> str:
    """Parse ``P``: return why a program cannot be held, or ``""``."""
    number = int.from_bytes(payload, "little")
    return f"the init cannot hold a program: {os.strerror(number)}" if number else ""


def open_frame(path: str, flags: int, mode: int) -> bytes:
    """Return the frame that opens a path beneath the workspace.

    Raises OSError and ValueError, as `os.open`, for what cannot be a path.
    """
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("embedded null byte")
    if len(name) >= PATH_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
    return frame(b"O", struct.pack("<II", flags, mode) + name + b"\0")


def parse_end(payload: bytes) -> RunEnd:
    """Parse ``X``."""
    cause, status, cpu, peak_process, peak_tree, wall = _END.unpack(payload)
    return RunEnd(status, _CAUSES[cause], cpu, max(peak_process, peak_tree), wall)


def use_frame(*, walk_disk: bool, of_run: bool) -> bytes:
    flags = (WALK_DISK if walk_disk else 0) | (OF_RUN if of_run else 0)
    return frame(b"U", struct.pack("<I", flags))


def parse_use(payload: bytes) -> Use:
    """Parse ``U``."""
    return Use(*struct.unpack("<QQQQ", payload))


def failure(payload: bytes) -> str:
    """Return the message of ``E``: what the init could not do, and why."""
    stage, number = chr(payload[0]), int.from_bytes(payload[1:5], "little")
    what = _STAGES.get(stage, "follow the protocol")
    return f"the init could not {what}: {os.strerror(number)}"


def why_not_hello(payload: bytes) -> str:
    """Return why an init cannot be used, by the payload of its hello; ``""`` if it can."""
    if payload[:1] != bytes([PROTOCOL]):
        return OTHER_BUILD
    return "" if payload[1] & SEES_PROC else BLIND
