"""Lures: files, processes and sockets on the host that no job may reach.

Whether a sandbox holds is judged on the host's side wherever possible: by the socket that was or
was not connected to, the file that did or did not change. `streamer doctor` and the escape suite
of `streamer.testing` use the same lures.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

__all__ = [
    "PLANT_FOLDERS",
    "Lures",
    "end_marked",
    "lay_lures",
    "marked_processes",
    "status_outside",
]

UNTOUCHED: Final = "untouched\n"
SYSTEM_FOLDERS: Final = ("/usr", "/etc")
PLANT_FOLDERS: Final = (
    *SYSTEM_FOLDERS,
    *("/usr/bin", "/usr/local/bin", "/dev", "/root", "/home", "/opt", "/run"),
    "/var/tmp",  # noqa: S108 - a probe tries to write there
)
"""Folders where a job may try to leave a file; every user may write to the last on most hosts."""
SETTINGS: Final = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hostname",
    "/proc/sys/vm/overcommit_memory",
)
ANSWER_S: Final = 5.0

VICTIM: Final = """
import signal, sys
got = []
for number in range(1, 32):
    if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD):
        signal.signal(number, lambda number, _: got.append(number))
for _ in sys.stdin:
    print(*got, flush=True)
    got.clear()
"""
"""Answers each line with the numbers of the signals it got since the previous line."""


class Lures:
    """The lures of one run. `secret` occurs nowhere else on the host."""

    def __init__(self, folder: Path) -> None:
        token = secrets.token_hex(8)
        self.secret = f"secret-{secrets.token_hex(8)}"
        self.variable = f"STREAMER_LURE_{token}"
        """The name of an environment variable with the secret, here and in the processes below."""
        self.witness: asyncio.subprocess.Process
        """A process of the service's user, with the secret in arguments and environment."""
        self.victim: asyncio.subprocess.Process
        """Another one, for jobs to signal."""
        self.port = 0
        """The port of a TCP socket and of a UDP socket on 127.0.0.1."""
        self.inode = 0
        """The line of the listening TCP socket in /proc/net/tcp."""
        self.abstract = f"streamer-lure-{token}"
        self.contacts: list[str] = []
        """The names of the sockets that were reached since the last call of `disturbed`."""
        self.folder = folder
        self.readable = folder / "readable"
        self.writable = folder / "writable"
        self.socket = folder / "socket"
        self.run_socket = Path("/run", f"streamer-lure-{token}") if os.geteuid() == 0 else None
        self.plants = tuple(Path(place, f"streamer-plant-{token}") for place in PLANT_FOLDERS)
        self.system_plants = self.plants[: len(SYSTEM_FOLDERS)]
        self.shared_plant = self.plants[-1]
        self._settings = _settings()

    @property
    def written(self) -> bool:
        return self.writable.read_text() != UNTOUCHED

    async def victim_answers(self) -> bool:
        """Return whether the victim is alive and got no signal."""
        return await _ask(self.victim) == ""

    async def disturbed(self) -> list[str]:
        """Return what jobs did to the host since the last call, and reset the lures."""
        found = [f"{name} was reached" for name in self.contacts]
        self.contacts.clear()
        if self.written:
            found.append("a file of the host was written")
            self.writable.write_text(UNTOUCHED)
        if _settings() != self._settings:
            found.append("a setting of the kernel was changed")
        found += [f"a file was planted in {folder}" for folder in self._planted()]
        self.remove_plants()
        signals = await _ask(self.victim)
        if signals is None:
            found.append("a process of the host was killed")
            self.victim = await _start_process(self)
        elif signals:
            found.append(f"a process of the host got the signals {signals}")
        return found

    def lay_files(self) -> None:
        """Create the files that every user of the host may read or write."""
        self.folder.chmod(0o755)
        self.readable.write_text(self.secret)
        self.readable.chmod(0o644)
        self.writable.write_text(UNTOUCHED)
        self.writable.chmod(0o666)

    def _planted(self) -> list[Path]:
        return [plant.parent for plant in self.plants if os.path.lexists(plant)]

    def remove_plants(self) -> None:
        """Remove what jobs created in the system's folders."""
        for plant in self.plants:
            with contextlib.suppress(PermissionError):
                plant.unlink(missing_ok=True)


@asynccontextmanager
async def lay_lures() -> AsyncIterator[Lures]:
    async with AsyncExitStack() as stack:
        lures = Lures(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lures-"))))
        lures.lay_files()
        stack.callback(lures.remove_plants)
        _listen(lures, stack)
        os.environ[lures.variable] = lures.secret
        stack.callback(os.environ.pop, lures.variable, None)
        stack.push_async_callback(_end_processes, lures)
        lures.witness = await _start_process(lures)
        lures.victim = await _start_process(lures)
        yield lures


def marked_processes(mark: str) -> list[int]:
    """Return the processes of this host that have `mark` in their arguments or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            for name in ("cmdline", "environ"):
                # Of another user, or gone.
                with contextlib.suppress(OSError):
                    if mark.encode() in (entry / name).read_bytes():
                        found.append(int(entry.name))
                        break
    return found


def end_marked(mark: str) -> int:
    """Kill the processes that `marked_processes` finds, and return their number."""
    pids = marked_processes(mark)
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)


def status_outside(mark: str) -> dict[str, str]:
    """Return /proc/PID/status of the shell that has `mark` in its arguments, or ``{}``."""
    for pid in marked_processes(mark):
        try:
            text = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        if fields["Name"] == "sh":  # a wrapper may have the job's command among its arguments
            return fields
    return {}


def _settings() -> Mapping[str, str]:
    return {path: Path(path).read_text() for path in SETTINGS if os.access(path, os.R_OK)}


async def _start_process(lures: Lures) -> asyncio.subprocess.Process:
    """Start a process that ends when its standard input does; it has the secret."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        VICTIM,
        lures.secret,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={lures.variable: lures.secret},
    )
    # Until it answers, it may still have the arguments of this process (fork before exec).
    await _ask(process)
    return process


async def _end_processes(lures: Lures) -> None:
    for name in ("witness", "victim"):
        process: asyncio.subprocess.Process | None = getattr(lures, name, None)
        if process is not None and process.stdin is not None:
            process.stdin.close()
            await process.wait()


async def _ask(process: asyncio.subprocess.Process) -> str | None:
    """Return the signals that the process has got; None if it does not answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError, TimeoutError):
        process.stdin.write(b"?\n")
        async with asyncio.timeout(ANSWER_S):
            if line := await process.stdout.readline():
                return line.decode().strip()
    return None


def _listen(lures: Lures, stack: AsyncExitStack) -> None:
    tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    tcp.bind(("127.0.0.1", 0))
    lures.port = tcp.getsockname()[1]
    lures.inode = os.fstat(tcp.fileno()).st_ino
    udp.bind(("127.0.0.1", lures.port))
    _watch("a server on loopback", tcp, lures, stack)
    _watch("a receiver of datagrams on loopback", udp, lures, stack)
    for name, address in (
        ("an abstract socket", f"\0{lures.abstract}"),
        ("a socket in a folder", str(lures.socket)),
        ("a socket in /run", str(lures.run_socket or "")),
    ):
        if address:
            unix = socket.socket(socket.AF_UNIX)
            unix.bind(address)
            if not address.startswith("\0"):
                Path(address).chmod(0o777)
                stack.callback(Path(address).unlink, missing_ok=True)
            _watch(name, unix, lures, stack)


def _watch(name: str, sock: socket.socket, lures: Lures, stack: AsyncExitStack) -> None:
    """Record every contact until the stack is closed."""
    loop = asyncio.get_running_loop()
    stack.callback(sock.close)
    sock.setblocking(False)
    streaming = sock.type is socket.SOCK_STREAM
    if streaming:
        sock.listen()

    def answer() -> None:
        with contextlib.suppress(BlockingIOError):
            if streaming:
                sock.accept()[0].close()
            else:
                sock.recv(1)
            lures.contacts.append(name)

    loop.add_reader(sock, answer)
    stack.callback(loop.remove_reader, sock)
