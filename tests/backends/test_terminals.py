"""Programs on a terminal, driven as by somebody who types: real ones, in each backend."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from streamer.compose import Parts
from streamer.errors import InvalidJob
from streamer.jobs.job import Job
from streamer.model.events import Complete, Output
from streamer.model.job import JobSpec, TerminalSize
from streamer.testing.running import SLOWNESS, plugin
from tests.backends.test_third_party import Direct
from tests.conftest import OpenService
from tests.running import adopt_orphans, kept_besides, program, run_job, script
from tests.tools import required_tools

SIZE = TerminalSize(cols=80, rows=24)
WAIT_S = 30 * SLOWNESS


@pytest.fixture(params=["its own", "template"])
async def service(
    open_service: OpenService, backend: str, request: pytest.FixtureRequest
) -> AsyncIterator[Parts]:
    """Yield a service of each backend, of bwrap both ways; at its end nothing is left of its jobs."""
    options = {}
    if backend == "bwrap":
        options = {"bwrap": {"template": request.param == "template"}}
    elif request.param == "template":
        pytest.skip("only bwrap has templates")
    opened = await open_service(backend, sandbox={"warm": False, **options})
    adopt_orphans()
    processes, _ = kept_besides(opened.worker.pool)
    yield opened
    left, now = kept_besides(opened.worker.pool)
    assert left == processes
    # Ours of a terminal in a file system that is mounted elsewhere has the path /ptmx.
    assert [path for path in now.values() if "ptmx" in path or "/dev/p" in path] == []


class Typist:
    """Somebody at the terminal of a job, who waits for what is on the screen before they type."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.text = ""
        self.streams: set[str] = set()
        self.end: Complete | None = None
        self._news = asyncio.Condition()

    async def watch(self) -> None:
        async for event in self.job.events():
            if isinstance(event.data, Output):
                self.text += event.data.data
                self.streams.add(event.data.stream)
            elif isinstance(event.data, Complete):
                self.end = event.data
            async with self._news:
                self._news.notify_all()

    async def sees(self, pattern: str) -> str:
        """Wait for a match, and forget what is on the screen up to it."""
        async with asyncio.timeout(WAIT_S), self._news:
            try:
                while not (found := re.search(pattern, self.text)):
                    assert self.end is None, (pattern, self.text, self.end)
                    await self._news.wait()
            except asyncio.CancelledError:
                pytest.fail(f"waited for {pattern!r}, and saw {self.text!r}")
        self.text = self.text[found.end() :]
        return found[0]

    async def types(self, text: str) -> None:
        assert await self.job.write(text) == "accepted"

    async def ends(self) -> Complete:
        async with asyncio.timeout(WAIT_S), self._news:
            while self.end is None:
                await self._news.wait()
        return self.end


@asynccontextmanager
async def at(service: Parts, size: TerminalSize = SIZE, **spec: Any) -> AsyncIterator[Typist]:
    job = await service.jobs.submit(JobSpec(terminal=size, **spec))
    typist = Typist(job)
    watching = asyncio.create_task(typist.watch())
    try:
        yield typist
    finally:
        await job.cancel()
        await job.result()
        await watching
        assert typist.streams <= {"stdout"}


def need(tool: str) -> str:
    """Return a program that jobs can run; skip the test without it, or fail where it is required."""
    if found := shutil.which(tool, path="/usr/bin:/bin"):
        return found
    if tool in required_tools():
        pytest.fail(f"{tool} is required here (STREAMER_REQUIRE_TOOLS) and is not installed")
    pytest.skip(f"{tool} is not installed")


async def test_a_program_has_a_terminal_of_its_own_and_leads_its_session(service: Parts) -> None:
    ran = await run_job(
        service,
        terminal=SIZE,
        **program("""
            import os, sys, termios
            assert all(os.isatty(number) for number in range(3))
            name = os.ttyname(0)
            assert name.startswith("/dev/pts/"), name
            assert os.fstat(0).st_rdev == os.stat(name).st_rdev
            assert [os.ttyname(1), os.ttyname(2)] == [name, name]
            assert os.getsid(0) == os.getpgrp() == os.getpid() == os.tcgetpgrp(0)
            assert os.get_terminal_size(0) == (80, 24)
            assert os.stat(name).st_uid == os.getuid()
            with open("/dev/tty", "w") as controlling:
                print("to the controlling terminal", file=controlling)
            print("to standard error", file=sys.stderr)
            os.close(os.open(name, os.O_RDWR | os.O_NOCTTY))
            print(os.environ["TERM"], sorted(os.listdir("/proc/self/fd")))
        """),
    )
    lines = ran.text().split("\r\n")
    assert lines[:2] == ["to the controlling terminal", "to standard error"]
    # The fourth is the folder itself that is being listed.
    assert lines[2:] == ["xterm-256color ['0', '1', '2', '3']", ""]
    assert ran.verdict == "exited 0"
    assert ran.text("stderr") == ""


async def test_a_backend_that_has_none_refuses_the_job(open_service: OpenService) -> None:
    service = await open_service("direct", plugins=(plugin(Direct),))
    with pytest.raises(InvalidJob, match="cannot give a program a terminal") as refused:
        await service.jobs.submit(JobSpec(terminal=SIZE, command=("true",)))
    assert refused.value.path == "$.terminal"


async def test_what_is_typed_is_echoed_edited_and_read_by_lines(service: Parts) -> None:
    async with at(service, **program('print(repr(input("name? ")))')) as typist:
        await typist.sees(r"name\? ")
        await typist.types(
            "Zo\u00ebx\x7f\x7f\u00eb\r"
        )  # the erase character takes whole characters
        await typist.sees("Zo\u00ebx")
        assert await typist.sees("'.*'\r\n") == "'Zo\u00eb'\r\n"
        assert (await typist.ends()).exit_code == 0


async def test_the_end_of_the_input_is_typed(service: Parts) -> None:
    for before in ("", "one\n", "one\nand a half"):
        ran_job = await service.jobs.submit(
            JobSpec(terminal=SIZE, command=("cat",), stdin=before.encode() or None)
        )
        assert await ran_job.end_input() == "accepted"
        assert await ran_job.write("more") == "closed"
        end = await ran_job.result()
        assert isinstance(end, Complete)
        assert (end.reason, end.exit_code) == ("exited", 0)


async def test_control_c_interrupts_what_is_in_the_foreground_and_control_z_stops_it(
    service: Parts,
) -> None:
    sleeping = f"sleep {600 + secrets.randbelow(10**6)}"
    async with at(service, command=("bash", "--norc", "--noprofile", "-i")) as typist:
        await typist.sees(r"\$ ")
        await typist.types(f"{sleeping}\r")
        await typist.sees(f"{sleeping}\r\n")
        await until_in_foreground(sleeping)
        await typist.types("\x1a")
        await typist.sees("Stopped")
        await typist.types("jobs; fg\r")
        await typist.sees(rf"Stopped +{sleeping}\r\n")
        await typist.sees(f"{sleeping}\r\n")
        await until_in_foreground(sleeping)
        await typist.types("\x03")
        await typist.types("echo status $?; exit 7\r")
        await typist.sees("status 130")
        assert (await typist.ends()).exit_code == 7


async def until_in_foreground(command: str) -> None:
    """Wait until a job's shell has executed it, and it runs and has the terminal (proc_pid_stat(5)).

    Before that the shell would get what is typed, or its child that is no program yet.
    """
    words = command.encode().replace(b" ", b"\0") + b"\0"
    while not any(is_in_foreground(folder, words) for folder in Path("/proc").glob("[0-9]*")):
        await asyncio.sleep(0.01)


def is_in_foreground(process: Path, words: bytes) -> bool:
    with contextlib.suppress(OSError):
        if (process / "cmdline").read_bytes() == words:
            stat = (process / "stat").read_text().rpartition(")")[2].split()
            state, _, group, _, _, foreground = stat[:6]
            return state != "T" and group == foreground
    return False


async def test_a_new_size_is_told_at_once(service: Parts) -> None:
    source = """
        import os, signal
        def tell(*_):
            os.write(1, b"now %d x %d" % os.get_terminal_size())
        signal.signal(signal.SIGWINCH, tell)
        tell()
        while True:
            signal.pause()
    """
    async with at(service, TerminalSize(100, 30), **program(source)) as typist:
        await typist.sees("now 100 x 30")
        assert await typist.job.resize(132, 43) == "accepted"
        await typist.sees("now 132 x 43")


async def test_a_size_that_comes_before_the_program_is_that_of_its_start(service: Parts) -> None:
    job = await service.jobs.submit(JobSpec(terminal=SIZE, command=("stty", "size")))
    await job.resize(11, 7)
    end = await job.result()
    text = "".join(
        [event.data.data async for event in job.events() if isinstance(event.data, Output)]
    )
    assert isinstance(end, Complete)
    assert text in ("7 11\r\n", "24 80\r\n")  # the program may have been faster


async def test_the_rest_is_hung_up_when_the_program_ends(service: Parts) -> None:
    source = """
        import os, signal, sys, time
        ready, told = os.pipe()
        if os.fork():
            os.read(ready, 1)
            sys.exit(3)
        signal.signal(signal.SIGHUP, lambda *_: (os.write(1, b"hung up\\n"), os._exit(0)))
        os.write(told, b"x")
        while True:
            time.sleep(60)
    """
    ran = await run_job(service, terminal=SIZE, **program(source))
    assert (ran.text(), ran.verdict) == ("hung up\r\n", "exited 3")


async def test_a_shell_that_ignores_sigterm_is_hung_up_when_it_is_cancelled(
    backend: str, open_service: OpenService
) -> None:
    service = await open_service(backend, sandbox={"kill_grace_s": 10})
    async with at(service, command=("bash", "--norc", "--noprofile", "-i")) as typist:
        await typist.sees(r"\$ ")
        await typist.types("trap 'echo hung up >&2' EXIT\r")
        await typist.sees(r"EXIT\r\n")
        await typist.sees(r"\$ ")
        await typist.job.cancel()
        await typist.sees("hung up")
        assert (await typist.ends()).reason == "cancelled"


async def test_all_output_is_there_however_it_ends(service: Parts) -> None:
    """The last bytes are in buffers of the kernel when everything is dead."""
    for ending in ("os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"):
        ran = await run_job(
            service,
            terminal=SIZE,
            **program(f"""
                import os, signal, tty
                tty.setraw(0)
                for number in range(20000):
                    os.write(1, b"%06d\\n" % number)
                {ending}
            """),
        )
        assert ran.text() == "".join(f"{number:06}\n" for number in range(20000))


async def test_a_terminal_that_is_closed_by_its_program_can_be_opened_again(service: Parts) -> None:
    ran = await run_job(
        service,
        terminal=SIZE,
        **program("""
            import os, time
            for number in range(3):
                os.close(number)
            time.sleep(0.2)
            fd = os.open("/dev/tty", os.O_RDWR)
            os.write(fd, b"again")
        """),
    )
    assert ran.text() == "again"


async def test_ten_megabytes_a_second_without_losing_a_byte(service: Parts) -> None:
    """And at once: the speed is printed, and not asserted."""
    block, count = 64 * 1024, 320
    source = f"""
        import hashlib, os, sys, time, tty
        tty.setraw(0)
        digest, begun = hashlib.sha256(), time.monotonic()
        data = bytes(range(32, 127)) * {block // 95 + 1}
        for number in range({count}):
            part = (b"%08d" % number + data)[:{block}]
            digest.update(part)
            done = 0
            while done < len(part):
                done += os.write(1, part[done:])
        sys.stdout.write("\\n" + digest.hexdigest() + " " + str({block * count} / (time.monotonic() - begun)))
    """
    ran = await run_job(
        service, terminal=SIZE, limits={"output_bytes": 64 * 1024 * 1024}, **program(source)
    )
    text, _, told = ran.text().rpartition("\n")
    digest, speed = told.split()
    print(f"{float(speed) / 1e6:.0f} MB/s")  # noqa: T201
    assert len(text) == block * count
    assert hashlib.sha256(text.encode()).hexdigest() == digest


async def test_what_is_pasted_arrives_whole_though_the_program_is_slow(service: Parts) -> None:
    pasted = b"".join(b"%07d\r" % number for number in range(64 * 1024))
    source = f"""
        import hashlib, os, time, tty
        tty.setraw(0)
        print("up", flush=True)
        data = b""
        while len(data) < {len(pasted)}:
            data += os.read(0, 1000)
            if len(data) % 5 == 0:
                time.sleep(0.0001)
        print(hashlib.sha256(data).hexdigest())
    """
    async with at(service, **program(source)) as typist:
        await typist.sees("up")
        for place in range(0, len(pasted), 32 * 1024):
            assert await typist.job.write(pasted[place : place + 32 * 1024]) == "accepted"
        await typist.sees(hashlib.sha256(pasted).hexdigest())
        assert (await typist.ends()).exit_code == 0


async def test_killing_the_job_ends_everything_on_its_terminal(service: Parts) -> None:
    source = """
        import os, signal, time
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for _ in range(3):
            if os.fork() == 0:
                os.setpgid(0, 0)
                os.fork()
                print("up", flush=True)
                while True:
                    time.sleep(60)
        while True:
            time.sleep(60)
    """
    async with at(service, **program(source)) as typist:
        for _ in range(6):
            await typist.sees("up")
        await typist.job.cancel()
        assert (await typist.ends()).reason == "cancelled"
        # The fixture looks whether one is left.


async def test_letters_are_whole_though_they_are_written_and_typed_in_pieces(
    service: Parts,
) -> None:
    letters = "\u00e4\u4e2d\U0001f600"
    source = f"""
        import os
        data = "{letters}".encode() * 5000
        while data:  # a terminal takes 4095 bytes at a time, which are no whole letters
            data = data[os.write(1, data[: 4095 - len(data) % 3]) :]
        print(ascii(input("? ")))
    """
    async with at(service, **program(source)) as typist:
        assert await typist.sees(r"(?s).*\? ") == f"{letters * 5000}? "
        for byte in letters.encode():
            assert await typist.job.write(bytes([byte])) == "accepted"
        await typist.types("\x7f\r")
        await typist.sees(re.escape(ascii(letters[:2])))
        assert (await typist.ends()).exit_code == 0


async def test_a_shell_follows_the_size(service: Parts) -> None:
    async with at(service, command=("bash", "--norc", "--noprofile", "-i")) as typist:
        await typist.sees(r"\$ ")
        await typist.types('trap \'echo "now $(tput cols)"\' WINCH; echo $COLUMNS "$(tput cols)"\r')
        await typist.sees("80 80\r\n")
        await typist.job.resize(132, 43)
        await typist.types("\r")  # between two commands bash runs traps when it reads a line
        await typist.sees("now 132\r\n")


async def test_a_program_whose_output_is_held_can_be_cancelled(service: Parts) -> None:
    async with at(service, command=("yes",)) as typist:
        await typist.sees("y\r\n")
        await typist.types("\x13")  # Ctrl-S: its next write does not return
        await typist.job.cancel()
        assert (await typist.ends()).reason == "cancelled"


# ---- programs that people use ----------------------------------------------------------------


async def test_the_prompt_of_python(service: Parts) -> None:
    async with at(service, command=("python3", "-I", "-q")) as typist:
        await typist.sees(">>> ")
        await typist.types("6 * 7\r")
        await typist.sees("42\r\n")
        await typist.sees(">>> ")
        await typist.types("import time; time.sleep(600)\r")
        await typist.sees(r"600\)")
        await typist.types("\x03")
        await typist.sees("KeyboardInterrupt")
        await typist.sees(">>> ")
        await typist.types("exit(5)\r")
        assert (await typist.ends()).exit_code == 5


async def test_a_password_that_is_not_shown(service: Parts) -> None:
    source = 'read -s -p "password: " secret; echo; echo "it has ${#secret} characters"'
    async with at(service, command=("bash", "-c", source)) as typist:
        await typist.sees("password: ")
        await typist.types("hunter2\r")
        seen = await typist.sees("(?s).*it has 7 characters")
        assert "hunter2" not in seen


async def test_scanf_in_a_program_in_c(service: Parts) -> None:
    source = r"""
        #include <stdio.h>
        int main(void) {
            int a, b;
            printf("two numbers: ");
            if (scanf("%d %d", &a, &b) != 2) return 1;
            printf("the sum is %d\n", a + b);
        }
    """
    async with at(service, language="c", code=source) as typist:
        # Nothing flushes it: a terminal is line-buffered, and flushed when input is asked for.
        await typist.sees("two numbers: ")
        await typist.types("20 22\r")
        await typist.sees("the sum is 42")
        assert (await typist.ends()).exit_code == 0


async def test_a_program_with_curses(service: Parts) -> None:
    source = """
        import curses
        def main(screen):
            rows, cols = screen.getmaxyx()
            screen.addstr(5, 10, f"{cols} by {rows}, colours: {curses.has_colors()}")
            while (key := screen.getch()) != ord("q"):
                screen.addstr(7, 0, f"pressed {key} ")
                if key == curses.KEY_RESIZE:
                    screen.addstr(8, 0, "resized to %d %d" % screen.getmaxyx())
                screen.refresh()
        curses.wrapper(main)
    """
    async with at(service, **program(source)) as typist:
        await typist.sees("80 by 24, colours: True")
        await typist.types("x")
        await typist.sees("pressed 120")
        await typist.types("\x1bOA")
        await typist.sees("259")  # KEY_UP
        await typist.job.resize(100, 40)
        await typist.sees("resized to 40 100")
        await typist.types("q")
        assert (await typist.ends()).exit_code == 0


async def test_an_editor(service: Parts) -> None:
    editor = Path(need("vi"))
    reading = f"{editor} -u NONE -n note.txt 2>/dev/null; echo; cat note.txt"
    async with at(service, command=("sh", "-c", reading)) as typist:
        await typist.sees("~")
        await typist.types("ihello from vi")
        await typist.sees("hello from vi")
        await typist.types("\x1b:wq\r")
        await typist.sees("(?s)written.*\nhello from vi\r\n")
        assert (await typist.ends()).exit_code == 0


async def test_a_pager(service: Parts) -> None:
    need("less")
    numbers = script("numbers", "".join(f"line {number}.\n" for number in range(1000)))
    async with at(service, command=("less", "numbers"), files=(numbers,)) as typist:
        await typist.sees(r"line 22\.")
        await typist.types(" ")
        await typist.sees(r"line 45\.")
        await typist.types("G")
        await typist.sees(r"line 999\.")
        await typist.types("q")
        assert (await typist.ends()).exit_code == 0


async def test_a_table_of_processes(service: Parts) -> None:
    need("top")
    async with at(service, command=("top", "-d", "1")) as typist:
        await typist.sees("PID")
        await typist.sees("top")
        await typist.types("q")
        assert (await typist.ends()).exit_code == 0
