"""Drive a template: a sandbox that stays, inside which our init makes the sandboxes of jobs.

The messages are described in ``init/template.c``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import signal
import socket
import struct
import subprocess
from array import array
from collections import deque
from collections.abc import Sequence
from typing import ClassVar, Final

from streamer.bounded import ends_in
from streamer.errors import SandboxFailure
from streamer.sandbox.drivers.forking import become
from streamer.sandbox.drivers.gated import Ends, Gated, opened_ends
from streamer.sandbox.drivers.protocol import OTHER_BUILD, PROTOCOL
from streamer.sandbox.drivers.spawn import Spawned, spawn
from streamer.sandbox.shape import Program
from streamer.spi import TemplatePlan

__all__ = ["Child", "Template"]

log: Final = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 20.0
"""As for a sandbox (`gated`)."""
ANSWER_TIMEOUT_S: Final = 20.0
"""A template that has not made a job's first process by then is ended."""
END_TIMEOUT_S: Final = 5.0

CLONE_INTO: Final = 1
"""Flag of a message: the third descriptor is the folder of a control group of version 2."""
WITH_TERMINAL: Final = 4
"""Flag of a message: the init opens a terminal for its programs."""

_CREDENTIALS: Final = struct.Struct("iII")
_FD: Final = struct.Struct("i")
_ANCILLARY_BYTES: Final = sum(socket.CMSG_SPACE(part.size) for part in (_CREDENTIALS, _FD))
_MESSAGE_BYTES: Final = 64
_STDERR_BYTES: Final = 4096


class Template:
    """One template. Its owner must close it, which ends all sandboxes in it too."""

    def __init__(
        self, plan: TemplatePlan, command: Sequence[str], program: Program | None = None
    ) -> None:
        """Start it: `command` is that of the plan, begun as its user.

        With a `program` it becomes that, whose copies are the program of each job (`forking`).
        Raises `SandboxFailure` if it cannot be started.
        """
        self.plan = plan
        self.program = program
        self.until = math.inf
        """When its owner will replace it, on the clock of `time.monotonic`."""
        self._loop = asyncio.get_running_loop()
        self._hello: asyncio.Future[int] = self._loop.create_future()
        self._became: asyncio.Future[int] = self._loop.create_future()
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._reserved: list[int] = []
        """Descriptors that make room for those to come: of a process without one nothing tells
        when it has ended."""
        self._pidfd = -1
        self.gone = asyncio.Event()
        """Set when it is dead, and everything in it."""
        with contextlib.ExitStack() as unless_started:
            self._complaints, stderr = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            unless_started.callback(os.close, self._complaints)
            self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            unless_started.callback(self._sock.close)
            self._reserve()
            unless_started.callback(self._free_one)
            with theirs, contextlib.ExitStack() as ours_no_more:
                ours_no_more.callback(os.close, stderr)
                self._sock.setblocking(False)
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                try:
                    self._wrapper: Spawned = spawn(
                        command,
                        env=plan.launch.env,
                        cwd=plan.launch.cwd,
                        stdin=theirs.fileno(),
                        stdout=subprocess.DEVNULL,
                        stderr=stderr,
                    )
                except OSError as error:
                    raise SandboxFailure(f"{command[0]} cannot be started: {error}") from error
            unless_started.pop_all()
        self._loop.add_reader(self._sock.fileno(), self._receive)
        self._reaping = asyncio.ensure_future(self._wrapper.wait())
        self._reaping.add_done_callback(lambda _: self._look_if_gone())

    @property
    def alive(self) -> bool:
        """Whether it could make a sandbox, as far as we have heard."""
        return self._sock.fileno() >= 0 and self._wrapper.exit_code is None

    @property
    def pids(self) -> frozenset[int]:
        """Its processes: the wrapper and, once it has come up, the init."""
        init = {self._hello.result()} if _is_answered(self._hello) else set()
        return frozenset({self._wrapper.pid, *init})

    @property
    def descriptors(self) -> frozenset[int]:
        """The descriptors that this process has for it."""
        fds = (self._sock.fileno(), self._complaints, self._pidfd, self._wrapper.pidfd)
        return frozenset(fd for fd in (*fds, *self._reserved) if fd >= 0)

    async def come_up(self) -> None:
        """Wait for its init. Raises `SandboxFailure` with what it said instead."""
        await self._answers(self._hello)
        # It waits for us, so its process id cannot have been reused.
        self._free_one()
        self._pidfd = os.pidfd_open(self._hello.result())
        self._loop.add_reader(self._pidfd, self._init_has_ended)
        if self.program is not None:
            try:
                become(self._sock, self.program, self.plan.launch.workspace)
            except OSError as error:
                raise SandboxFailure(f"the template starts no program: {error}") from error
            await self._answers(self._became)

    async def _answers(self, hello: asyncio.Future[int]) -> None:
        await asyncio.wait(
            {self._reaping, hello},
            timeout=START_TIMEOUT_S,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not _is_answered(hello):
            self._fail("the template did not start")
            await ends_in(END_TIMEOUT_S, self._wrapper.wait())
            failure = hello.exception()
            raise SandboxFailure(f"{failure}: {self.said() or 'the wrapper said nothing'}")

    def said(self) -> str:
        """Return the standard error of the wrapper and the init."""
        with contextlib.suppress(OSError):
            return os.read(self._complaints, _STDERR_BYTES).decode(errors="replace").strip()
        return ""

    def sandbox(
        self,
        plan: TemplatePlan,
        group: str,
        entry_fds: Sequence[int],
        *,
        by_group: int,
        terminal: bool = False,
    ) -> Gated:
        """Let it make a sandbox, which has not come up yet; the caller must close that.

        `plan` may have other sizes than that of the template. `group` is the folder of a control
        group of version 2, or ``""``; `entry_fds` are the files through which a process enters its
        groups; `by_group` is as in `Gated`. With `terminal` its programs can have one. Raises
        `SandboxFailure` if the template is gone.
        """
        with opened_ends() as ends:
            flags = (CLONE_INTO if group else 0) | (WITH_TERMINAL if terminal else 0)
            child = Child(self, self._ask(plan, ends, group, entry_fds, flags))
            return Gated(
                plan.launch,
                ends,
                child,
                walk_disk=False,
                by_group=by_group,
                forked_from=self.program,
            )

    def _ask(
        self, plan: TemplatePlan, ends: Ends, group: str, entry_fds: Sequence[int], flags: int
    ) -> asyncio.Future[int]:
        message = _message(plan, flags)
        fds = [ends.control, ends.stderr]
        with contextlib.ExitStack() as unless_asked, contextlib.ExitStack() as opened:
            try:
                self._reserve()
                unless_asked.callback(self._free_one)
                if group:
                    fds.append(os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                    opened.callback(os.close, fds[-1])
                socket.send_fds(self._sock, [message], [*fds, *entry_fds])
            except OSError as error:
                raise SandboxFailure(f"the template takes no job: {error}") from error
            unless_asked.pop_all()
        answer: asyncio.Future[int] = self._loop.create_future()
        self._waiting.append(answer)
        return answer

    def _reserve(self) -> None:
        self._reserved.append(os.dup(self._complaints))

    def _free_one(self) -> None:
        if self._reserved:
            os.close(self._reserved.pop())

    def _receive(self) -> None:
        """Take all messages: a deadline that passes in the same turn must not miss an answer."""
        while (message := self._next_message()) is not None:
            data, pid, fds = message
            hello = self._became if self._hello.done() and self.program else self._hello
            if data == bytes([ord("H"), PROTOCOL]) and not hello.done():
                hello.set_result(pid)
            elif data[:1] == b"J" and self._waiting:
                self._hand_over(int.from_bytes(data[1:5], "little"), fds)
            else:
                self._fail(OTHER_BUILD if data else "the template has ended")
            for fd in fds:
                os.close(fd)
            if not self._waiting:
                break

    def _next_message(self) -> tuple[bytes, int, array[int]] | None:
        """Return a message, who has sent it, and its descriptors; empty if there will be none."""
        if self._waiting:
            self._free_one()
        try:
            data, ancillary, _, _ = self._sock.recvmsg(
                _MESSAGE_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            if self._waiting:
                with contextlib.suppress(OSError):  # another thread was faster
                    self._reserve()
            return None
        except OSError:
            data, ancillary = b"", []
        pid, fds = 0, array("i")
        for level, kind, attached in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid = _CREDENTIALS.unpack(attached)[0]
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(attached[: len(attached) - len(attached) % _FD.size])
        return data, pid, fds

    def _hand_over(self, number: int, fds: array[int]) -> None:
        """Give the pidfd to whom it belongs."""
        answer = self._waiting.popleft()
        if fds and not number:
            answer.set_result(fds.pop())
            return
        if not number:
            # A child lives of which only the end of the template will tell that it has ended.
            self._fail("this process was out of descriptors")
            number = errno.EMFILE
        why = f"the template made no sandbox: {os.strerror(number)}"
        log.warning(why)
        answer.set_exception(SandboxFailure(why))
        answer.exception()  # marked as retrieved, since nobody may be waiting

    def _fail(self, why: str) -> None:
        self.abandon()
        for future in (self._hello, self._became, *self._waiting):
            if not future.done():
                future.set_exception(SandboxFailure(why))
                future.exception()
        self._waiting.clear()

    def _init_has_ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self._look_if_gone()

    def _look_if_gone(self) -> None:
        """The first process of a namespace is dead only after all others in it."""
        if self._wrapper.exit_code is not None and self._pidfd < 0:
            self._fail("the template has ended")
            self.gone.set()

    def abandon(self) -> None:
        """Close the socket: the template exits, and with it everything in it dies."""
        if self._sock.fileno() >= 0:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
        while self._reserved:
            self._free_one()

    def kill(self) -> None:
        self._fail("the template was ended")
        self._wrapper.kill()  # which the template does not survive

    async def gone_or_alive(self) -> None:
        """If it ends, wait until it is dead."""
        if not self.alive:
            await self.gone.wait()

    async def close(self) -> bool:
        """End it, and wait until it is dead; return False if it resists. Idempotent."""
        self._fail("the template was closed")
        ended = await ends_in(END_TIMEOUT_S, self.gone.wait())
        if not ended:
            self._wrapper.kill()
            ended = await ends_in(END_TIMEOUT_S, self.gone.wait())
        if self._complaints >= 0:
            os.close(self._complaints)
            self._complaints = -1
        return ended


class Child:
    """The first process of a sandbox that a template makes; stands for the wrapper (`gated`)."""

    exit_code: int | None = None
    is_init: ClassVar[bool] = True

    def __init__(self, template: Template, answer: asyncio.Future[int]) -> None:
        self._template = template
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._pidfd = -1
        self.ended: asyncio.Future[int] = self._loop.create_future()
        """Done once it has ended; do not cancel it."""
        self._killed = False
        self._deadline = self._loop.call_later(ANSWER_TIMEOUT_S, self._too_late)
        answer.add_done_callback(self._answered)

    @property
    def pid(self) -> int:
        """Its process id as this process sees it; 0 if it is not known, or it is dead."""
        if self._pidfd < 0:
            return 0
        # proc_pid_fdinfo(5): -1 once the process is dead.
        with open(f"/proc/self/fdinfo/{self._pidfd}", "rb", buffering=0) as told:  # noqa: PTH123
            lines = told.read().splitlines()
        return max(*(int(line[4:]) for line in lines if line.startswith(b"Pid:")), 0)

    async def open_init(self, pid: int) -> int:
        """Return a pidfd of the init, which is this process; `pid` is from its hello."""
        # The hello may come before it. The wait ends after `_answered`, also if it is done.
        await asyncio.wait({self._answer})
        self._answer.result()
        if pid != (made := self.pid):
            raise SandboxFailure(f"the hello is from process {pid}, but the template made {made}")
        return os.dup(self._pidfd)

    def kill(self) -> None:
        self._killed = True
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _too_late(self) -> None:
        if not self._answer.done():  # otherwise `_answered` is called next
            self._template.kill()

    def _answered(self, answer: asyncio.Future[int]) -> None:
        self._deadline.cancel()
        if answer.cancelled() or answer.exception() is not None:
            # There is no process, or it dies with the template.
            self._dying = asyncio.ensure_future(self._template.gone_or_alive())
            self._dying.add_done_callback(lambda _: self.ended.set_result(-1))
            return
        self._pidfd = answer.result()
        self._loop.add_reader(self._pidfd, self._has_ended)
        if self._killed:
            self.kill()

    def _has_ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self.ended.set_result(-1)


def _is_answered(future: asyncio.Future[int]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _message(plan: TemplatePlan, flags: int) -> bytes:
    parts = [struct.pack("<III", flags, len(plan.mounts), len(plan.masks))]
    for path, size in plan.mounts:
        parts.append(struct.pack("<Q", size) + os.fsencode(path) + b"\0")
    parts += [os.fsencode(path) + b"\0" for path in (*plan.masks, plan.launch.workspace)]
    return b"".join(parts)
