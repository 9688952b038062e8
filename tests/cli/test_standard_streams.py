"""The command among others in a shell: closed and broken streams, terminals, the background."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from tests.cli.test_configfile import COMMAND, streamer, write
from tests.running import descendants

PTY = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
"""Runs a command on a terminal of its own and passes its input and output on."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    made.mkdir()
    write(made / "hi.py", "print('hi')")
    write(made / "rd.py", "import sys\nprint(len(sys.stdin.read()))")
    write(made / "yes.sh", "while :; do echo y; done")
    return made


def shell(folder: Path, script: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run a script of bash in which `streamer` is the installed command."""
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**environ(folder), "PATH": f"{COMMAND.parent}:{os.environ['PATH']}"},
        input=stdin,
        capture_output=True,
        check=False,
        timeout=120,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def environ(folder: Path) -> dict[str, str]:
    return {"HOME": str(folder), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


@pytest.mark.parametrize(
    ("script", "code", "out", "err"),
    [
        ("streamer run rd.py <&-", 0, "0\n", ""),
        ("streamer run rd.py </dev/null", 0, "0\n", ""),
        ("streamer run rd.py < hi.py", 0, "11\n", ""),
        ("streamer run rd.py -n < hi.py", 0, "0\n", ""),
        ("streamer run rd.py --no-stdin < hi.py", 0, "0\n", ""),
        ("streamer run hi.py >&-", 125, "", "streamer: standard output: Bad file descriptor\n"),
        ("streamer run hi.py <&- >&- 2>&-", 125, "", ""),
        ("streamer run hi.py 2>&-", 0, "hi\n", ""),
        ("streamer run hi.py >/dev/full", 125, "", "standard output: No space left on device\n"),
        ("streamer run - --language bash <&-", 2, "", "standard input: Bad file descriptor\n"),
        ("streamer run yes.sh | head -1; exit ${PIPESTATUS[0]}", 141, "y\n", ""),
        ("streamer run yes.sh 2>&1 | head -1; exit ${PIPESTATUS[0]}", 141, "y\n", ""),
        ("streamer run hi.py | cat; exit ${PIPESTATUS[0]}", 0, "hi\n", ""),
        ("streamer config >/dev/full", 1, "", "No space left on device\n"),
        ("streamer runtimes <&- 2>&- | grep -o 'python  '", 0, "python  \n", ""),
    ],
)
def test_streams_that_are_closed_or_break(
    folder: Path, script: str, code: int, out: str, err: str
) -> None:
    done = shell(folder, script)
    assert (done.returncode, done.stdout) == (code, out), done.stderr
    assert done.stderr.endswith(err)
    assert done.stderr.count("\n") == err.count("\n")


@pytest.mark.parametrize("arguments", [("config",), ("version",), ("runtimes", "--json")])
def test_a_command_whose_reader_is_gone_is_quiet(folder: Path, arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [COMMAND, *arguments],
        cwd=folder,
        env=environ(folder),
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("source", ["file", "pipe", "pipe of many writes"])
@pytest.mark.parametrize("options", ["", "-n"])
def test_a_loop_keeps_its_input(folder: Path, source: str, options: str) -> None:
    loop = f'while read x; do echo "$x"; streamer run {options} hi.py; done'
    assert from_source(folder, source, loop, "abc") == "a\nhi\nb\nhi\nc\nhi\n"


@pytest.mark.parametrize("source", ["file", "pipe", "pipe of many writes"])
def test_a_program_takes_what_it_reads_and_leaves_the_rest(folder: Path, source: str) -> None:
    write(folder / "one.sh", 'read y; echo "got $y"')
    write(folder / "two.py", "import os\nprint(os.read(0, 2).decode(), os.read(0, 1), flush=True)")
    script = (
        'read x; echo "$x"; streamer run one.sh; streamer run two.py; streamer run hi.py; cat;'
        "streamer run rd.py"
    )
    out = from_source(folder, source, f"{{ {script}; }}", "abcdefg")
    assert out == "a\ngot b\nc\n b'd'\nhi\n\ne\nf\ng\n0\n"


def from_source(folder: Path, source: str, script: str, letters: str) -> str:
    """Run a script whose input is these letters, each a line; return its output."""
    write(folder / "lines", "".join(f"{letter}\n" for letter in letters))
    feeding = {
        "file": "{} < lines",
        "pipe": "cat lines | {}",
        "pipe of many writes": "while read -r l; do echo $l; sleep 0.05; done < lines | {}",
    }
    done = shell(folder, feeding[source].format(script))
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("feeding", ["{} < big", "cat big | {}", "{{ cat big; sleep 0.1; }} | {}"])
def test_a_large_input_arrives_whole(folder: Path, feeding: str) -> None:
    (folder / "big").write_bytes(os.urandom(3_000_000))
    write(
        folder / "sum.py",
        "import hashlib, sys\nprint(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())",
    )
    done = shell(folder, feeding.format("streamer run sum.py") + "; sha256sum < big")
    ours, expected = done.stdout.splitlines()
    assert ours == expected.split()[0]


@asynccontextmanager
async def on_a_terminal(
    folder: Path, *command: object
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a command on a terminal; its output has the terminal's line ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PTY, *map(str, command)),
        cwd=folder,
        env={**environ(folder), "PATH": f"{COMMAND.parent}:{os.environ['PATH']}"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("times", [1, 2])
async def test_a_slow_reader_keeps_no_interrupt_waiting(folder: Path, times: int) -> None:
    write(folder / "much.sh", "head -c 200000 /dev/zero; sleep 600")
    others = descendants().keys()
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(COMMAND, "run", "-n", "much.sh"),
        cwd=folder,
        env=environ(folder),
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    try:
        async with asyncio.timeout(60):
            while in_pipe(reading) < 65536:
                await asyncio.sleep(0.01)
            assert len(descendants().keys() - others) > 1
            process.send_signal(signal.SIGINT)
            while descendants().keys() - others - {process.pid}:
                await asyncio.sleep(0.01)
            assert process.returncode is None, "it still has output for who reads"
            if times == 2:
                process.send_signal(signal.SIGINT)
                assert await process.wait() == 130
            assert len(await asyncio.to_thread(read_to_end, reading)) == (
                200_000 if times == 1 else 65536
            )
            assert await process.wait() == 130
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def read_to_end(file: int) -> bytes:
    with os.fdopen(file, "rb") as rest:
        return rest.read()


def in_pipe(file: int) -> int:
    """Return how many bytes wait to be read."""
    return int.from_bytes(fcntl.ioctl(file, termios.FIONREAD, bytes(4)), sys.byteorder)


NASTY = (
    b'\x1b]52;c;Y3VybCBldmlsfHNo\x07\x1b]0;owned\x07\x1b[c\x1bP$q"p\x1b\\\xc2\x9b6n\x05'
    b"\x1b[31mred\x1b[0m 50%\r100%"
)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_a_program_cannot_speak_to_the_terminal(folder: Path, stream: str) -> None:
    # In two writes, with a sequence cut in the middle.
    write(
        folder / "nasty.py",
        f"import sys, time\nout = sys.{stream}.buffer\nfor part in ({NASTY[:9]!r}, {NASTY[9:]!r}):\n"
        "    out.write(part)\n    out.flush()\n    time.sleep(0.1)\n",
    )
    async with on_a_terminal(folder, COMMAND, "run", "nasty.py") as process:
        assert process.stdout is not None
        assert await process.stdout.read() == b"\x1b[31mred\x1b[0m 50%\r100%"
    async with on_a_terminal(folder, COMMAND, "run", "--raw", "nasty.py") as process:
        assert process.stdout is not None
        assert await process.stdout.read() == NASTY
    # Anything but a terminal gets every byte.
    script = "streamer run nasty.py 2>&1"
    assert shell(folder, script).stdout == NASTY.decode()


async def test_the_end_of_a_program_takes_its_colours_along(folder: Path) -> None:
    write(folder / "red.py", "print('\\x1b[31mred', end='')")
    async with on_a_terminal(folder, COMMAND, "run", "red.py") as process:
        assert process.stdout is not None
        assert await process.stdout.read() == b"\x1b[31mred\x1b[0m"


def test_a_message_about_a_name_does_not_speak_to_the_terminal_either(folder: Path) -> None:
    done = streamer(folder, "run", "\x1b]0;owned\x07.py")
    assert done.returncode == 2
    assert done.stderr == "streamer: \\x1b]0;owned\\x07.py: No such file or directory\n"


async def test_in_the_background_it_runs_and_in_the_front_it_reads(folder: Path) -> None:
    write(folder / "echo.py", "print('up', flush=True)\nprint('got', input())")
    # With -m a background job has a process group of its own, as in an interactive shell.
    script = 'streamer run hi.py & wait $!; echo "code $?"; streamer run echo.py & read x; fg'
    async with on_a_terminal(folder, "bash", "-mc", script) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert b"hi" in await process.stdout.readuntil(b"code 0\r\n")
        await process.stdout.readuntil(b"up\r\n")
        process.stdin.write(b"go\n")
        await process.stdout.readuntil(b"echo.py")  # what fg says
        process.stdin.write(b"hello\n")
        await process.stdout.readuntil(b"got hello\r\n")


# -- the token -------------------------------------------------------------------------


@asynccontextmanager
async def asking_for_a_token(token: str) -> AsyncIterator[tuple[str, list[str]]]:
    """Serve a service that refuses everybody, and record their Authorization headers."""
    seen: list[str] = []

    async def refuse(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization", ""))
        return web.json_response({"detail": "no", "code": "unauthorized"}, status=401)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", seen
    await runner.cleanup()


async def test_a_token_comes_from_a_file_or_the_environment(folder: Path) -> None:
    write(folder / "token", "from-file\n")
    async with asking_for_a_token("x") as (url, seen):
        for arguments, variables, expected in (
            (("--token-file", "token"), {"STREAMER_TOKEN": "from-variable"}, "from-file"),
            ((), {"STREAMER_TOKEN": "from-variable"}, "from-variable"),
            (("--token", "given"), {"STREAMER_TOKEN": "from-variable"}, "given"),
        ):
            done = await asyncio.to_thread(
                streamer, folder, "run", "hi.py", "--url", url, *arguments, environ=variables
            )
            assert (done.returncode, seen.pop()) == (2, f"Bearer {expected}"), done.stderr
            assert f"{url}: no; set STREAMER_TOKEN, or use --token-file FILE" in done.stderr


@pytest.mark.parametrize("content", [None, b"", b"\n", b"two words", b"a\nb\n", b"\xff"])
def test_a_file_without_a_token_is_refused(folder: Path, content: bytes | None) -> None:
    if content is not None:
        (folder / "token").write_bytes(content)
    done = streamer(folder, "run", "hi.py", "--url", "http://127.0.0.1:9", "--token-file", "token")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--token-file token: " in done.stderr


# -- input that is lost on the way -----------------------------------------------------


async def test_input_that_a_service_does_not_take_ends_the_job(folder: Path) -> None:
    """Events arrive and input does not: the program would wait until its time limit."""
    cancelled = asyncio.Event()

    async def execute(_: web.Request) -> web.Response:
        return web.json_response({"jobId": "j"}, status=202)

    async def stdin(_: web.Request) -> web.Response:
        return web.json_response({"detail": "broken", "code": "internal"}, status=500)

    async def cancel(_: web.Request) -> web.Response:
        cancelled.set()
        return web.json_response({}, status=202)

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await cancelled.wait()
        end = (
            '{"reason":"cancelled","exitCode":null,"signal":"SIGTERM","durationMs":1,"cpuTimeMs":1,'
            '"peakMemoryBytes":1,"timedOut":false,"oomKilled":false,"outputBytes":0,'
            '"outputTruncated":false,"sandbox":"bwrap","phase":"run"}'
        )
        await response.write(f"event: complete\ndata: {end}\nid: 1\n\n".encode())
        return response

    app = web.Application()
    app.router.add_post("/api/execute", execute)
    app.router.add_post("/api/jobs/j/stdin", stdin)
    app.router.add_delete("/api/jobs/j", cancel)
    app.router.add_get("/api/stream/j", stream)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    done = await asyncio.to_thread(streamer, folder, "run", "hi.py", "--url", url)
    await runner.cleanup()
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == "streamer: the input could not be sent: broken\n"
