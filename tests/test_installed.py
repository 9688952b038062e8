"""Use the installed service as its users do: only through its command, HTTP and imports.

The suite runs it on the environment it runs in; CI also on a wheel that is installed
alone: STREAMER_INSTALLED names the ``bin`` folder of an environment with the extra ``cli``,
STREAMER_EMBEDDED that of one without. So it imports nothing of the project, and no plugin of pytest.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

REQUIRED = os.environ.get("STREAMER_REQUIRE_BACKENDS", "").split(",")
PROGRAM = "import sys\nprint('hello', sys.argv[1:])\nsys.exit(3)\n"

IMPORT_ALL = """
import importlib, pkgutil
for top in ("streamer", "sandboxes"):
    package = importlib.import_module(top)
    for module in pkgutil.walk_packages(package.__path__, top + "."):
        if module.name.endswith(".__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name.split(".")[0] not in ("redis", "hiredis", "obstore", "uvloop", "pytest", "anyio", "mcp", "mcp_types", "pydantic", "starlette", *MISSING):
                raise
    print(package.__file__)
"""

MOUNT = """
import asyncio, importlib.util
from aiohttp import ClientSession, web
import streamer

async def main():
    app = web.Application()
    streamer.setup(app, prefix="/code")
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/code/api/execute"
    spec = {"language": "python", "code": "print(6 * 7)"}
    async with ClientSession() as session:
        async with session.post(url, json=spec, headers={"Prefer": "wait=30"}) as answer:
            print((await answer.json())["result"]["stdout"], end="")
    await runner.cleanup()

asyncio.run(main())
"""

WITHOUT_EXTRAS = "import sys; sys.modules.update(click=None, rich=None)\n"
"""Hides the packages of the extra ``cli`` in an environment that has them."""


@pytest.fixture(scope="module")
def bin_folder() -> Path:
    named = os.environ.get("STREAMER_INSTALLED")
    folder = Path(named) if named else Path(sys.executable).parent
    if not named and "CI" not in os.environ and not (folder / "streamer").exists():
        pytest.skip("streamer is not installed in this environment: make setup")
    return folder


def needs_bwrap() -> None:
    if "bwrap" not in REQUIRED and shutil.which("bwrap") is None:
        pytest.skip("bwrap is not installed")


def run(*argv: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_command_tells_the_version_of_the_distribution(bin_folder: Path, tmp_path: Path) -> None:
    ask = "from importlib.metadata import version; print(version('aiohttp-streamer'))"
    expected = run(bin_folder / "python", "-I", "-c", ask, cwd=tmp_path).stdout.strip()

    told = run(bin_folder / "streamer", "version", cwd=tmp_path)

    assert told.returncode == 0, told.stderr
    assert expected
    assert expected in told.stdout


def test_every_module_can_be_imported(bin_folder: Path, tmp_path: Path) -> None:
    program = f"MISSING = (){IMPORT_ALL}"
    done = run(bin_folder / "python", "-I", "-W", "error", "-c", program, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    streamer, sandboxes = (Path(line).parent for line in done.stdout.split())
    assert streamer.parent == sandboxes.parent
    assert (streamer / "py.typed").exists()
    assert (sandboxes / "py.typed").exists()
    if "STREAMER_INSTALLED" in os.environ:
        assert streamer.is_relative_to(bin_folder.parent), "the sources were imported"
    # In a sandbox it is started by a user other than the one that installed it.
    assert (streamer / "sandbox" / "init" / "streamer-init").stat().st_mode & 0o005 == 0o005


def embedded(program: str, *args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python where the distribution is installed without extras."""
    folder = os.environ.get("STREAMER_EMBEDDED")
    python = f"{folder}/python" if folder else sys.executable
    prelude = "" if folder else WITHOUT_EXTRAS
    return run(python, "-I", "-W", "error", "-c", prelude + program, *args, cwd=cwd)


def test_only_the_command_line_cannot_be_imported_without_its_extra(tmp_path: Path) -> None:
    done = embedded(f"MISSING = ('click', 'rich'){IMPORT_ALL}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    missing = embedded("import streamer.cli.main", cwd=tmp_path)
    assert "No module named 'click'" in missing.stderr or "import of click" in missing.stderr


def test_an_application_mounts_it_without_extras(tmp_path: Path) -> None:
    needs_bwrap()

    done = embedded(MOUNT, cwd=tmp_path)

    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


def test_command_without_its_extra_says_what_to_install(tmp_path: Path) -> None:
    done = embedded("from streamer.__main__ import main; main()", "version", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "streamer: the command needs click: pip install 'aiohttp-streamer[cli]'\n"
    )
    if folder := os.environ.get("STREAMER_EMBEDDED"):
        command = run(f"{folder}/streamer", "version", cwd=tmp_path)
        assert (command.returncode, command.stderr) == (2, done.stderr)


def test_command_runs_a_program_in_a_sandbox(bin_folder: Path, tmp_path: Path) -> None:
    needs_bwrap()
    program = tmp_path / "hello.py"
    program.write_text(PROGRAM)

    done = run(
        bin_folder / "streamer", "run", program, "--sandbox", "bwrap", "--", "a b", cwd=tmp_path
    )

    assert (done.returncode, done.stdout) == (3, "hello ['a b']\n"), done.stderr


@pytest.fixture
def service(bin_folder: Path, tmp_path: Path) -> Iterator[str]:
    """Start a service, and yield its URL."""
    needs_bwrap()
    with subprocess.Popen(
        (bin_folder / "streamer", "serve", "--port", "0"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            said = ""
            for line in process.stdout:
                said += line
                if found := re.search(r"http://127\.0\.0\.1:[1-9]\d*", line):
                    yield found[0]
                    break
            else:
                pytest.fail(f"the service told no address:\n{said}")
        finally:
            process.send_signal(signal.SIGINT)
            _, _ = process.communicate(timeout=30)
    assert process.returncode == 0


def test_the_small_client_works_alone_and_beside_the_service(service: str, tmp_path: Path) -> None:
    folder = os.environ.get("STREAMER_CLIENT")
    if folder is None:
        pytest.skip("tests/client/test_distribution.py does it here; .ci/wheel-test with the wheel")
    program = Path(__file__).with_name("small_client.py")
    alone = run(f"{folder}/python", "-I", "-W", "error", program, service, cwd=tmp_path)
    assert (alone.stdout, alone.stderr) == ("ok\n", "")
    python = Path(os.environ["STREAMER_INSTALLED"]) / "python"
    beside = run(python, "-I", "-W", "error", program, service, "beside", cwd=tmp_path)
    assert (beside.stdout, beside.stderr) == ("ok\n", "")


def test_service_streams_a_program(service: str) -> None:
    with urllib.request.urlopen(f"{service}/healthz", timeout=30) as answer:  # noqa: S310 - http
        assert answer.status == 200
    request = urllib.request.Request(  # noqa: S310 - http
        f"{service}/api/execute",
        json.dumps({"language": "python", "code": PROGRAM, "args": ["x"]}).encode(),
        {"Content-Type": "application/json", "Accept": "text/event-stream"},
    )

    output, complete, kind = "", None, b""
    with urllib.request.urlopen(request, timeout=60) as stream:  # noqa: S310 - http
        for line in stream:
            name, _, value = line.rstrip(b"\n").partition(b": ")
            if name == b"event":
                kind = value
            elif name == b"data" and kind == b"output":
                output += json.loads(value)["data"]
            elif name == b"data" and kind in {b"complete", b"error"}:
                complete = json.loads(value)
                break

    assert output == "hello ['x']\n"
    assert complete is not None
    assert (complete["reason"], complete["exitCode"]) == ("exited", 3)
