"""Speak with the init inside a sandbox (``init/streamer-init.c``).

Frames on a Unix stream socket, both ways: u32 length of what follows, u8 type,
payload; integers are little endian. To the init: ``B`` a filter of system calls for
its programs, ``M`` mounts to watch, ``Q`` how many files may come, ``F`` a file, ``A`` more
of it, ``C`` ask whether all files are written, ``D`` (descriptors attached), ``N`` listen on
a port, ``R`` run a program, ``S`` signal it, ``K`` kill everything. From it: ``H`` hello,
``C`` the answer, ``L`` the listening socket (attached), ``S`` started, ``W`` the program has
ended and left others running, ``X`` the end of all, ``E`` a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
import socket
import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from streamer.errors import SandboxFailure
from streamer.model.job import Limits, SourceFile
from streamer.sandbox.netns import check_own_network

__all__ = ["KILLED_FOR_MEMORY", "FilesDoNotFit", "InitChannel", "ProgramEnd", "rlimits"]

BYTES_PER_INODE: Final = 4096
MIN_INODES: Final = 10_000
"""As many files as the disk limit has pages, and never fewer than a project needs."""
MAX_INODES: Final = 2**32 - 1
"""What the init's frames have room for; more than any file system has."""

PROTOCOL: Final = 3
"""The init says which it speaks; in an editable installation it may be an old build."""

PENDING_SIGNALS: Final = 1024

BLIND: Final = (
    "the init cannot see the sandbox's processes, so no limit of it would hold: /proc there is not "
    "its own. In a container whose /proc is masked none can be mounted: start that container with "
    "an unmasked one (docker run --security-opt systempaths=unconfined)"
)

OTHER_BUILD: Final = (
    "streamer/sandbox/init/streamer-init was built from other sources than this service: "
    "build it again (pip install ., or `make setup` in the repository)"
)

_FILE_CHUNK: Final = 256 * 1024
_LAST_WORDS: Final = 8
"""How many reads are tried for what an init said before it hung up."""
_END: Final = struct.Struct("<cIQQQQ")
_CREDENTIALS: Final = struct.Struct("iII")
_DESCRIPTOR: Final = struct.Struct("i")
_ANCILLARY_BYTES: Final = sum(socket.CMSG_SPACE(part.size) for part in (_CREDENTIALS, _DESCRIPTOR))
_U64_MAX: Final = 2**64 - 1
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ProgramEnd:
    """How one program ended, from the kernel.

    `status` is the raw wait status (wait(2)); `cause` says who ended it: itself
    (None), the init because a limit of the whole tree was passed, or we (``killed``).
    Times in microseconds, sizes in bytes; None where nobody could measure it.
    """

    status: int
    cause: Literal["cpu_time", "memory", "disk", "killed"] | None
    cpu_time_us: int | None
    peak_memory_bytes: int | None
    wall_us: int


class FilesDoNotFit(Exception):
    """The files that a job came with are over its disk limit."""


KILLED_FOR_MEMORY: Final = ProgramEnd(signal.SIGKILL, "memory", None, None, 0)
"""The kernel killed the init too, or what the job had was over the limit before it began."""


_CAUSES: Final[dict[bytes, Literal["cpu_time", "memory", "disk", "killed"] | None]] = {
    b"-": None,
    b"c": "cpu_time",
    b"m": "memory",
    b"d": "disk",
    b"k": "killed",
}
_STAGES: Final = {
    "b": "put the filter of system calls on the program, which did not run",
    "n": "listen for the proxy",
    "r": "start the program",
}


def rlimits(limits: Limits) -> list[tuple[int, int, int]]:
    """Return the (resource, soft, hard) triples of setrlimit(2) that stand for `limits`.

    They bound single processes and back up what is watched for the whole tree. There
    is none for memory: RLIMIT_AS counts reservations and kills the JVM and Node.js.
    """
    cpu = int(limits.cpu_time_s) + 1
    return [
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_FSIZE, limits.file_bytes, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files, limits.open_files),
        # The init counts too: it has the same user.
        (resource.RLIMIT_NPROC, limits.processes + 1, limits.processes + 1),
        (resource.RLIMIT_CORE, 0, 0),
        # A program may raise it: what it uses counts to the memory.
        (resource.RLIMIT_STACK, limits.stack_bytes, _U64_MAX),
        # An ordinary user's jobs share that account's number of these with each other and with
        # its other programs: timers and queued signals, and bytes of message queues.
        (resource.RLIMIT_SIGPENDING, PENDING_SIGNALS, PENDING_SIGNALS),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
    ]


class InitChannel:
    """Our end of the socket of one init. Owned by one sandbox, which closes it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._busy = False
        self._why = ""
        self._hello: asyncio.Future[int] = self._loop.create_future()
        self._files: asyncio.Future[int] = self._loop.create_future()
        self._exited: asyncio.Future[None] = self._loop.create_future()
        self._end: asyncio.Future[ProgramEnd] = self._loop.create_future()
        self._listening: asyncio.Future[None] = self._loop.create_future()
        self._descriptors: list[int] = []
        self.gone = asyncio.Event()
        """Set when the init is no longer there."""
        self._loop.add_reader(sock.fileno(), self._receive)

    async def hello(self) -> int:
        """Wait for the init and return its process id, as this process sees it.

        Raises `SandboxFailure` when the sandbox ended without it.
        """
        return await asyncio.shield(self._hello)

    async def put_filter(self, program: bytes) -> None:
        """Put a filter of system calls on every program; once, before the first `start`.

        `program` is an array of ``struct sock_filter`` (seccomp(2)).
        """
        await self._send(b"B", program)

    async def watch_mounts(self, paths: Sequence[str]) -> None:
        """Count what is in these mounts of the sandbox's own to its programs' use."""
        if paths:
            await self._send(b"M", b"".join(os.fsencode(path) + b"\0" for path in paths))

    async def put_files(
        self, files: Sequence[SourceFile], limits: Limits, *, walk_disk: bool
    ) -> None:
        """Write files into the workspace and wait until they are there; once, before `start`.

        `walk_disk` as for `start`. Raises `FilesDoNotFit`, and `SandboxFailure` where the fault is
        the host's; no program can be started then.
        """
        if files:
            await self._send(b"Q", struct.pack("<I", _inodes(limits)))
        for file in files:
            head = struct.pack("<I", file.mode) + file.name.encode() + b"\0"
            await self._send(b"F", head + file.content[:_FILE_CHUNK])
            for at in range(_FILE_CHUNK, len(file.content), _FILE_CHUNK):
                await self._send(b"A", file.content[at : at + _FILE_CHUNK])
        await self._send(b"C", struct.pack("<QII", limits.disk_bytes, _inodes(limits), walk_disk))
        number = await asyncio.shield(self._files)
        # A mount of its own is full when the limit is reached. A full disk of the host is ours.
        if number == errno.EDQUOT or (number == errno.ENOSPC and not walk_disk):
            raise FilesDoNotFit
        if number:
            raise SandboxFailure(f"the init could not write a file: {os.strerror(number)}")

    async def listen(self, port: int) -> socket.socket:
        """Have the init listen on a TCP port of its loopback, and return the socket.

        Once for each init. The socket is the caller's to close. Raises `SandboxFailure`, also
        when the init shares our network.
        """
        await self._send(b"N", struct.pack("<H", port))
        await asyncio.shield(self._listening)
        if not self._descriptors:
            raise SandboxFailure("the init sent no socket")
        with contextlib.ExitStack() as unless_it_serves:
            listener = socket.socket(fileno=self._descriptors.pop())
            unless_it_serves.callback(listener.close)
            check_own_network(listener)
            unless_it_serves.pop_all()
        return listener

    async def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        limits: Limits,
        stdio: tuple[int, int, int],
        walk_disk: bool,
    ) -> None:
        """Run a program with these standard descriptors; they stay the caller's to close.

        `walk_disk` says that the workspace is a folder among others of the host, so that
        its use has to be counted; else it is a mount of its own.
        """
        if self.gone.is_set():
            self._end.result()
        self._exited = self._loop.create_future()
        self._end = self._loop.create_future()
        triples = rlimits(limits)
        variables = [f"{name}={value}" for name, value in env.items()]
        strings = b"".join(os.fsencode(text) + b"\0" for text in (cwd, *argv, *variables))
        payload = struct.pack(
            "<QQQIIIII",
            min(int(limits.cpu_time_s * 1e6), _U64_MAX),
            limits.memory_bytes,
            limits.disk_bytes,
            _inodes(limits),
            walk_disk,
            len(triples),
            len(argv),
            len(variables),
        )
        payload += b"".join(struct.pack("<IQQ", *triple) for triple in triples)
        await self._send_descriptors(stdio)
        await self._send(b"R", payload + strings)

    async def exited(self) -> None:
        """Wait for the end of the program itself; what it started may go on.

        Raises `SandboxFailure` as `end`.
        """
        await asyncio.shield(self._exited)

    async def end(self) -> ProgramEnd:
        """Wait for the end of the program; everything it started is dead by then.

        Raises `SandboxFailure` when the init vanished or could not run it.
        """
        return await asyncio.shield(self._end)

    def signal(self, number: int) -> bool:
        """Send a signal to the program's process group."""
        return self._post(b"S", struct.pack("<I", number))

    def kill(self) -> bool:
        """Kill the program and everything it started; `end` tells when it is done."""
        return self._post(b"K")

    def close(self) -> None:
        """Hang up: the init kills whatever is left and ends."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
        while self._descriptors:
            os.close(self._descriptors.pop())
        self._fail("the channel was closed")

    def _post(self, kind: bytes, payload: bytes = b"") -> bool:
        """Send a short frame now; False when it would cut into another frame."""
        if self._busy or self._sock.fileno() < 0:
            return False
        frame = struct.pack("<I", 1 + len(payload)) + kind + payload
        try:
            return self._sock.send(frame) == len(frame)
        except OSError:
            return False

    async def _send(self, kind: bytes, payload: bytes) -> None:
        self._busy = True
        try:
            await self._loop.sock_sendall(
                self._sock, struct.pack("<I", 1 + len(payload)) + kind + payload
            )
        except OSError as error:
            raise self._hung_up(error) from error
        self._busy = False

    async def _send_descriptors(self, stdio: tuple[int, int, int]) -> None:
        frame = struct.pack("<I", 1) + b"D"
        while True:
            try:
                socket.send_fds(self._sock, [frame], stdio)
            except BlockingIOError:  # files fill the socket up to here
                await self._writable()
            except OSError as error:
                raise self._hung_up(error) from error
            else:
                return

    def _hung_up(self, error: OSError) -> SandboxFailure:
        """Return the failure of a send: what the init said before it may not be read yet."""
        for _ in range(_LAST_WORDS):
            if not self.gone.is_set():
                self._receive()
        return SandboxFailure(self._why or f"the init hung up: {error}")

    async def _writable(self) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_writer(self._sock.fileno(), _settle, ready, None)
        try:
            await ready
        finally:
            self._loop.remove_writer(self._sock.fileno())

    def _receive(self) -> None:
        try:
            data, ancillary, _, _ = self._sock.recvmsg(
                65536, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, ancillary = b"", []
        if not data:
            self._loop.remove_reader(self._sock.fileno())
            self._fail("the init ended")
            return
        for level, type_, attached in ancillary:
            if (level, type_) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(attached) - len(attached) % _DESCRIPTOR.size
                self._descriptors += array("i", attached[:whole])
        self._buffer += data
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "little")
            if len(self._buffer) < 4 + size:
                break
            frame = bytes(self._buffer[4 : 4 + size])
            del self._buffer[: 4 + size]
            self._handle(frame[:1], frame[1:], ancillary)

    def _handle(self, kind: bytes, payload: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
        if kind == b"H":
            self._greet(payload, ancillary)
        elif kind == b"L":
            _settle(self._listening, None)
        elif kind == b"C":
            _settle(self._files, int.from_bytes(payload, "little"))
        elif kind == b"W":
            _settle(self._exited, None)
        elif kind == b"X":
            cause, status, cpu, peak_process, peak_tree, wall = _END.unpack(payload)
            end = ProgramEnd(status, _CAUSES[cause], cpu, max(peak_process, peak_tree), wall)
            _settle(self._exited, None)
            _settle(self._end, end)
        elif kind == b"E":
            stage, number = chr(payload[0]), int.from_bytes(payload[1:5], "little")
            what = _STAGES.get(stage, "follow the protocol")
            self._fail(f"the init could not {what}: {os.strerror(number)}")

    def _greet(self, payload: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
        if payload[:1] != bytes([PROTOCOL]):
            self._fail(OTHER_BUILD)
        elif payload[1:2] != b"\1":
            self._fail(BLIND)
        for level, type_, data in ancillary:
            if (level, type_) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                _settle(self._hello, _CREDENTIALS.unpack(data)[0])

    def _fail(self, why: str) -> None:
        self._why = self._why or why
        self.gone.set()
        for future in (self._hello, self._files, self._listening, self._exited, self._end):
            if not future.done():
                future.set_exception(SandboxFailure(why))
                future.exception()  # retrieved here: nobody may be waiting


def _inodes(limits: Limits) -> int:
    return min(max(MIN_INODES, limits.disk_bytes // BYTES_PER_INODE), MAX_INODES)


def _settle(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)
