"""The public names, and imports without side effects; `make lint` checks who imports whom."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import sandboxes
import streamer

ROOT = Path(streamer.__file__).parent.parent


def modules(package: str) -> list[str]:
    """Return the dotted names of a package and everything in it."""
    found = importlib.import_module(package)
    inside = pkgutil.walk_packages(found.__path__, f"{package}.")
    return [package, *(module.name for module in inside)]


STREAMER = modules("streamer")
SANDBOXES = modules("sandboxes")
MODULES = [name for name in STREAMER + SANDBOXES if name != "streamer.__main__"]


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_declared_sorted_and_there(module: str) -> None:
    loaded = importlib.import_module(module)
    if not hasattr(loaded, "__all__"):
        # A package that is only a folder: it has a docstring and imports nothing.
        assert loaded.__file__
        assert loaded.__file__.endswith("__init__.py")
        (only,) = ast.parse(Path(loaded.__file__).read_text()).body
        assert ast.unparse(only).strip().startswith(("'", '"'))
        return
    declared = loaded.__all__
    # Constants, then classes, then the rest, as ruff's RUF022 has it.
    order = sorted(declared, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert list(declared) == order
    assert [name for name in declared if not hasattr(loaded, name)] == []


def test_the_public_face_is_what_is_documented() -> None:
    assert streamer.__all__ == [
        "Action",
        "Caller",
        "Case",
        "Client",
        "Config",
        "Event",
        "Job",
        "JobFile",
        "JobSpec",
        "JobView",
        "Jobs",
        "Language",
        "Limits",
        "Refusal",
        "Route",
        "RouteGroup",
        "ServiceProblem",
        "SessionSpec",
        "SourceFile",
        "SyncClient",
        "TerminalSize",
        "Webhook",
        "create_app",
        "get_service",
        "get_sessions",
        "hookimpl",
        "load_config",
        "setup",
    ]


def test_the_public_modules_and_names_are_there_after_one_import() -> None:
    program = """
import streamer
names = "client errors events spi sse".split()
assert [getattr(streamer, name).__name__ for name in names] == [f"streamer.{name}" for name in names]
assert set(dir(streamer)) >= {*streamer.__all__, "__version__"}
assert not hasattr(streamer, "no_such_name")
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_client_needs_no_server() -> None:
    program = """
import sys
from streamer import Client, JobSpec, ServiceProblem
assert not {"pluggy", "aiohttp_sse", "streamer.compose", "streamer.application"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def imported_by(folder: Path, *arguments: str) -> set[str]:
    """Return the modules that a command imports."""
    command = [sys.executable, "-X", "importtime", "-m", "streamer", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def test_the_package_alone_imports_nothing() -> None:
    program = """
import sys
before = set(sys.modules)
import streamer
assert set(sys.modules) - before - {"__future__"} == {"streamer"}, set(sys.modules) - before
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    "arguments", [("version",), ("--version",), ("--help",), ("run", "--help")]
)
def test_what_does_no_work_imports_the_command_line_only(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    found = imported_by(tmp_path, *arguments)
    assert "click" in found
    ours = {name for name in found if name.startswith("streamer")}
    modules = (
        "bench",
        "completion",
        "descriptors",
        "environments",
        "files",
        "follow",
        "host",
        "jobs",
        "main",
        "mcp",
        "options",
        "plugins",
        "program",
        "projects",
        "service",
        "sessions",
        "tokens",
        "work",
    )
    commands = {f"cli.{name}" for name in modules}
    allowed = {"cli", "cli.exitcodes", "errors", "model"} | commands
    assert ours <= {
        "streamer",
        "streamer.model.scopes",
        "streamer.model.terminal",
        *(f"streamer.{name}" for name in allowed),
    }
    heavy = {"aiohttp", "asyncio", "importlib.metadata", "logging", "msgspec", "pluggy", "rich"}
    assert not heavy & found


def test_running_a_program_here_needs_neither_http_nor_tables(tmp_path: Path) -> None:
    (tmp_path / "hello.sh").write_text("echo hello")
    found = imported_by(tmp_path, "run", "-n", "--sandbox", "plain", "hello.sh")
    assert {"streamer.compose", "streamer.worker.execution"} <= found
    assert not {"aiohttp", "aiohttp_sse", "rich", "streamer.web.app", "streamer.client"} & found


@pytest.mark.slow
@pytest.mark.timeout(400)  # some five hundred processes, beside those of other tests
def test_each_module_imports_alone() -> None:
    # Third-party packages are loaded once; each of our modules is the first in a new process.
    program = """
import importlib, os, sys
import aiohttp.web, aiohttp_sse, click, limits, mcp.server, msgspec, pluggy, pydantic
import redis.asyncio, rich.console, rich.table
for module in sys.argv[1:]:
    child = os.fork()
    if not child:
        importlib.import_module(module)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, module
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *MODULES],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_importing_has_no_side_effect() -> None:
    program = """
import asyncio, logging, signal, threading
before = (logging.root.handlers[:], signal.getsignal(signal.SIGTERM), threading.active_count())
import streamer, streamer.cli.main
after = (logging.root.handlers[:], signal.getsignal(signal.SIGTERM), threading.active_count())
assert before == after, (before, after)
assert asyncio.get_event_loop_policy()._local._loop is None
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_built_in_sandboxes_are_beside_us() -> None:
    assert Path(sandboxes.__file__).parent.parent == ROOT
