"""Start real Redis servers, which keep nothing and listen on a Unix socket or a free port."""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.tools import tool

__all__ = ["RedisServer", "free_port", "redis_server"]

START_S: Final = 20.0


class RedisServer:
    """One server. Start it again after `kill` with `start`: it has the same place."""

    def __init__(self, executable: str, folder: Path, options: Sequence[str] = ()) -> None:
        self.socket = folder / "redis.sock"
        self.log = folder / "redis.log"
        self._argv = (
            *(executable, "--port", "0", "--unixsocket", str(self.socket)),
            *("--save", "", "--appendonly", "no", "--dir", str(folder), "--logfile", str(self.log)),
            *options,
        )
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, **query: str) -> str:
        """Return the URL of an engine of its own in this server."""
        query.setdefault("prefix", secrets.token_hex(4))
        return f"redis+unix://{self.socket}?" + "&".join(f"{k}={v}" for k, v in query.items())

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        ends = time.monotonic() + START_S
        while not self.said("PING").startswith((b"+PONG", b"-NOAUTH")):
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < ends, self.log.read_text()
            time.sleep(0.01)

    def said(self, *words: str) -> bytes:
        """Return what the server answers to a command, as it was sent; empty if it does not."""
        line = " ".join(f'"{word}"' for word in words).encode() + b"\r\n"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            try:
                connection.connect(str(self.socket))
                connection.sendall(line)
                return connection.recv(1 << 20)
            except OSError:
                return b""

    def stop_answering(self) -> None:
        """Let it stand still, with its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """Run a server; skip the test, or fail it, where none is installed."""
    executable = tool("redis-server")
    # Not in a folder of pytest's: the path of a socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="streamer-redis-"))
    server = RedisServer(executable, folder, options)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
