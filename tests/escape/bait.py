"""What an attack is after, on the host: lures that tell when somebody touched them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

__all__ = ["Bait", "lay_bait"]

SECRET = "bait-3c5f0e"
"""In every file, argument and environment that no job may read."""

WATCHED = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hostname",
    "/proc/sys/vm/overcommit_memory",
)
PLANTED = (
    "/usr/bin",
    "/usr/local/bin",
    "/etc",
    "/dev",
    "/root",
    "/home",
    "/opt",
    "/var/tmp",
    "/run",
)
PLANT = "streamer-escape-plant"
NOTE = "streamer-escape-note"


class Bait:
    """Lures on the host. `hints` is what an attack is told; `disturbed` what came of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.contacts: list[str] = []
        (folder / "public").mkdir(mode=0o755)
        self.writable = folder / "public" / "writable"
        self.writable.write_text("untouched\n")
        self.writable.chmod(0o666)
        self.readable = folder / "public" / "readable"
        self.readable.write_text(SECRET)
        self.readable.chmod(0o644)
        self._watched = self._read_watched()
        self.victim = subprocess.Popen(
            (sys.executable, "-c", VICTIM, SECRET),
            env={"SECRET": SECRET},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.victim.stdout is not None
        assert self.victim.stdout.readline() == b"up\n"
        self.abstract = f"\0streamer-bait-{os.getpid()}"
        self.socket_in_tmp = str(folder / "public" / "s")
        self.socket_in_run = f"/run/streamer-bait-{os.getpid()}.sock" if os.geteuid() == 0 else ""
        self.port = 0

    @property
    def hints(self) -> str:
        """JSON for the attack: where the lures are. An attacker knows all but the secret."""
        return json.dumps(
            {
                "abstract": self.abstract[1:],
                "folder": str(self.folder),
                "port": self.port,
                "readable": str(self.readable),
                "socket_in_run": self.socket_in_run,
                "socket_in_tmp": self.socket_in_tmp,
                "victim": self.victim.pid,
                "writable": str(self.writable),
                "server": os.getpid(),
                "plant": PLANT,
                "planted": PLANTED,
            }
        )

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listen where an attack may knock."""
        places: list[tuple[str, socket.socket]] = []
        tcp = socket.socket()
        tcp.bind(("127.0.0.1", 0))
        self.port = tcp.getsockname()[1]
        places.append(("loopback", tcp))
        for name, address in (
            ("an abstract socket", self.abstract),
            ("a socket in /tmp", self.socket_in_tmp),
            ("a socket in /run", self.socket_in_run),
        ):
            if address:
                unix = socket.socket(socket.AF_UNIX)
                unix.bind(address)
                if not address.startswith("\0"):
                    Path(address).chmod(0o777)
                places.append((name, unix))
        loop = asyncio.get_running_loop()

        def answer(name: str, sock: socket.socket) -> None:
            self.contacts.append(name)
            sock.accept()[0].close()

        for name, sock in places:
            sock.listen()
            sock.setblocking(False)
            loop.add_reader(sock.fileno(), answer, name, sock)
        try:
            yield
        finally:
            for _, sock in places:
                loop.remove_reader(sock.fileno())
                sock.close()
            if self.socket_in_run:
                Path(self.socket_in_run).unlink()

    def disturbed(self) -> list[str]:
        """Return what an attack did to the host, and set the lures again."""
        found = [f"{name} was reached" for name in self.contacts]
        self.contacts.clear()
        if self.writable.read_text() != "untouched\n":
            found.append("a file of the host was written")
            self.writable.write_text("untouched\n")
        if self._read_watched() != self._watched:
            found.append("a setting of the kernel was changed")
        for folder in PLANTED:
            plant = Path(folder, PLANT)
            if os.path.lexists(plant):
                found.append(f"a file was planted in {folder}")
                plant.unlink()
        assert self.victim.stdin is not None
        assert self.victim.stdout is not None
        if self.victim.poll() is not None:
            found.append("a process of the host was killed")
        else:
            self.victim.stdin.write(b"?\n")
            self.victim.stdin.flush()
            signals = self.victim.stdout.readline().decode().split()
            found += [f"a process of the host got signal {number}" for number in signals]
        return found

    def close(self) -> None:
        """Take the lures away, and what jobs left for each other."""
        for folder in ("/tmp", "/var/tmp", "/dev/shm"):
            Path(folder, NOTE).unlink(missing_ok=True)
        self.victim.kill()
        self.victim.communicate()

    def _read_watched(self) -> dict[str, str]:
        return {path: Path(path).read_text() for path in WATCHED if os.access(path, os.R_OK)}


VICTIM = """
import signal, sys
got = []
for number in range(1, 32):
    if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD):
        signal.signal(number, lambda number, _: got.append(number))
print("up", flush=True)
for _ in sys.stdin:
    print(*got, flush=True)
    got.clear()
"""


@asynccontextmanager
async def lay_bait() -> AsyncIterator[Bait]:
    """Set the lures for the time of some attacks."""
    folder = Path(tempfile.mkdtemp(prefix="bait-"))
    folder.chmod(0o755)
    bait = Bait(folder)
    try:
        async with bait.listening():
            yield bait
    finally:
        bait.close()
        shutil.rmtree(folder)
