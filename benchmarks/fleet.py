"""A service in parts, each a process that may be killed, stopped, cut off, and started again."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["Fleet", "Part", "fleet"]

SERVER_AT: Final = "10.77.0.1"
"""The address of the Redis server for the worker that has a network of its own."""
WORKER_AT: Final = "10.77.0.2"
ANSWER_S: Final = 60.0


@dataclass
class Part:
    """A process; `port` is where it answers, `ready` what it answers to a request there."""

    name: str
    argv: Sequence[str]
    folder: Path
    port: int | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.argv, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def send(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    async def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal that ends it, and wait until it has."""
        if self.process is not None:
            self.send(number)
            await asyncio.to_thread(self.process.wait)
            self.process = None

    async def answers(self) -> None:
        """Wait until it takes connections."""
        assert self.port is not None
        async with asyncio.timeout(ANSWER_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return


@dataclass
class Fleet:
    redis: Part
    apis: list[Part]
    workers: list[Part]
    """The last one has a network of its own if `cut_off` works."""
    separate: bool

    @property
    def parts(self) -> list[Part]:
        return [self.redis, *self.apis, *self.workers]

    async def cut_off(self, seconds: float) -> None:
        """Take the last worker's network away for a time; its packets are lost."""
        _ip("link", "set", "fleet0", "down")
        await asyncio.sleep(seconds)
        _ip("link", "set", "fleet0", "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _redis(folder: Path, port: int, address: str) -> Part:
    executable = shutil.which("redis-server")
    if executable is None:
        raise FileNotFoundError("redis-server is not installed")
    argv = (
        *(executable, "--port", str(port), "--bind", *address.split(), "--dir", str(folder)),
        *("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
        *("--protected-mode", "no"),
    )
    return Part("redis", argv, folder, port)


def _node(name: str, role: str, folder: Path, settings: Sequence[str], port: int = 0) -> Part:
    words = (f"server.state_dir={folder}", "streams.grace_s=0.05", *settings)
    argv = (
        *(sys.executable, "-m", "streamer", "serve", "--role", role, "--port", str(port)),
        *(word for setting in words for word in ("--set", setting)),
    )
    return Part(name, argv, folder, port or None)


@asynccontextmanager
async def fleet(
    lease_s: float, apis: int = 2, workers: int = 3, places: int = 4
) -> AsyncIterator[Fleet]:
    """Start a Redis server that keeps what it has acknowledged, API nodes and workers.

    In a network of this process alone (`unshare --net`) the last worker has one of its own.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamer-fleet-")))
        folder.chmod(0o755)  # the users of jobs pass through
        separate = _own_network(stack)
        port = _free_port()
        redis = _redis(folder, port, f"127.0.0.1 {SERVER_AT}" if separate else "127.0.0.1")
        settings = (f"engine.lease_s={lease_s}", "logging.level=info")
        here = (f"engine.url=redis://127.0.0.1:{port}", *settings)
        of_worker = (f"queue.concurrency={places}", "sandbox.backend=bwrap", "server.drain_s=2")
        nodes = [_node(f"api{n}", "api", folder, here, _free_port()) for n in range(apis)]
        running = [
            _node(f"worker{n}", "worker", folder, (*here, *of_worker)) for n in range(workers)
        ]
        if separate:
            there = (f"engine.url=redis://{SERVER_AT}:{port}", *settings, *of_worker)
            last = _node(running[-1].name, "worker", folder, there)
            last.argv = ("nsenter", "-t", str(separate), "-n", "--", *last.argv)
            running[-1] = last
        found = Fleet(redis, nodes, running, bool(separate))
        stack.push_async_callback(_end_all, found)
        redis.start()
        await redis.answers()
        for part in (*nodes, *running):
            part.start()
        for part in nodes:
            await part.answers()
        yield found


async def _end_all(found: Fleet) -> None:
    for part in found.parts:
        part.send(signal.SIGCONT)
    await asyncio.gather(*(part.end() for part in found.parts))


def _own_network(stack: AsyncExitStack) -> int | None:
    """Make a network for one worker, whose cable can be pulled; return a process that has it."""
    if os.environ.get("STREAMER_FLEET_NETWORK") != "own":
        return None
    _ip("link", "set", "lo", "up")
    up = "ip link set lo up && echo up && exec sleep infinity"
    holder = subprocess.Popen(("unshare", "--net", "sh", "-c", up), stdout=subprocess.PIPE)
    stack.callback(holder.wait)
    stack.callback(holder.kill)
    assert holder.stdout is not None
    holder.stdout.readline()
    peer = ("peer", "name", "fleet1", "netns", str(holder.pid))
    _ip("link", "add", "fleet0", "type", "veth", *peer)
    _ip("addr", "add", f"{SERVER_AT}/24", "dev", "fleet0")
    _ip("link", "set", "fleet0", "up")
    inside = ("nsenter", "-t", str(holder.pid), "-n", "--", "ip")
    subprocess.run([*inside, "addr", "add", f"{WORKER_AT}/24", "dev", "fleet1"], check=True)
    subprocess.run([*inside, "link", "set", "fleet1", "up"], check=True)
    return holder.pid
