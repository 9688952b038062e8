"""Start the processes of a service, replace those that end, and end them in order."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from streamer.errors import ConfigError, ServiceError
from streamer.supervisor.backoff import BackOff
from streamer.supervisor.fork import fork
from streamer.supervisor.redisserver import PrivateRedis
from streamer.web.server.process import MESSAGE_BYTES

__all__ = ["Run", "Supervisor"]

log: Final = logging.getLogger(__name__)


class Run(Protocol):
    """What a process does; it returns its exit code."""

    def __call__(
        self, number: int, supervisor: socket.socket, *, first: bool, replaces: str
    ) -> int:
        """`first` says that it is the one that tells what all find when the service starts.

        `replaces` is the node, for the engine, of the process that it replaces.
        """


Facts = Mapping[str, Any]


@dataclass(eq=False)
class _Process:
    pid: int
    pidfd: int
    began: float
    number: int = 0
    """That of the Redis server is 0."""
    control: socket.socket | None = None
    drained: bool = False
    failure: Facts | None = None


class Supervisor:
    """Has `count` processes, and perhaps a Redis server for them.

    It has one thread and no event loop, since its processes are forks of it.
    """

    def __init__(
        self, count: int, run: Run, redis: PrivateRedis | None, on_ready: Callable[[Facts], None]
    ) -> None:
        """`on_ready` is called once, with what the first process has said, when all are ready."""
        self._run = run
        self._redis = redis
        self._on_ready = on_ready
        self._processes: dict[int, _Process] = {}
        self._server: _Process | None = None
        """The Redis server."""
        self._awaited = set(range(1, count + 1))
        """The processes that have never been ready."""
        self._first: Facts = {}
        self._nodes: dict[int, str] = {}
        self._backoffs = [BackOff() for _ in range(count + 1)]
        self._poll = selectors.DefaultSelector()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        """What is to be done later: when, and a number that makes each different."""
        self._numbers = itertools.count()
        self._stopping = False
        self._failure: Facts | None = None

    def serve(self) -> None:
        """Return when a signal has ended everything.

        Raises `ServiceError` if a process cannot start for the first time.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._poll)
            stack.enter_context(self._signals())
            stack.callback(self._kill)
            if self._redis is not None:
                self._start_redis(self._redis)
                self._redis.wait()
            for number in sorted(self._awaited):
                self._start(number)
            while self._processes or not self._stopping:
                self._wait()
        if self._failure is not None:
            kind = ConfigError if self._failure.get("config") else ServiceError
            raise kind(self._failure["message"])

    # -- what happens -----------------------------------------------------------------------

    def _wait(self) -> None:
        timeout = max(self._due[0][0] - time.monotonic(), 0) if self._due else None
        for key, _ in self._poll.select(timeout):
            key.data()
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()

    def _later(self, pause_s: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + pause_s, next(self._numbers), do))

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Have the numbers of signals written to a socket, so that none comes between two waits."""
        numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup(1)
            numbers.append(signal.SIGHUP)
        reading, writing = socket.socketpair()
        with reading, writing:
            writing.setblocking(False)
            wakeup = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
            before = {number: signal.signal(number, lambda *_: None) for number in numbers}
            self._poll.register(reading, selectors.EVENT_READ, partial(self._signalled, reading))
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
                signal.set_wakeup_fd(wakeup)

    def _signalled(self, reading: socket.socket) -> None:
        for number in reading.recv(MESSAGE_BYTES):
            if number in (signal.SIGUSR1, signal.SIGUSR2):
                log.info("%s has no effect", signal.Signals(number).name)
            elif not self._stopping:
                self._stop()
            elif number != signal.SIGHUP:  # a terminal that is closed may send it twice
                self._tell_all(b"hurry")

    def _stop(self) -> None:
        self._stopping = True
        self._due.clear()
        self._tell_all(b"drain")

    # -- the processes ----------------------------------------------------------------------

    def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)

        first = number == 1 and number in self._awaited
        replaces = self._nodes.get(number, "")

        def run() -> int:
            ours.close()
            self._leave()
            return self._run(number, theirs, first=first, replaces=replaces)

        try:
            with theirs:
                process = self._watched(fork(run))
        except OSError:
            ours.close()
            raise
        process.number, process.control = number, ours
        self._processes[number] = process
        self._poll.register(ours, selectors.EVENT_READ, partial(self._hear, process))

    def _leave(self) -> None:
        """Close what a process has of its parent, and does not need."""
        for process in self._processes.values():
            if process.control is not None:
                process.control.close()
            os.close(process.pidfd)
        self._poll.close()

    def _watched(self, pid: int) -> _Process:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        process = _Process(pid, pidfd, time.monotonic())
        self._poll.register(process.pidfd, selectors.EVENT_READ, partial(self._ended, process))
        return process

    def _hear(self, process: _Process) -> None:
        """Read what a process has said, until there is nothing more."""
        while process.control is not None:
            try:
                message = process.control.recv(MESSAGE_BYTES)
            except BlockingIOError:
                return
            except ConnectionResetError:
                message = b""
            word, _, facts = message.decode().partition(" ")
            match word:
                case "ready":
                    self._ready(process, json.loads(facts))
                case "failed":
                    process.failure = json.loads(facts)
                case "drained":
                    process.drained = True
                    self._close_drained()
                case _:
                    self._poll.unregister(process.control)
                    process.control.close()
                    process.control = None

    def _ready(self, process: _Process, facts: Facts) -> None:
        self._nodes[process.number] = facts["node"]
        if process.number not in self._awaited:
            log.info("process %d is ready", process.number)
            return
        self._awaited.remove(process.number)
        if process.number == 1:
            self._first = facts
        if not self._awaited:
            self._on_ready(self._first)

    def _ended(self, process: _Process) -> None:
        self._poll.unregister(process.pidfd)
        os.close(process.pidfd)
        _, status = os.waitpid(process.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        how = f"has exited with {code}" if code >= 0 else f"was ended by {_name(-code)}"
        ran_s = time.monotonic() - process.began
        if process is self._server:
            self._redis_ended(how, ran_s)
            return
        self._hear(process)
        del self._processes[process.number]
        if self._stopping:
            self._close_drained()
        elif self._awaited:
            told = f"process {process.number} {how} while the service started"
            self._failure = process.failure or {"message": told}
            self._stop()
            self._tell_all(b"hurry")
        else:
            self._replace(process, how, ran_s)

    def _replace(self, process: _Process, how: str, ran_s: float) -> None:
        pause_s = self._backoffs[process.number].pause_s(ran_s)
        if process.failure is not None:
            how = f"{how} ({process.failure['message']})"
        log.error(
            "process %d %s: jobs that it ran end with worker_lost; it is replaced in %g s",
            *(process.number, how, pause_s),
        )
        start = partial(self._start, process.number)
        self._start_again(pause_s, start, process.number, f"process {process.number}")

    def _start_again(
        self, pause_s: float, start: Callable[[], None], number: int, what: str
    ) -> None:
        """Do it after a pause, and again after another one while the system has no room for it."""

        def attempt() -> None:
            try:
                start()
            except OSError as error:
                next_s = self._backoffs[number].pause_s(0)
                log.error(
                    "%s cannot be started (%s); it is tried again in %g s",
                    *(what, error.strerror, next_s),
                )
                self._start_again(next_s, start, number, what)

        self._later(pause_s, attempt)

    def _close_drained(self) -> None:
        """When no process has jobs any more, let all of them end."""
        if all(process.drained for process in self._processes.values()):
            self._tell_all(b"end")

    def _tell_all(self, order: bytes) -> None:
        for process in self._processes.values():
            if process.control is not None:
                with contextlib.suppress(OSError):  # it is ending, or does not read
                    process.control.send(order)

    def _kill(self) -> None:
        """End whatever is left; there is something only after an error, and the Redis server."""
        left = [*self._processes.values(), *([self._server] if self._server is not None else ())]
        for process in left:
            os.kill(process.pid, signal.SIGKILL)
        for process in left:
            os.waitpid(process.pid, 0)
            os.close(process.pidfd)
            if process.control is not None:
                process.control.close()

    # -- the Redis server -------------------------------------------------------------------

    def _start_redis(self, redis: PrivateRedis) -> None:
        self._server = self._watched(redis.start())

    def _redis_ended(self, how: str, ran_s: float) -> None:
        assert self._redis is not None
        self._server = None
        if self._stopping:
            log.error("the Redis server %s: jobs end without a word", how)
            return
        pause_s = self._backoffs[0].pause_s(ran_s)
        log.error(
            "the Redis server %s (%s): all jobs are lost; it is started again in %g s",
            *(how, self._redis.last_words(), pause_s),
        )
        start = partial(self._start_redis, self._redis)
        self._start_again(pause_s, start, 0, "the Redis server")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
