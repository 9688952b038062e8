"""A Redis or Valkey server for the processes of one service; nobody else may use it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import quote

from streamer.errors import ConfigError, ServiceError
from streamer.supervisor.fork import fork

__all__ = ["PrivateRedis"]

EXECUTABLES: Final = ("redis-server", "valkey-server")
PACKAGES: Final = ("redis", "hiredis")

START_S: Final = 20.0
LOOK_AGAIN_S: Final = 0.01

USER: Final = "streamer"
RIGHTS: Final = (
    "~{streamer}:* &{streamer}:* +@read +@write +@scripting +@pubsub +@connection +info +time"
)
"""As docs/redis.md says."""

# Its password is here as a digest only, and can be told by nobody who reads this.
CONFIGURATION: Final = """\
port 0
unixsocket {socket}
unixsocketperm 700
save ""
appendonly no
maxmemory-policy noeviction
logfile {log}
loglevel warning
user default off
user {user} on #{digest} {rights}
"""

LEFT_TO_PARENT: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What a manager of services may send to each process: it ends after those that need it."""


class PrivateRedis:
    """Listens on a Unix socket in a folder, which only this account can enter; keeps nothing.

    Raises `ConfigError` if it cannot be had here.
    """

    def __init__(self, folder: Path) -> None:
        self._executable = _executable()
        self._folder = folder
        self._socket = folder / "redis.sock"
        password = secrets.token_urlsafe(32)
        self.url = f"redis+unix://{USER}:{password}@{quote(str(self._socket))}"
        digest = hashlib.sha256(password.encode()).hexdigest()
        # It runs in its folder, whose path may have any characters.
        text = CONFIGURATION.format(
            socket=self._socket.name, log=self._log.name, user=USER, digest=digest, rights=RIGHTS
        )
        file = folder / "redis.conf"
        file.touch(mode=0o600)
        file.write_text(text, encoding="utf-8")
        self._pid = 0

    @property
    def _log(self) -> Path:
        return self._folder / "redis.log"

    def start(self) -> int:
        """Start it, and return its process id; it does not answer yet."""
        self._pid = fork(self._become)
        return self._pid

    def _become(self) -> NoReturn:
        os.chdir(self._folder)
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(nothing, fd)
        signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_PARENT)
        os.execv(self._executable, (self._executable, "redis.conf"))  # noqa: S606 - we have forked

    def wait(self) -> None:
        """Wait until it answers. Raises `ServiceError` if it does not."""
        ends = time.monotonic() + START_S
        while not self._answers():
            # It is left to be waited for by who has started it.
            ended = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None or time.monotonic() > ends:
                raise ServiceError(f"{self._executable} does not start: {self.last_words()}")
            time.sleep(LOOK_AGAIN_S)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_S)
            try:
                connection.connect(str(self._socket))
                connection.sendall(b"PING\r\n")
                return bool(connection.recv(64))
            except OSError:
                return False

    def last_words(self) -> str:
        """Return the last line of its log."""
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "it wrote no log"


def _executable() -> str:
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                "server.workers: several processes share their jobs through Redis, and the package "
                f'{package} is not installed: pip install "aiohttp-streamer[cli,redis]"'
            )
    for name in EXECUTABLES:
        if found := shutil.which(name):
            return str(Path(found).absolute())
    raise ConfigError(
        "server.workers: several processes share their jobs through a Redis server, and neither "
        f"{' nor '.join(EXECUTABLES)} is installed (in PATH): apt-get install redis-server; or "
        "name a server that runs already in engine.url"
    )
