"""Compare the ways in which several processes can listen on one port.

`python -m benchmarks.listening`: which process gets each connection, when they come at once, one
after another, and while one process is busy half of the time; and what becomes of those that wait
for a process that stands still, and is then killed. What the service does: `streamer.web.server`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import select
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import cast

BACKLOG = 4096
CONNECTIONS = 1000
BUSY_S = 0.02

WAYS = (
    "one socket, all that wait",
    "one socket, one at a time",
    "SO_REUSEPORT",
    "SO_REUSEPORT, kept",
)
"""The last two: each process has a socket of its own, and the parent has it too or not."""


def listening(port: int, *, reuse: bool) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    sock.setblocking(False)
    sock.listen(BACKLOG)
    return sock


class Answer(asyncio.Protocol):
    def __init__(self, number: int) -> None:
        self.number = number

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(b"%d" % self.number)


async def process(number: int, sock: socket.socket, way: str, *, busy: bool) -> None:
    loop = asyncio.get_running_loop()
    at_once = 1 if way == WAYS[1] else BACKLOG
    await loop.create_server(lambda: Answer(number), sock=sock, backlog=at_once)
    sock.listen(BACKLOG)
    while True:
        await asyncio.sleep(BUSY_S if busy else 60)
        if busy:
            time.sleep(BUSY_S)  # noqa: ASYNC251 - this is what it is about


def started(
    way: str, count: int, run: Callable[..., None], busy: int | None
) -> tuple[int, list[int]]:
    """Start the processes; return the port and their ids."""
    reuse = way in WAYS[2:]
    first = listening(0, reuse=reuse)
    port = first.getsockname()[1]
    socks = [first] + [listening(port, reuse=True) if reuse else first for _ in range(count - 1)]
    pids = []
    for number, sock in enumerate(socks):
        pid = os.fork()
        if not pid:
            for other in socks:
                if other is not sock:
                    other.close()
            run(process(number, sock, way, busy=number == busy))
        pids.append(pid)
    if way == WAYS[2]:
        for sock in socks:
            sock.close()
    else:
        KEPT.extend(socks)
    time.sleep(0.5)
    return port, pids


KEPT: list[socket.socket] = []


def ended(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    while KEPT:
        KEPT.pop().close()


def answered(connections: list[socket.socket], timeout_s: float) -> Counter[str]:
    """Read the answers: who had which connection."""
    poll = select.poll()
    open_ = {}
    for one in connections:
        poll.register(one, select.POLLIN)
        open_[one.fileno()] = one
    got: Counter[str] = Counter()
    ends = time.monotonic() + timeout_s
    while open_ and time.monotonic() < ends:
        for fd, _ in poll.poll(50):
            try:
                got[open_[fd].recv(8).decode() or "closed"] += 1
            except OSError:
                got["reset"] += 1
            poll.unregister(fd)
            del open_[fd]
    got["no answer"] = len(open_)
    for one in connections:
        one.close()
    return +got


def connected(port: int, count: int) -> list[socket.socket]:
    socks = []
    for _ in range(count):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", port))
        socks.append(sock)
    return socks


def one_by_one(port: int, count: int) -> Counter[str]:
    got: Counter[str] = Counter()
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port)) as sock:
            got[sock.recv(8).decode()] += 1
    return got


def told(got: Counter[str]) -> str:
    return ", ".join(f"{who}: {n}" for who, n in sorted(got.items()))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--processes", type=int, default=2)
    arguments.add_argument("--uvloop", action="store_true")
    options = arguments.parse_args()
    run: Callable[..., None] = asyncio.run
    if options.uvloop:
        from uvloop import run  # noqa: PLC0415 - an extra
    for way in WAYS:
        print(f"{way}:")
        port, pids = started(way, options.processes, run, None)
        print("  at once:       ", told(answered(connected(port, CONNECTIONS), 10)))
        print("  one by one:    ", told(one_by_one(port, CONNECTIONS)))
        ended(pids)
        port, pids = started(way, options.processes, run, 0)
        begun = time.monotonic()
        got = one_by_one(port, CONNECTIONS)
        print(f"  0 half busy:    {told(got)} in {time.monotonic() - begun:.2f} s")
        ended(pids)
        port, pids = started(way, options.processes, run, None)
        os.kill(pids[0], signal.SIGSTOP)
        waiting = connected(port, CONNECTIONS)
        time.sleep(0.5)
        os.kill(pids[0], signal.SIGKILL)
        os.waitpid(pids[0], 0)
        print("  0 is killed:   ", told(answered(waiting, 2)))
        ended(pids[1:])
        sys.stdout.flush()


if __name__ == "__main__":
    main()
