"""Use the installed service as its users do: only through its command, HTTP and imports.

The suite runs it on the environment it runs in; CI also on a wheel that is installed
alone, by naming the ``bin`` folder of that environment in STREAMER_INSTALLED. So it
imports nothing of the project, and no plugin of pytest.
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
            if error.name not in ("redis", "hiredis", "uvloop", "pytest"):
                raise
    print(package.__file__)
"""


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
    done = run(bin_folder / "python", "-I", "-W", "error", "-c", IMPORT_ALL, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    streamer, sandboxes = (Path(line).parent for line in done.stdout.split())
    assert streamer.parent == sandboxes.parent
    assert (streamer / "py.typed").exists()
    assert (sandboxes / "py.typed").exists()
    if "STREAMER_INSTALLED" in os.environ:
        assert streamer.is_relative_to(bin_folder.parent), "the sources were imported"
    # Another user than the installing one starts it inside a sandbox.
    assert (streamer / "sandbox" / "init" / "streamer-init").stat().st_mode & 0o005 == 0o005


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
    """The address of a service of its own."""
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
