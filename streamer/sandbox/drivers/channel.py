"""Our end of the socket to one init: send frames (`protocol`), and receive its answers."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import struct
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from streamer.errors import SandboxFailure
from streamer.model.job import Limits, SourceFile, TerminalSize
from streamer.sandbox.drivers import protocol
from streamer.sandbox.drivers.protocol import frame
from streamer.sandbox.shape import LargeFile, RunEnd, Use

__all__ = ["InitChannel"]

_LAST_WORDS: Final = 8
"""How many reads to try for what an init said before it closed the socket."""
_CREDENTIALS: Final = struct.Struct("iII")
_DESCRIPTOR: Final = struct.Struct("i")
_ANCILLARY_BYTES: Final = sum(socket.CMSG_SPACE(part.size) for part in (_CREDENTIALS, _DESCRIPTOR))
_HELD_BYTES: Final = 128 * 1024
"""As much fits into the socket's buffer at once (net.core.wmem_default)."""
T = TypeVar("T")


class InitChannel:
    """Our end of the socket to one init. Owned by one sandbox, which closes it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._frames = protocol.Frames(protocol.MAX_ANSWER)
        self._sending = asyncio.Lock()
        self._held = bytearray()
        """Small frames that are sent with the next one."""
        self._cut = False
        self._room: asyncio.Future[None] | None = None
        self._why = ""
        # For many to wait for, so they must not be cancelled: use `asyncio.wait`. Each fails with
        # `SandboxFailure` if the init is gone.
        self.greeted: asyncio.Future[int] = self._loop.create_future()
        """The process id of the init, as this process sees it."""
        self.unbounded = False
        """Whether the init could not limit inotify for its sandbox, which it should."""
        self.is_first = False
        """Whether the init is pid 1 of its namespace."""
        self.exited: asyncio.Future[None] = self._loop.create_future()
        """The end of the program itself; processes that it started may run on."""
        self.ended: asyncio.Future[RunEnd] = self._loop.create_future()
        """Done when the program and everything it started are dead; fails if it could not run."""
        self.held: asyncio.Future[None] = self._loop.create_future()
        """Done when a program that was started with `protocol.HOLD` has come to where it waits.

        With `protocol.GATE` it is, at once."""
        # Answers come in the order of the questions, also if nobody waits any more.
        self._checking: deque[asyncio.Future[bytes]] = deque()
        self._listening: deque[asyncio.Future[int]] = deque()
        self._opening: deque[asyncio.Future[int]] = deque()
        self._terminals: deque[asyncio.Future[int]] = deque()
        self._asking: deque[asyncio.Future[Use]] = deque()
        self._releasing: deque[asyncio.Future[bytes]] = deque()
        self._descriptors: list[int] = []
        self.gone = asyncio.Event()
        """Set when the init is gone."""
        self._loop.add_reader(sock.fileno(), self._receive)

    async def put_filter(self, program: bytes) -> None:
        """Install a system call filter for every program; once, before the first `start`.

        `program` is an array of ``struct sock_filter`` (seccomp(2)).
        """
        await self._send_with_next(frame(b"B", program))

    async def watch_mounts(self, paths: Sequence[str]) -> None:
        """Count the content of these mounts of the sandbox as its programs' use."""
        if paths:
            mounts = b"".join(os.fsencode(path) + b"\0" for path in paths)
            await self._send_with_next(frame(b"M", mounts))

    async def know_same(self, paths: Sequence[str]) -> None:
        """Let programs that are held read these paths: they are the same for every job."""
        await self._send_with_next(protocol.same_frame(paths))

    async def put_files(
        self,
        files: Sequence[SourceFile],
        limits: Limits,
        *,
        walk_disk: bool,
        project: int | None = None,
    ) -> None:
        """Write files into the workspace and wait until they exist, while no program runs.

        They lie over the stored project in the descriptor `project`, if there is one. `walk_disk`
        is `protocol.WALK_DISK`. Raises `FilesDoNotFit`, `PathRefused`, or `SandboxFailure` for
        another reason; then none of them is left.
        """
        await self._send_with_next(protocol.quota_frame(limits))
        if project is not None:
            async with self._sending:
                await self._send_next(frame(b"Z"), (project,))
        for part in protocol.file_frames(files):
            await self._send_with_next(part)
        question = protocol.check_frame(limits, walk_disk=walk_disk)
        protocol.check_files(await self._answered(question, self._checking), walk_disk=walk_disk)

    async def put_file(self, file: LargeFile, limits: Limits, *, walk_disk: bool) -> None:
        """Write one file as `put_files` does; it is not held in memory.

        It is not left there either if its pieces raise an error.
        """
        await self._send_with_next(protocol.quota_frame(limits))
        for head in protocol.file_frames([SourceFile(file.name, b"", file.mode)]):
            await self._send_with_next(head)
        question = protocol.check_frame(limits, walk_disk=walk_disk)
        try:
            async for piece in file.pieces:
                await self._send_with_next(frame(b"A", piece))
        except OSError:
            # This is no file, and if one is not written all are removed.
            await self._send_with_next(frame(b"F"))
            await self._answered(question, self._checking)
            raise
        protocol.check_files(await self._answered(question, self._checking), walk_disk=walk_disk)

    async def check_rest(self, limits: Limits, *, walk_disk: bool) -> None:
        """Raise `FilesDoNotFit` if what goes on between programs has written too much."""
        question = protocol.check_frame(limits, walk_disk=walk_disk, rest_only=True)
        protocol.check_files(await self._answered(question, self._checking), walk_disk=walk_disk)

    async def listen(self, port: int) -> socket.socket:
        """Let the init listen on a TCP port of its loopback, and return the socket.

        The caller must close it.
        """
        fd = await self._descriptor(frame(b"N", struct.pack("<H", port)), self._listening)
        return socket.socket(fileno=fd)

    async def open_path(self, path: str, flags: int, mode: int) -> int:
        """Let the init open a path beneath the workspace, and return the descriptor.

        The caller must close it. Raises OSError with the init's reason.
        """
        return await self._descriptor(protocol.open_frame(path, flags, mode), self._opening)

    async def open_terminal(self, size: TerminalSize) -> int:
        """Prepare the terminal of the next program, and return our end of it.

        The caller must close it.
        """
        return await self._descriptor(protocol.terminal_frame(size), self._terminals)

    async def use(self, *, walk_disk: bool, of_run: bool = False) -> Use:
        question = protocol.use_frame(walk_disk=walk_disk, of_run=of_run)
        return await self._answered(question, self._asking)

    async def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        limits: Limits,
        stdio: tuple[int, int, int] | None,
        flags: int,
    ) -> None:
        """Run a program with these standard descriptors; the caller must close them.

        Without them it runs on the terminal of `open_terminal`.

        `flags` are those of ``R`` (`protocol`).
        """
        async with self._sending:
            if self.gone.is_set():
                raise SandboxFailure(self._why)
            self.exited = self._loop.create_future()
            self.ended = self._loop.create_future()
            self.held = self._loop.create_future()
            if stdio is None:
                flags |= protocol.TERMINAL
            run = protocol.run_frame(argv, env, cwd, limits, flags=flags)
            await self._send_next(frame(b"D") + run, stdio or ())
            if flags & protocol.GATE:
                _answer(self.held, None)

    async def release(self) -> bool:
        """Let a program go on that is held, or on its way to that; False if it has ended before."""
        if self.held.done() and self.held.exception() is None:
            if not self._held and self._post(b"G"):
                return True
            async with self._sending:
                await self._send_next(frame(b"G"))
            return True
        return await self._answered(frame(b"G", b"?"), self._releasing) == b"\1"

    async def end_at(self, until_us: int) -> None:
        """Let the next program run until then, or until a later time that `go_on` tells."""
        await self._send_with_next(frame(b"L", struct.pack("<Q", until_us)))

    def go_on(self, until_us: int) -> bool:
        return self._post(b"L", struct.pack("<Q", until_us))

    def signal(self, number: int) -> bool:
        return self._post(b"S", struct.pack("<I", number))

    def kill(self) -> bool:
        """Kill the program and everything it started; `ended` is done when they are dead."""
        return self._post(b"K")

    def leave(self) -> bool:
        """Let go on what a program that has exited left (`protocol.KEEP`); then `ended` is done."""
        return self._post(b"V")

    def close(self) -> None:
        """Close the socket: the init kills what is left and exits."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            if self._room is not None:
                self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
            if self._room is not None:
                _answer(self._room, None)  # what is being sent fails then
        while self._descriptors:
            os.close(self._descriptors.pop())
        self._fail("the channel was closed")

    def _post(self, kind: bytes, payload: bytes = b"") -> bool:
        """Send a short frame now; return False if it would end up inside another frame."""
        if self._cut or self._sock.fileno() < 0:
            return False
        whole = frame(kind, payload)
        try:
            return self._sock.send(whole) == len(whole)
        except OSError:
            return False

    async def _ask(self, question: bytes, waiting: deque[asyncio.Future[T]]) -> asyncio.Future[T]:
        answer: asyncio.Future[T] = self._loop.create_future()
        async with self._sending:
            if self.gone.is_set():
                raise SandboxFailure(self._why)
            waiting.append(answer)
            await self._send_next(question)
        return answer

    async def _answered(self, question: bytes, waiting: deque[asyncio.Future[T]]) -> T:
        return await (await self._ask(question, waiting))

    async def _descriptor(self, question: bytes, waiting: deque[asyncio.Future[int]]) -> int:
        answer = await self._ask(question, waiting)
        try:
            return await answer
        except asyncio.CancelledError:
            # It may have arrived just before; then nobody else knows of it.
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                os.close(answer.result())
            raise

    async def _send_with_next(self, whole: bytes) -> None:
        """Send a small frame together with the next one: each send wakes the init."""
        async with self._sending:
            self._check_uncut()
            if len(self._held) + len(whole) > _HELD_BYTES:
                await self._send_next(whole)
            else:
                self._held += whole

    async def _send_next(self, whole: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a frame, after those that were held back, and descriptors beside its first bytes.

        If a cancellation cuts it short, no other frame can follow.
        """
        self._check_uncut()
        left = memoryview(self._held + whole)
        if descriptors:
            first = functools.partial(socket.send_fds, self._sock, [left], descriptors)
            left = left[await self._sent(first) :]
        self._held.clear()
        self._cut = True
        while left:
            left = left[await self._sent(functools.partial(self._sock.send, left)) :]
        self._cut = False

    def _check_uncut(self) -> None:
        if self._cut:
            raise SandboxFailure("the init did not accept an earlier frame")

    async def _sent(self, send: Callable[[], int]) -> int:
        """Call a function that sends, as soon as there is room; return how much it has sent.

        Raises `SandboxFailure` if the init hangs up, or `close` is called.
        """
        while True:
            try:
                return send()
            except BlockingIOError:  # the socket's buffer may be full of files
                await self._writable()
            except OSError as error:
                raise self._hung_up(error) from error

    def _hung_up(self, error: OSError) -> SandboxFailure:
        """Return why a send failed: the init's last message may not be read yet."""
        for _ in range(_LAST_WORDS):
            if not self.gone.is_set():
                self._receive()
        return SandboxFailure(self._why or f"the init hung up: {error}")

    async def _writable(self) -> None:
        self._room = self._loop.create_future()
        self._loop.add_writer(self._sock.fileno(), _answer, self._room, None)
        try:
            await self._room
        finally:
            if self._sock.fileno() >= 0:
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
            self._hear_no_more("the init ended")
            return
        for level, type_, attached in ancillary:
            if (level, type_) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(attached) - len(attached) % _DESCRIPTOR.size
                self._descriptors += array("i", attached[:whole])
        asked = len(self._listening) + len(self._opening) + len(self._terminals)
        if len(self._descriptors) > asked:
            self._hear_no_more("the init sent a descriptor without a question")
            return
        try:
            for kind, payload in self._frames.feed(data):
                self._handle(kind, payload, ancillary)
        except SandboxFailure as failure:
            self._hear_no_more(failure.message)

    def _hear_no_more(self, why: str) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._fail(why)

    def _handle(self, kind: bytes, payload: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
        if kind == b"H":
            self._greet(payload, ancillary)
        elif kind in (b"L", b"Y"):
            self._hand_over(self._listening if kind == b"L" else self._terminals)
        elif kind == b"O":
            number = int.from_bytes(payload, "little")
            self._hand_over(self._opening, OSError(number, os.strerror(number)) if number else None)
        elif kind == b"U":
            _answer_first(self._asking, protocol.parse_use(payload))
        elif kind in (b"C", b"G"):
            _answer_first(self._checking if kind == b"C" else self._releasing, payload)
        elif kind == b"W":
            _answer(self.exited, None)
        elif kind == b"X":
            _fail(self.held, "the program has ended")
            _answer(self.exited, None)
            _answer(self.ended, protocol.parse_end(payload))
        elif kind == b"P":
            self._hold(protocol.why_not_held(payload))
        elif kind == b"E":
            self._fail(protocol.failure(payload))

    def _hold(self, why_not: str) -> None:
        if why_not:
            _fail(self.held, why_not)
        else:
            _answer(self.held, None)

    def _hand_over(
        self, waiting: deque[asyncio.Future[int]], refused: OSError | None = None
    ) -> None:
        """Give the descriptor that came with this frame to the first waiter."""
        if not waiting:
            self._fail("the init sent an answer without a question")
            return
        asked = waiting.popleft()
        if refused is not None:
            if not asked.done():
                asked.set_exception(refused)
        elif not self._descriptors:
            _fail(asked, "the init sent no descriptor")
        elif asked.done():  # nobody waits any more
            os.close(self._descriptors.pop())
        else:
            asked.set_result(self._descriptors.pop())

    def _greet(self, payload: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
        if why := protocol.why_not_hello(payload):
            self._fail(why)
            return
        self.unbounded = bool(payload[1] & protocol.UNBOUNDED)
        self.is_first = bool(payload[1] & protocol.FIRST)
        for level, type_, data in ancillary:
            if (level, type_) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                _answer(self.greeted, _CREDENTIALS.unpack(data)[0])

    def _fail(self, why: str) -> None:
        self._why = self._why or why
        self.gone.set()
        waiting: list[asyncio.Future[Any]] = [self.greeted, self.exited, self.ended, self.held]
        waiting += [*self._listening, *self._opening, *self._terminals]
        waiting += self._checking
        waiting += [*self._asking, *self._releasing]
        for future in waiting:
            _fail(future, why)


def _answer(future: asyncio.Future[T], value: T) -> None:
    """Set a result, unless the future is done or cancelled."""
    if not future.done():
        future.set_result(value)


def _answer_first(waiting: deque[asyncio.Future[T]], value: T) -> None:
    """Give an answer to the first that waits, which may have given up."""
    if waiting:
        _answer(waiting.popleft(), value)


def _fail(future: asyncio.Future[Any], why: str) -> None:
    if not future.done():
        future.set_exception(SandboxFailure(why))
        future.exception()  # marked as retrieved, since nobody may be waiting
