"""Hold the structure: who may import whom, what is public, and that importing does nothing."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sandboxes
import streamer

ROOT = Path(streamer.__file__).parent.parent

THEMES = (
    *(
        "compiling",
        "files",
        "hostwide",
        "information",
        "kernel",
        "lifetime",
        "memory",
        "namespaces",
    ),
    *("neighbours", "network", "planted", "privileges", "processes", "storage", "usage"),
    "verdicts",
)
"""The modules of attacks, which know nothing of each other but come in one line all the same."""

# A module may import from its own layer's left and from the layers below, never from above.
# Within a line the order is the order of dependence.
ROOMS = (
    *(
        "model",
        "config",
        "eventlog",
        "engine",
        "sandbox",
        "sandbox.network",
        "worker",
        "jobs",
    ),
    *("web", "web.callers", "web.server", "cli", "doctor"),
)
"""Packages that hold nothing but a docstring."""

LAYERS = (
    ("errors", *ROOMS),
    ("sandbox.seccomp.rules", "sandbox.seccomp.generate", "sandbox.seccomp"),
    (
        "model.job",
        "model.sizes",
        "config.tree",
        "config.presets",
        "model.hosts",
        "sandbox.network.request",
    ),
    ("model.events", "events", "spi"),
    (
        "eventlog.frames",
        "eventlog.pages",
        "eventlog.spool",
        "eventlog.block",
        "eventlog.cursor",
        "eventlog.log",
        "eventlog.joblog",
        "model.runtime",
    ),
    ("engine.interface", "config.section", "config.auth", "config.schema"),
    (
        "engine.memory.inbox",
        "engine.memory.fairqueue",
        "engine.memory.forgottenkeys",
        "engine.memory.pace",
        "engine.memory.admission",
        "engine.memory.weight",
        "engine.memory.jobtable",
        "engine.memory.retention",
        "engine.memory.lease",
        "engine.memory.engine",
        "engine.memory",
    ),
    (
        "config.file",
        "config.load",
        "config.text",
        "model.terminal",
        "web.server.logs",
        "hookspecs",
        "plugins",
    ),
    (
        "sandbox.netns",
        "sandbox.channel",
        "sandbox.stopped",
        "sandbox.slots",
        "sandbox.cgroups.files",
        "sandbox.cgroups.job",
        "sandbox.cgroups.v1",
        "sandbox.cgroups.v2",
        "sandbox.cgroups.tree",
        "sandbox.cgroups",
        "sandbox.rootfs",
        "sandbox.spawn",
        "sandbox.workspace",
        "worker.output",
        "worker.feed",
        "sandbox.direct",
        "sandbox.driver",
        "sandbox.confine",
        "sandbox.network.proxy",
        "worker.verdict",
        "worker.finish",
        "worker.asked",
        "worker.program",
        "worker.execution",
    ),
    (
        "config.shares",
        "engine.measures",
        "sandbox.enforcement",
        "sandbox.claims",
        "sandbox.registry",
        "jobs.resolve",
        "jobs.pythonic",
        "worker.policy",
        "jobs.service",
    ),
    (
        "sse.response",
        "sse.bytestream",
        "sse.outgoing",
        "sse.session",
        "sse.sessionmap",
        "sse.sources",
        "sse.sink",
        "sse.channel",
        "sse.push",
        "sse",
    ),
    (
        "web.watching",
        "jobs.transcript",
        "jobs.downloads",
        "web.documents",
        "jobs.replay",
        "web.wire",
        "web.problems",
        "web.callers.origin",
        "web.callers.sockdiag",
        "web.callers.connection",
        "web.parameters",
        "web.bodies",
        "web.callers.address",
        "web.callers.access",
        "web.metrics",
        "web.page",
        "web.streams",
        "web.handlers",
    ),
    (
        "compose",
        "client.request",
        "client.problem",
        "client.client",
        "client",
        "web.server.unhandled",
        "web.server.connection_limit",
        "web.server.serve",
    ),
    (
        "cli.stdio",
        "cli.input",
        "cli.demo",
        "cli.options",
        "cli.submission",
        "cli.run",
        "doctor.hostfacts",
        "doctor.lures",
        "doctor.trial",
        "doctor.probes",
        "doctor.report",
    ),
    (
        *("testing.programs", "testing.processes", "testing.running", "testing.attack"),
        *(f"testing.attacks.{name}" for name in THEMES),
        *(
            "testing.attacks",
            "testing.failures",
            "testing.campaign",
            "testing.advice",
            "testing.suite",
            "testing.escape",
        ),
        *(f"testing.conformance.{name}" for name in ("base", "programs", "limits", "trees")),
        *("testing.conformance", "testing", "testing.matrix"),
    ),
    ("", "cli.main", "__main__"),
)
RANK = {
    name: (depth, place) for depth, layer in enumerate(LAYERS) for place, name in enumerate(layer)
}
WEB = ("aiohttp", "aiohttp_sse", "multidict", "yarl")


def modules(package: str) -> list[str]:
    """Return the dotted names of a package and everything in it."""
    found = importlib.import_module(package)
    inside = pkgutil.walk_packages(found.__path__, f"{package}.")
    return [package, *(module.name for module in inside)]


def source_of(module: str) -> Path:
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports_of(module: str) -> Iterator[str]:
    """Yield what a module imports when it runs, not what only its types name."""
    tree = ast.parse(source_of(module).read_text())
    typing_only = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and ast.unparse(test.test) == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module} imports relatively"
            if node.module in ("streamer", "sandboxes"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


STREAMER = modules("streamer")
SANDBOXES = modules("sandboxes")
MODULES = [name for name in STREAMER + SANDBOXES if name != "streamer.__main__"]


def short(module: str) -> str:
    return module.removeprefix("streamer").removeprefix(".")


@pytest.mark.parametrize("module", STREAMER)
def test_imports_point_down_only(module: str) -> None:
    assert short(module) in RANK, f"{module} has no place in LAYERS"
    for imported in imports_of(module):
        if not imported.startswith("streamer"):
            continue
        name = short(imported)
        while name not in RANK:  # a name inside a module
            name = name.rpartition(".")[0]
        if name == "" and module != "streamer.__main__":
            assert module == "streamer.cli.main", f"{module} imports the package's public face"
            continue
        assert RANK[name] < RANK[short(module)], f"{module} imports {imported}"


@pytest.mark.parametrize("module", SANDBOXES)
def test_backends_import_only_what_a_stranger_may(module: str) -> None:
    ours = [name for name in imports_of(module) if name.split(".")[0] in ("streamer", "sandboxes")]
    assert set(ours) <= {"streamer.spi"}


@pytest.mark.parametrize("module", [m for m in STREAMER if RANK[short(m)] < RANK["sse.response"]])
def test_the_core_knows_no_http(module: str) -> None:
    assert not [name for name in imports_of(module) if name.split(".")[0] in WEB]


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_declared_sorted_and_there(module: str) -> None:
    loaded = importlib.import_module(module)
    if module == "sandboxes" or short(module) in ROOMS:
        return
    declared = loaded.__all__
    # Constants, then classes, then the rest, as ruff's RUF022 has it.
    order = sorted(declared, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert list(declared) == order
    assert [name for name in declared if not hasattr(loaded, name)] == []


def test_the_public_face_is_what_is_documented() -> None:
    assert streamer.__all__ == [
        "Client",
        "Config",
        "Event",
        "JobSpec",
        "Limits",
        "ServiceProblem",
        "SourceFile",
        "create_app",
        "get_service",
        "get_sessions",
        "hookimpl",
        "load_config",
        "setup",
    ]


def test_each_module_imports_alone() -> None:
    # Others' packages are loaded once; each of ours is first in a process of its own.
    program = """
import importlib, os, sys
import aiohttp.web, aiohttp_sse, click, msgspec, pluggy, rich.console, rich.table
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
