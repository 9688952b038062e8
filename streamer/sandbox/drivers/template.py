"""Drive a template: a sandbox that stays, inside which our init makes the sandboxes of jobs.

The messages are described in ``init/template.c``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
from array import array
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from streamer.bounded import ends_in
from streamer.errors import SandboxFailure
from streamer.sandbox.drivers.gated import Ends, Gated, opened_ends
from streamer.sandbox.drivers.protocol import OTHER_BUILD, PROTOCOL
from streamer.sandbox.drivers.spawn import Spawned, spawn
from streamer.spi import TemplatePlan

__all__ = ["Child", "Template"]

START_TIMEOUT_S: Final = 20.0
"""As for a sandbox (`gated`)."""
ANSWER_TIMEOUT_S: Final = 20.0
"""A template that has not made a job's first process by then is ended."""
END_TIMEOUT_S: Final = 5.0

CLONE_INTO: Final = 1
"""Flag of a message: the third descriptor is the folder of a control group of version 2."""

_CREDENTIALS: Final = struct.Struct("iII")
_FD: Final = struct.Struct("i")
_ANCILLARY_BYTES: Final = sum(socket.CMSG_SPACE(part.size) for part in (_CREDENTIALS, _FD))
_MESSAGE_BYTES: Final = 64
_STDERR_BYTES: Final = 4096


class Template:
    """One template. Its owner must close it, which ends all sandboxes in it too."""

    def __init__(self, plan: TemplatePlan, command: Sequence[str]) -> None:
        """Start it: `command` is that of the plan, begun as its user.

        Raises `SandboxFailure` if it cannot be started.
        """
        self.plan = plan
        self._loop = asyncio.get_running_loop()
        self._hello: asyncio.Future[int] = self._loop.create_future()
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._pidfd = -1
        self.gone = asyncio.Event()
        """Set when it is dead, and everything in it."""
        with contextlib.ExitStack() as unless_started:
            self._complaints, stderr = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            unless_started.callback(os.close, self._complaints)
            self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            unless_started.callback(self._sock.close)
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
        return frozenset(fd for fd in fds if fd >= 0)

    async def come_up(self) -> None:
        """Wait for its init. Raises `SandboxFailure` with what it said instead."""
        await asyncio.wait(
            {self._reaping, self._hello},
            timeout=START_TIMEOUT_S,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not _is_answered(self._hello):
            self._fail("the template did not start")
            await ends_in(END_TIMEOUT_S, self._wrapper.wait())
            failure = self._hello.exception()
            raise SandboxFailure(f"{failure}: {self.said() or 'the wrapper said nothing'}")
        # It waits for us, so its process id cannot have been reused.
        self._pidfd = os.pidfd_open(self._hello.result())
        self._loop.add_reader(self._pidfd, self._init_has_ended)

    def said(self) -> str:
        """Return the standard error of the wrapper and the init."""
        with contextlib.suppress(OSError):
            return os.read(self._complaints, _STDERR_BYTES).decode(errors="replace").strip()
        return ""

    def sandbox(
        self, plan: TemplatePlan, group: str, entry_fds: Sequence[int], *, by_group: int
    ) -> Gated:
        """Let it make a sandbox, which has not come up yet; the caller must close that.

        `plan` may have other sizes than that of the template. `group` is the folder of a control
        group of version 2, or ``""``; `entry_fds` are the files through which a process enters its
        groups; `by_group` is as in `Gated`. Raises `SandboxFailure` if the template is gone.
        """
        with opened_ends() as ends:
            child = Child(self, self._ask(plan, ends, group, entry_fds))
            return Gated(plan.launch, ends, child, walk_disk=False, by_group=by_group)

    def _ask(
        self, plan: TemplatePlan, ends: Ends, group: str, entry_fds: Sequence[int]
    ) -> asyncio.Future[int]:
        message = _message(plan, CLONE_INTO if group else 0)
        with contextlib.ExitStack() as opened:
            fds = [ends.control, ends.stderr]
            try:
                if group:
                    fds.append(os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                    opened.callback(os.close, fds[-1])
                socket.send_fds(self._sock, [message], [*fds, *entry_fds])
            except OSError as error:
                raise SandboxFailure(f"the template takes no job: {error}") from error
        answer: asyncio.Future[int] = self._loop.create_future()
        self._waiting.append(answer)
        return answer

    def _receive(self) -> None:
        """Take a message; each holds one answer, and perhaps a descriptor."""
        try:
            data, ancillary, _, _ = self._sock.recvmsg(
                _MESSAGE_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, ancillary = b"", []
        pid, fds = 0, array("i")
        for level, kind, attached in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid = _CREDENTIALS.unpack(attached)[0]
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(attached[: len(attached) - len(attached) % _FD.size])
        if data == bytes([ord("H"), PROTOCOL]) and not self._hello.done():
            self._hello.set_result(pid)
        elif data[:1] == b"J" and self._waiting:
            _hand_over(self._waiting.popleft(), int.from_bytes(data[1:5], "little"), fds)
        else:
            self._fail(OTHER_BUILD if data else "the template has ended")
        for fd in fds:
            os.close(fd)

    def _fail(self, why: str) -> None:
        self.abandon()
        for future in (self._hello, *self._waiting):
            if not future.done():
                future.set_exception(SandboxFailure(why))
                future.exception()  # marked as retrieved, since nobody may be waiting
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

    def __init__(self, template: Template, answer: asyncio.Future[int]) -> None:
        self._template = template
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._pidfd = -1
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._killed = False
        self._deadline = self._loop.call_later(ANSWER_TIMEOUT_S, template.kill)
        answer.add_done_callback(self._answered)

    @property
    def pid(self) -> int:
        """Its process id as this process sees it; 0 if it is not known, or it is dead."""
        if self._pidfd < 0:
            return 0
        # proc_pid_fdinfo(5): -1 once the process is dead.
        for line in Path(f"/proc/self/fdinfo/{self._pidfd}").read_text().splitlines():
            if line.startswith("Pid:"):
                return max(int(line.split()[1]), 0)
        return 0

    async def open_init(self, pid: int) -> int:
        """Return a pidfd of the init, which is this process; `pid` is from its hello."""
        await asyncio.shield(self._answer)  # the hello may come before it
        if pid != self.pid:
            raise SandboxFailure("the hello is not from the process that the template has made")
        return os.dup(self._pidfd)

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        self._killed = True
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _answered(self, answer: asyncio.Future[int]) -> None:
        self._deadline.cancel()
        if answer.cancelled() or answer.exception() is not None:
            # There is no process, or it dies with the template.
            self._dying = asyncio.ensure_future(self._template.gone_or_alive())
            self._dying.add_done_callback(lambda _: self._ended.set_result(-1))
            return
        self._pidfd = answer.result()
        self._loop.add_reader(self._pidfd, self._has_ended)
        if self._killed:
            self.kill()

    def _has_ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self._ended.set_result(-1)


def _is_answered(future: asyncio.Future[int]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _hand_over(answer: asyncio.Future[int], number: int, fds: array[int]) -> None:
    """Give the pidfd to whom it belongs."""
    if number or not fds:
        answer.set_exception(SandboxFailure(f"the template made no sandbox: {os.strerror(number)}"))
        answer.exception()
    else:
        answer.set_result(fds.pop())


def _message(plan: TemplatePlan, flags: int) -> bytes:
    parts = [struct.pack("<III", flags, len(plan.mounts), len(plan.masks))]
    for path, size in plan.mounts:
        parts.append(struct.pack("<Q", size) + os.fsencode(path) + b"\0")
    parts += [os.fsencode(path) + b"\0" for path in (*plan.masks, plan.launch.workspace)]
    return b"".join(parts)
