"""Put things on the host that no job may reach, and see whether one did.

What a sandbox holds is told by the host's side wherever that is possible: by the socket
that was or was not connected to, the file that did or did not change.
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
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

__all__ = ["Lures", "end_marked", "lay_lures", "marked_processes", "status_outside"]

VARIABLE: Final = "STREAMER_DOCTOR_SECRET"
UNTOUCHED: Final = "untouched\n"
SYSTEM_FOLDERS: Final = ("/usr", "/etc")
SHARED_FOLDER: Final = "/var/tmp"  # noqa: S108 - whether a job can write there is the question
"""Where every user of the host may make files."""
ANSWER_S: Final = 5.0
ECHO: Final = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"


class Lures:
    """The lures while they are laid. `secret` is nowhere but in them."""

    def __init__(self, folder: Path) -> None:
        self.secret = f"secret-{secrets.token_hex(8)}"
        self.witness: asyncio.subprocess.Process
        """A process of the service's user, with the secret in arguments and environment."""
        self.victim: asyncio.subprocess.Process
        """Another one, to be signalled."""
        self.port = 0
        self.inode = 0
        """Of the listening TCP socket, as /proc/net/tcp shows it."""
        self.abstract = f"streamer-doctor-{secrets.token_hex(8)}"
        self.contacts = 0
        """How many connections to the TCP socket there were."""
        self.readable = folder / "readable"
        self.writable = folder / "writable"
        name = f"streamer-doctor-{secrets.token_hex(8)}"
        self.system_plants = tuple(Path(place, name) for place in SYSTEM_FOLDERS)
        self.shared_plant = Path(SHARED_FOLDER, name)

    @property
    def written(self) -> bool:
        """Whether the host's writable file was changed."""
        return self.writable.read_text() != UNTOUCHED

    async def victim_answers(self) -> bool:
        """Whether the victim is alive and well."""
        return await _answers(self.victim)

    def lay_files(self) -> None:
        """Make the files that every user of the host may read, or write."""
        self.readable.parent.chmod(0o755)
        self.readable.write_text(self.secret)
        self.readable.chmod(0o644)
        self.writable.write_text(UNTOUCHED)
        self.writable.chmod(0o666)

    def remove_plants(self) -> None:
        """Remove what jobs made in the system's folders."""
        for plant in (*self.system_plants, self.shared_plant):
            plant.unlink(missing_ok=True)


@asynccontextmanager
async def lay_lures() -> AsyncIterator[Lures]:
    """Lay the lures for the time of a run, and take them away."""
    async with AsyncExitStack() as stack:
        lures = Lures(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="doctor-"))))
        lures.lay_files()
        stack.callback(lures.remove_plants)
        _listen(lures, stack)
        os.environ[VARIABLE] = lures.secret
        stack.callback(os.environ.pop, VARIABLE, None)
        lures.witness = await _start_process(lures.secret, stack)
        lures.victim = await _start_process(lures.secret, stack)
        yield lures


def marked_processes(mark: str) -> list[int]:
    """Return the processes of this host that have `mark` in their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if mark.encode() in arguments:
                found.append(int(entry.name))
    return found


def end_marked(mark: str) -> int:
    """Kill the processes that have `mark` in their arguments, and return how many there were."""
    pids = marked_processes(mark)
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)


def status_outside(mark: str) -> dict[str, str]:
    """Return /proc/PID/status of the shell that has `mark` in its arguments, or nothing."""
    for pid in marked_processes(mark):
        try:
            text = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        if fields["Name"] == "sh":  # a wrapper may have the job's command in its own
            return fields
    return {}


async def _start_process(secret: str, stack: AsyncExitStack) -> asyncio.subprocess.Process:
    """Start a process that ends with its standard input; it knows the secret from its start."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        ECHO,
        secret,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={VARIABLE: secret},
    )
    assert process.stdin is not None
    stack.push_async_callback(process.wait)
    stack.callback(process.stdin.close)
    # Before it answers it may still have the arguments of this process.
    await _answers(process)
    return process


async def _answers(process: asyncio.subprocess.Process) -> bool:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(b"?\n")
        async with asyncio.timeout(ANSWER_S):
            return await process.stdout.readline() == b"?\n"
    except (OSError, TimeoutError):
        return False


def _listen(lures: Lures, stack: AsyncExitStack) -> None:
    loop = asyncio.get_running_loop()
    tcp = stack.enter_context(socket.socket())
    tcp.bind(("127.0.0.1", 0))
    tcp.listen()
    tcp.setblocking(False)
    lures.port = tcp.getsockname()[1]
    lures.inode = os.fstat(tcp.fileno()).st_ino

    def answer() -> None:
        tcp.accept()[0].close()
        lures.contacts += 1

    loop.add_reader(tcp, answer)
    stack.callback(loop.remove_reader, tcp)
    unix = stack.enter_context(socket.socket(socket.AF_UNIX))
    unix.bind(f"\0{lures.abstract}")
    unix.listen()
