"""`streamer run -t`: the terminal of the command is the program's, and is as it was afterwards."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamer.cli.tty import RESET, Modes
from streamer.testing.running import SLOWNESS

WAIT_S = 30 * SLOWNESS
COLS, ROWS = 100, 30
STREAMER = (sys.executable, "-m", "streamer")
PLAIN = ("--set", "sandbox.backend=plain")


class Window:
    """A window with a command in it."""

    def __init__(self, argv: tuple[str, ...], folder: Path) -> None:
        self.keys, self.screen = pty.openpty()
        self.resize(COLS, ROWS)
        self.before = termios.tcgetattr(self.screen)
        self.text = ""
        environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}
        self.command = subprocess.Popen(
            ["setsid", "--ctty", *argv],
            cwd=folder,
            env=environ,
            stdin=self.screen,
            stdout=self.screen,
            stderr=self.screen,
        )

    def resize(self, cols: int, rows: int) -> None:
        fcntl.ioctl(self.keys, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def sees(self, pattern: str) -> str:
        """Wait for a match, and forget what is on the screen up to it."""
        deadline = time.monotonic() + WAIT_S
        while not (found := re.search(pattern, self.text)):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.keys], [], [], left)[0]:
                pytest.fail(f"waited for {pattern!r}, and saw {self.text!r}")
            self.text += os.read(self.keys, 65536).decode()
        self.text = self.text[found.end() :]
        return found[0]

    def types(self, text: str) -> None:
        os.write(self.keys, text.encode())

    @property
    def raw(self) -> bool:
        return not termios.tcgetattr(self.screen)[3] & termios.ISIG

    def ends(self) -> int:
        """Wait for the end of the command; its terminal must be as it was."""
        deadline = time.monotonic() + WAIT_S
        while (code := self.command.poll()) is None:
            assert time.monotonic() < deadline, self.text
            if select.select([self.keys], [], [], 0.05)[0]:
                self.text += os.read(self.keys, 65536).decode()
        while select.select([self.keys], [], [], 0)[0]:
            self.text += os.read(self.keys, 65536).decode()
        assert termios.tcgetattr(self.screen) == self.before
        return code


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a service as a process of its own; yield its address and the process."""
    argv = [*STREAMER, "serve", "--port", "0", *PLAIN]
    with subprocess.Popen(argv, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = ""
        while not address:
            line = process.stderr.readline()
            assert line, "the service did not start"
            found = re.search(r"http://[\d.:]+", line)
            address = found[0] if found else ""
        try:
            yield address, process
        finally:
            process.kill()


@pytest.fixture(params=["here", "remote"])
def where(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Return the options of a run, in this process or on a service."""
    if request.param == "here":
        return PLAIN
    address, _ = request.getfixturevalue("service")
    return ("--url", address)


@contextlib.contextmanager
def window(
    folder: Path, source: str, *options: str, argv: tuple[str, ...] = (*STREAMER, "run", "-t")
) -> Iterator[Window]:
    """Open a window with a program of Python in it."""
    (folder / "main.py").write_text(source)
    opened = Window((*argv, *options, "main.py"), folder)
    try:
        yield opened
    finally:
        opened.command.kill()
        opened.command.wait()
        os.close(opened.keys)
        os.close(opened.screen)


ASKS = """
import os, signal, sys
print("a terminal of %d x %d" % os.get_terminal_size(), sys.stdin.isatty(), flush=True)
try:
    input("name? ")
except KeyboardInterrupt:
    print("interrupted")
sys.exit(7)
"""


def test_the_program_gets_the_keys_and_ctrl_c(where: tuple[str, ...], tmp_path: Path) -> None:
    with window(tmp_path, ASKS, *where) as at:
        at.sees(f"a terminal of {COLS} x {ROWS} True\r\n")
        at.sees(r"name\? ")
        assert at.raw
        at.types("\x03")
        at.sees("interrupted\r\n")
        assert at.ends() == 7


def test_each_key_is_typed_once_and_in_order(where: tuple[str, ...], tmp_path: Path) -> None:
    source = "print(repr(input()))"
    with window(tmp_path, "import time\nprint('up', flush=True)\n" + source, *where) as at:
        at.sees("up")
        for key in "abcdefghijklmnopqrstuvwxyz":
            at.types(key)
        at.types("\r")
        at.sees("'abcdefghijklmnopqrstuvwxyz'")
        assert at.ends() == 0


def test_it_follows_the_size_of_the_window(where: tuple[str, ...], tmp_path: Path) -> None:
    source = """
import os, signal
signal.signal(signal.SIGWINCH, lambda *_: os.write(1, b"now %d x %d" % os.get_terminal_size()))
print("up", flush=True)
while True:
    signal.pause()
"""
    with window(tmp_path, source, *where) as at:
        at.sees("up")
        at.resize(77, 11)
        at.sees("now 77 x 11")
        at.resize(2000, 5000)  # more than a service takes
        at.sees("now 1000 x 1000")
        at.command.terminate()
        assert at.ends() == 130


EARLY = """
import asyncio, fcntl, struct, termios
from streamer.cli.tty import Terminal

async def main():
    at = Terminal()
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 11, 77, 0, 0))
    told = asyncio.get_running_loop().create_future()
    async def resize(*size):
        told.set_result(size)
    with at.kept(lambda: None):
        following = asyncio.create_task(at.follow_size(resize))
        at.begin()
        size = await asyncio.wait_for(told, 20)
        following.cancel()
    print("told %d x %d" % size)

asyncio.run(main())
"""


def test_a_size_that_changes_before_anybody_listens_is_told(tmp_path: Path) -> None:
    with window(tmp_path, EARLY, argv=(sys.executable,)) as at:
        at.sees("told 77 x 11")
        assert at.ends() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
def test_signals_end_the_run_and_the_terminal_is_as_it_was(
    where: tuple[str, ...], tmp_path: Path, number: signal.Signals
) -> None:
    with window(tmp_path, ASKS, *where) as at:
        at.sees(r"name\? ")
        assert at.raw
        at.command.send_signal(number)
        assert at.ends() == 130


def test_a_run_that_is_stopped_gives_the_terminal_back_until_it_goes_on(
    where: tuple[str, ...], tmp_path: Path
) -> None:
    with window(tmp_path, ASKS, *where) as at:
        at.sees(r"name\? ")
        at.command.send_signal(signal.SIGTSTP)
        os.waitid(os.P_PID, at.command.pid, os.WSTOPPED | os.WNOWAIT)
        assert termios.tcgetattr(at.screen) == at.before
        at.command.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + WAIT_S
        while not at.raw and at.command.poll() is None:
            assert time.monotonic() < deadline
        at.types("\x03")
        at.ends()


def test_a_service_that_is_killed_leaves_the_terminal_usable(
    service: tuple[str, subprocess.Popen[str]], tmp_path: Path
) -> None:
    address, process = service
    with window(tmp_path, ASKS, "--url", address) as at:
        at.sees(r"name\? ")
        process.kill()
        process.wait()
        assert at.raw
        at.types("x")
        at.sees("does not answer; Ctrl-C ends this")
        assert not at.raw
        at.types("\x03")
        assert at.ends() == 130


LEAVES = r"""
import os, sys
sys.stdout.write("\x1b[?1049h\x1b[?25l\x1b[?2004hdrawn\x1b[?2004l")
sys.stdout.flush()
os.abort()
"""


def test_what_a_program_has_switched_on_is_switched_off(tmp_path: Path) -> None:
    with window(tmp_path, LEAVES, *PLAIN, "--raw") as at:
        assert at.ends() == 128 + signal.SIGABRT
        drawn, _, after = at.text.partition("drawn\x1b[?2004l")
        assert drawn.endswith("\x1b[?1049h\x1b[?25l\x1b[?2004h")
        assert after.startswith("\x1b[?1049l\x1b[?25h\x1b[0m\x1b>")
    with window(tmp_path, LEAVES, *PLAIN) as at:
        assert at.ends() == 128 + signal.SIGABRT
        assert "\x1b" not in at.text
        assert "drawn" in at.text


@pytest.mark.parametrize(
    "options", [("main.py",), ("-n", "main.py"), ("--language", "python", "-")]
)
def test_it_needs_a_terminal_and_its_keys(options: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("print(1)")
    ran = subprocess.run(
        [*STREAMER, "run", "-t", *PLAIN, *options],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "--terminal" in ran.stderr


@pytest.mark.parametrize(
    ("written", "back"),
    [
        ([b"text"], b""),
        ([b"\x1b[?25l", b"\x1b[?25h"], b""),
        ([b"\x1b[?25l"], b"\x1b[?25h"),
        ([b"\x1b[?1049", b"h", b"more"], b"\x1b[?1049l"),
        ([b"\x1b[?1000;1006h"], b"\x1b[?1000l\x1b[?1006l"),
        ([b"\x1b", b"[?1h\x1b[?1l\x1b[?1h"], b"\x1b[?1l"),
        ([b"\x1b[?" + b"1" * 100 + b"h"], b""),
    ],
)
def test_modes(written: list[bytes], back: bytes) -> None:
    modes = Modes()
    for data in written:
        modes.feed(data)
    assert modes.reset() == (back + RESET if back else b"")


def test_modes_of_a_program_that_sends_thousands_are_bounded() -> None:
    modes: Any = Modes()
    for number in range(100_000):
        modes.feed(b"\x1b[?%dh" % number)
    assert len(modes.reset()) < 10_000


def test_many_modes_hide_none_that_matters() -> None:
    modes = Modes()
    modes.feed(b"".join(b"\x1b[?%dh" % number for number in range(3000, 4000)))
    for piece in (b"\x1b[?1049;0002004h\xc2", b"\x9b?10", b"03h\xc2\xa0", b"\x1b[?25l"):
        modes.feed(piece)
    back = modes.reset()
    for off in (b"1049l", b"2004l", b"1003l", b"25h"):
        assert b"\x1b[?" + off in back
