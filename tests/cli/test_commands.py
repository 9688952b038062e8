"""The commands as a shell sees them: what they print where, and their exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

import streamer
from streamer.cli.main import main
from tests.conftest import Start
from tests.support import AnyClient, parts_of, until_stored

ROOT = Path(__file__).parents[2]
ENVIRON = {
    **{name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")},
    "PYTHONPATH": str(ROOT),
}
COMMAND = (sys.executable, "-m", "streamer")


def command(
    folder: Path,
    *arguments: str,
    stdin: bytes = b"",
    environ: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env={**ENVIRON, **(environ or {})},
        input=stdin,
        capture_output=True,
        check=False,
        timeout=60,
    )


def check_line(done: tuple[object, str, str], *words: str) -> None:
    """Check that a command wrote its error in one line, and nothing else."""
    code, printed, line = done
    assert (code, printed) == (2, "")
    assert line.startswith("streamer: ")
    assert line.count("\n") == 1
    for word in words:
        assert word in line


def test_version(tmp_path: Path) -> None:
    done = command(tmp_path, "version")
    assert (done.returncode, done.stdout.decode()) == (0, f"{streamer.__version__}\n")


def test_config_prints_what_holds_and_where_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        '[server]\nport = 1\nhost = "127.0.0.2"\n[queue]\nconcurrency = 3\n'
        "[profiles.small.queue]\nconcurrency = 1\n"
        f'[[auth.tokens]]\ntenant = "a"\nsha256 = "{"5" * 64}"\n'
    )
    options = ("--profile", "small", "--set", "streams.heartbeat_s=7")
    environ = {"STREAMER_SERVER__PORT": "2", "STREAMER_STREAMS__HEARTBEAT_S": "5"}
    done = command(tmp_path, "config", "--show-origin", *options, environ=environ)
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    values = dict(line.split(" = ", 1) for line in lines)
    assert values["server.host"] == '"127.0.0.2"  # config.toml'
    assert values["server.port"] == "2  # environment STREAMER_SERVER__PORT"
    assert values["queue.concurrency"] == "1  # config.toml [profiles.small]"
    assert values["streams.heartbeat_s"].startswith("7.0  # command line")
    assert values["server.max_body_bytes"] == "8388608  # default"
    assert "5555" not in done.stdout.decode()  # a digest can be guessed at
    plain = command(tmp_path, "config", *options, environ=environ).stdout.decode().splitlines()
    assert plain == [line.rpartition("  # ")[0] for line in lines]


def test_another_file_is_named_by_option_or_variable(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[server]\nport = 1\n")
    (tmp_path / "other.toml").write_text("[server]\nport = 9\n")
    for arguments, environ in (
        (("--config", "other.toml"), {}),
        ((), {"STREAMER_CONFIG": "other.toml"}),
        (("--config", "other.toml"), {"STREAMER_CONFIG": "config.toml"}),
    ):
        done = command(tmp_path, "config", *arguments, environ=environ)
        assert "server.port = 9\n" in done.stdout.decode()


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., None]:
    """Return a function that checks a refused command in this process, which is faster."""
    monkeypatch.chdir(tmp_path)

    def check(arguments: str, *words: str) -> None:
        with pytest.raises(SystemExit) as exited:
            main(arguments.split())
        check_line((exited.value.code, *capsys.readouterr()), *words)

    return check


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("config --config bad.toml", ("bad.toml", "server.port")),
        ("config --config broken.toml", ("broken.toml", "line 1")),
        ("config --config none.toml", ("none.toml", "No such file")),
        ("config --profile p", ("profiles.p",)),
        ("config --set server.prot=1", ("server.prot", "server.port")),
        ("config --set x", ("section.key=VALUE",)),
        ("nothing", ("nothing",)),
        ("serve --port 70000", ("70000",)),
        ("serve --workers 0", ("--workers",)),
        ("serve --workers 2 --set streams.on_full=wait", ("server.workers = 1",)),
        ("serve --workers 2 --role api", ("server.role", "engine.url", "redis://")),
        ("serve --role worker", ("server.role", "engine.url", "redis://")),
        ("serve --set server.role=api", ("server.role", "engine.url", "redis://")),
        ("serve --set server.role=both", ("server.role", "all, api, worker")),
        ("serve --set worker.languages=['py2']", ("worker.languages", "'py2'", "python")),
        (
            "serve --role api --set engine.url=redis://:s3cret@x --set streams.on_full=wait",
            ("streams.on_full", "drop"),
        ),
        (
            "serve --role worker --demo x.py --set engine.url=redis://:s3cret@x",
            ("--demo", "accepts no jobs"),
        ),
        ("run", ("FILE|DIR|-",)),
        ("run none.py", ("none.py", "No such file")),
        ("run folder", ("folder: which program", "no main.py", "--project folder FILE")),
        ("run two", ("two: which program", "main.py and main.sh are there", "--project two FILE")),
        ("run folder -d", ("--detach", "--url")),
        ("run x.py -t --json", ("--terminal", "--json")),
        ("run python3", ("python3: No such file or directory; it is a language",)),
        ("run x.unknown", ("x.unknown", "--language")),
        ("run x.py --limit wall_time_s", ("NAME=VALUE",)),
        ("run x.py --limit wall_time_s=x", ("number",)),
        ("run x.py --limit wall_time_s=0", ("wallTimeS", "range")),
        ("run x.py --limit wall_time_s=nan", ("wallTimeS",)),
        ("run x.py --limit processes=1.5", ("processes",)),
        ("run x.py --env A", ("NAME=VALUE",)),
        ("run x.py --file none", ("none", "No such file")),
        ("run x.py -t --cases none", ("--terminal", "--cases")),
        ("run x.py --stop-on-failure", ("stopOnFailure", "cases")),
        ("run x.py --priority 11", ("--priority", "-10<=x<=10")),
    ],
)
def test_what_is_wrong_is_one_line(
    tmp_path: Path, refused: Callable[..., None], arguments: str, words: tuple[str, ...]
) -> None:
    (tmp_path / "bad.toml").write_text("[server]\nport = 'x'\n")
    (tmp_path / "broken.toml").write_text("[server\n")
    (tmp_path / "x.unknown").write_text("")
    (tmp_path / "x.py").write_text("")
    for folder in ("folder", "two"):
        (tmp_path / folder).mkdir()
    for entry in ("main.py", "main.sh"):
        (tmp_path / "two" / entry).write_text("")
    refused(arguments, *words)


@pytest.mark.parametrize("name", ["STREAMER_SERVER__PORT", "STREAMER_SERVR__PORT"])
def test_a_wrong_variable_is_one_line(
    refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "x")
    refused("config", name)


def test_a_program_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    done = command(tmp_path, "run", "-", "--language", "python", stdin=b"\xff")
    check_line((done.returncode, done.stdout.decode(), done.stderr.decode()), "UTF-8")


@pytest.mark.parametrize("line", ["#!/usr/bin/env -S python3 -u", "#! /bin/python3", "#!python"])
def test_the_first_line_may_name_the_language(tmp_path: Path, line: str) -> None:
    program = f"{line}\nprint('ran')\n"
    done = command(tmp_path, "run", "-", stdin=program.encode())
    assert (done.returncode, done.stdout) == (0, b"ran\n"), done.stderr
    if "env" in line:
        (tmp_path / "program").write_text(program)
        done = command(tmp_path, "run", "program", "-n")
        assert (done.returncode, done.stdout) == (0, b"ran\n"), done.stderr
    other = command(tmp_path, "run", "-", stdin=b"#!/bin/none\n")
    check_line((other.returncode, other.stdout.decode(), other.stderr.decode()), "--language")


def test_without_arguments_there_is_help(tmp_path: Path) -> None:
    done = command(tmp_path)
    assert done.returncode == 2
    assert b"Usage: streamer" in done.stdout


def test_runtimes(tmp_path: Path) -> None:
    done = command(tmp_path, "runtimes", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    for name in ("python", "javascript", "bash", "c", "cpp"):
        assert name in rows
    assert rows["python"]["available"]
    assert "node" in rows["javascript"]["aliases"]
    for row in rows.values():
        assert row["available"] or row["reason"]
    table = command(tmp_path, "runtimes").stdout.decode()
    assert all(name in table for name in rows)


@pytest.mark.parametrize("name", ["runtimes", "sandboxes", "doctor"])
def test_a_reason_is_no_markup_and_moves_no_cursor(
    tmp_path: Path, need: Callable[[str], str], name: str
) -> None:
    need("plain")
    wrapper = tmp_path / "wrapper"
    wrapper.write_text("#!/bin/sh\nprintf 'no[/x][bold]\\033[2J' >&2\nexit 3\n")
    wrapper.chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == tmp_path.owner() and folder.stat().st_mode & 0o001 == 0:
            folder.chmod(folder.stat().st_mode | 0o011)
    runtime = '{ entry = "main.x", run = ["/no[/x][bold]\\u001b[2J", "{entry}"] }'
    done = command(
        *(tmp_path, name, "--sandbox", "plain", f"--set=runtimes.absent={runtime}"),
        f"--set=sandbox.firejail.path={wrapper}",
    )
    told = "".join(done.stdout.decode().split())  # a table may break lines
    assert "no[/x][bold]\\x1b[2J" in told, done.stderr.decode()
    assert b"\x1b" not in done.stdout
    assert b"Traceback" not in done.stderr


def test_sandboxes(tmp_path: Path) -> None:
    done = command(tmp_path, "sandboxes", "--json", "--set", "sandbox.bwrap.path='/nothing'")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert set(rows) >= {"plain", "bwrap", "firejail"}
    assert not rows["bwrap"]["available"]
    assert "bubblewrap" in rows["bwrap"]["reason"]
    assert rows["plain"]["available"]
    assert "bwrap" in command(tmp_path, "sandboxes").stdout.decode()


def test_run_passes_every_byte_both_ways(tmp_path: Path) -> None:
    (tmp_path / "cat.py").write_text(
        "import os, sys\ndata = sys.stdin.buffer.read()\nos.write(2, data[:256])\n"
        "sys.stdout.buffer.write(data)"
    )
    data = bytes(range(256)) * 8000
    piped = command(tmp_path, "run", "cat.py", stdin=data)
    assert (piped.returncode, piped.stdout, piped.stderr) == (0, data, data[:256])
    (tmp_path / "data").write_bytes(data)
    with (tmp_path / "data").open("rb") as file:
        done = subprocess.run(
            [*COMMAND, "run", "cat.py"],
            cwd=tmp_path,
            env=ENVIRON,
            stdin=file,
            capture_output=True,
            check=False,
            timeout=60,
        )
    assert (done.returncode, done.stdout) == (0, data)


def test_run_takes_what_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.py").write_text(
        "import os, sys, mine\nprint(sys.argv[1:], os.environ['A'], mine.X, sorted(os.listdir()))"
    )
    (tmp_path / "src" / "mine.py").write_text("X = 1")
    done = command(
        *(tmp_path, "run", "src/main.py", "--file", "src/mine.py", "--env", "A=b=c"),
        *("--limit", "wall_time_s=5", "--", "--limit", "-x", "--"),
    )
    assert done.stderr == b""
    assert done.stdout.decode().startswith("['--limit', '-x', '--'] b=c 1 ")


def test_run_by_language_whatever_the_name(tmp_path: Path) -> None:
    (tmp_path / "program").write_text("echo $0 $1")
    done = command(tmp_path, "run", "program", "--language", "bash", "--", "x")
    assert (done.returncode, done.stdout.decode().split()[1:]) == (0, ["x"]), done.stderr


@pytest.mark.parametrize("arguments", [("--url",), ()])
async def test_run_with_a_project(tmp_path: Path, start: Start, arguments: tuple[str, ...]) -> None:
    client = await start()
    url = [*arguments, str(client.make_url("/"))] if arguments else []
    top = tmp_path / "hello"
    (top / "lib").mkdir(parents=True)
    (top / "main.py").write_text("import sys, lib.a; print(lib.a.x, sys.argv[1:])")
    (top / "other.py").write_text("print(sorted(__import__('os').listdir()))")
    (top / "lib" / "a.py").write_text("x = 7")
    (tmp_path / "beside").write_text("")

    async def run(*arguments: str) -> tuple[int | None, str, str]:
        done = await asyncio.to_thread(command, tmp_path, "run", *arguments, *url)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    assert await run("--project", "hello", "main.py", "a", "b") == (0, "7 ['a', 'b']\n", "")
    assert await run("--project", "hello", "--language", "python") == (0, "7 []\n", "")
    assert await run("hello", "a", "b") == (0, "7 ['a', 'b']\n", "")
    listed = "['beside', 'lib', 'main.py', 'other.py']\n"
    assert await run("--project", "hello", "other.py", "--file", "beside") == (0, listed, "")
    code, _, said = await run("--project", "hello", "none.py")
    assert (code, said.count("\n")) == (2, 1)
    assert "none.py" in said
    for given, word in (
        (("--project", "none", "main.py"), "none"),
        ((), "--project"),
    ):
        code, out, said = await run(*given)
        assert (code in (2, 125), out, said.count("\n")) == (True, "", 1), said
        assert word in said
    await until_stored(parts_of(client).engine.blobs, 0)


async def test_projects_of_a_service(tmp_path: Path, start: Start) -> None:
    client = await start()
    (tmp_path / "hello").mkdir()
    (tmp_path / "hello" / "main.py").write_text("print(7)")
    url = ("--url", str(client.make_url("/")))

    async def ask(*arguments: str) -> tuple[int | None, str, str]:
        done = await asyncio.to_thread(command, tmp_path, "project", *arguments, *url)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    code, printed, said = await ask("upload", "hello")
    assert (code, said) == (0, "")
    project = printed.strip()
    code, printed, _ = await ask("show", project)
    assert printed.split() == ["name", "bytes", "main.py", "8"]
    code, printed, _ = await ask("show", project, "--json")
    assert json.loads(printed)["files"] == [{"name": "main.py", "bytes": 8}]
    assert await ask("delete", project) == (0, "", "")
    code, printed, said = await ask("show", project)
    assert (code, printed, said.count("\n")) == (125, "", 1)
    assert project in said


async def test_run_with_a_priority(tmp_path: Path, start: Start) -> None:
    client = await start()
    (tmp_path / "main.sh").write_text("echo ran")
    run = ("run", "-n", "main.sh", "--priority", "3", "--url", str(client.make_url("/")))
    done = await asyncio.to_thread(command, tmp_path, *run)
    assert (done.returncode, done.stdout) == (0, b"ran\n"), done.stderr
    async with client.get("/api/jobs") as response:
        assert [job["priority"] for job in (await response.json())["jobs"]] == [3]


def test_a_project_that_is_not_there_is_named_and_not_the_program(tmp_path: Path) -> None:
    done = command(tmp_path, "run", "--project", "none", "main.py")
    said = "streamer: none: No such file or directory\n"
    assert (done.returncode, done.stderr.decode()) == (125, said)
    done = command(tmp_path, "project", "upload", "none", "--url", "http://127.0.0.1:1")
    assert (done.returncode, done.stderr.decode()) == (125, said)


def test_run_shows_what_the_compiler_says(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text("int main( {")
    done = command(tmp_path, "run", "main.c")
    assert done.returncode == 1
    assert b"error" in done.stderr


@pytest.fixture(params=["here", "at a service"])
async def where(request: pytest.FixtureRequest, start: Start) -> AsyncIterator[tuple[str, ...]]:
    """Return the options to run a program here, and those to run it on a service."""
    if request.param == "here":
        yield ()
        return
    client: AnyClient = await start()
    yield ("--url", str(client.make_url("/")))


async def test_run_for_each_case(tmp_path: Path, where: tuple[str, ...]) -> None:
    (tmp_path / "main.sh").write_text('read -r code; echo "$code $*"; exit "$code"')
    cases = [{"stdin": "0", "name": "fine"}, {"stdin": "7", "args": ["x"]}, {"stdin": "0"}]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    run = ("run", "main.sh", *where, "--cases", "cases.json")
    done = await asyncio.to_thread(command, tmp_path, *run, "--", "y", stdin=b"not read")
    assert (done.returncode, done.stdout) == (7, b"0 y\n7 x\n0 y\n"), done.stderr
    said = done.stderr.decode().splitlines()
    assert [line.partition(",")[0] for line in said] == [
        "case 0 (fine): exited 0",
        "case 1: exited 7",
        "case 2: exited 0",
    ]
    done = await asyncio.to_thread(command, tmp_path, *run, "--stop-on-failure")
    assert (done.returncode, done.stdout) == (7, b"0 \n7 x\n")


@pytest.mark.parametrize(
    ("cases", "words"),
    [
        (None, ("cases.json", "No such file")),
        ("[]", ("cases.json", "no cases")),
        ('[{"stdn": "1"}]', ("cases.json", "did you mean stdin?")),
        ('[{"limits": {"wallTime": 1}}]', ("cases.json", "did you mean wallTimeS?")),
        ("[", ("cases.json", "not valid JSON")),
        ("{}", ("cases.json", "array")),
    ],
)
def test_a_file_of_cases_that_is_none(
    tmp_path: Path, refused: Callable[..., None], cases: str | None, words: tuple[str, ...]
) -> None:
    (tmp_path / "main.sh").write_text("")
    if cases is not None:
        (tmp_path / "cases.json").write_text(cases)
    refused("run main.sh --cases cases.json", *words)


@pytest.mark.parametrize(
    ("program", "options", "code"),
    [
        ("exit 3", (), 3),
        ("kill -9 $$", (), 137),
        ("kill -s RTMIN+3 $$", (), 128 + signal.SIGRTMIN + 3),
        ("sleep 9", ("--limit", "wall_time_s=0.3"), 124),
        ("sleep 9", ("--limit", "wallTimeS=0.3"), 124),
        ("while :; do :; done", ("--limit", "cpu_time_s=0.3"), 124),
        ("yes", ("--limit", "output_bytes=1000"), 137),
        ("", ("--limit", "wall_time_s=-1"), 2),
    ],
)
async def test_exit_codes_are_the_same_everywhere(
    tmp_path: Path, where: tuple[str, ...], program: str, options: tuple[str, ...], code: int
) -> None:
    (tmp_path / "main.sh").write_text(program)
    done = await asyncio.to_thread(command, tmp_path, "run", "main.sh", *where, *options)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr


async def test_input_is_forwarded_as_it_is_typed(tmp_path: Path, where: tuple[str, ...]) -> None:
    (tmp_path / "echo.py").write_text(
        "import sys\nfor line in sys.stdin: print('got', line, end='', flush=True)"
    )
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "run", "echo.py", *where),
        cwd=tmp_path,
        env=ENVIRON,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with asyncio.timeout(30):
        for word in (b"one\n", b"two\n"):
            process.stdin.write(word)
            assert await process.stdout.readline() == b"got " + word
        process.stdin.close()
        assert await process.stdout.read() == b""
        assert await process.wait() == 0


async def test_ends_with_the_program_though_its_input_stays_open(
    tmp_path: Path, where: tuple[str, ...]
) -> None:
    (tmp_path / "main.sh").write_text("echo done; exit 4")
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "run", "main.sh", *where),
        cwd=tmp_path,
        env=ENVIRON,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        assert await process.wait() == 4
    assert process.stdin is not None
    process.stdin.close()


async def test_a_reader_of_its_output_may_leave(tmp_path: Path, where: tuple[str, ...]) -> None:
    # As in `streamer run ... | head -1`.
    (tmp_path / "main.sh").write_text("yes")
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "run", "main.sh", *where),
        cwd=tmp_path,
        env=ENVIRON,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(30):
        assert await process.stdout.readline() == b"y\n"
        process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        errors = await process.stderr.read()
        assert await process.wait() != 0
    assert b"Traceback" not in errors
    assert b"Exception ignored" not in errors
