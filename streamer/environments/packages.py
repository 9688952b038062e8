"""Install packages into a new folder, by pip or by npm, without running code of theirs.

A wheel is only unpacked. A source package runs its own code when it is built, and packages of npm
may have scripts that run when they are installed, or come from a repository, where they are built:
as the operator, on the host, with the network. So nothing of this is done unless the operator
allows it. The interpreter of the new environment is not run on the host any more once something is
in it, since a package may have code that runs at its start.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from streamer.environments.fault import EnvironmentFault
from streamer.model.environment import LOADER

__all__ = ["Wanted", "install_for_node", "install_for_python", "version_of"]

REFUSED: Final = "streamer: no package may run code here"

GUARDED_PIP: Final = f"""
import importlib.machinery, os.path, runpy, sys

class OnlyPip:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "pip":
            return importlib.machinery.PathFinder.find_spec(name, [place], target)

def hook(event, args):
    starts = ("subprocess.Popen", "os.posix_spawn", "os.exec", "os.system", "os.fork", "os.forkpty")
    if event in starts and not allowed:
        # To build a package takes a program; so does to ask for a password, which is no package's.
        if event != "subprocess.Popen" or os.path.basename(str(args[0])) != "keyring":
            raise PermissionError("{REFUSED}")

place, allowed = sys.argv[1], sys.argv[2] == "allow"
sys.addaudithook(hook)
sys.meta_path.insert(0, OnlyPip)
del sys.argv[1:3]
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
"""Runs pip in the interpreter of the environment, which has none, and lets it start no program.

Its own option (--only-binary) is not enough: a file of requirements may undo it, and an address of
an archive, a folder or a repository is built whatever it says.
"""

FIND_PIP: Final = "import os.path, pip; print(os.path.dirname(os.path.dirname(pip.__file__)))"

OURS: Final = ("ROOT", "TARGET", "PREFIX", "USER", "PYTHON", "REQUIRE_VIRTUALENV", "DRY_RUN")
"""Variables of pip that say where to install; those that say from where stay the operator's."""

LOCKS: Final = ("npm-shrinkwrap.json", "package-lock.json")

GUARD: Final = "streamer-guard.cjs"
GUARDED_NPM: Final = f"""\
const starts = require("child_process");
const refuse = () => {{ throw new Error("{REFUSED}"); }};
starts.ChildProcess.prototype.spawn = refuse;
for (const name of Object.keys(starts))
    if (/^(spawn|exec|fork)/.test(name)) starts[name] = refuse;
require("module").syncBuiltinESMExports();
"""
"""Read by npm before all else: it starts no program.

Its own option (--ignore-scripts) is not enough: what comes from a repository is built by another
npm in a folder with settings of the package's (.npmrc), which say what that starts.
"""

LINKS: Final = """\
// Node.js looks for the packages of `import` in folders above the program only.
const fs = require("fs"), path = require("path");
try {
    fs.symlinkSync(path.join(__dirname, "node_modules"), "node_modules");
} catch {
    // The program has brought packages of its own, or has been here before.
}
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to install: files of requirements, names of packages, and whether their code may run."""

    files: tuple[Path, ...]
    packages: tuple[str, ...]
    allow_source: bool = False


def version_of(interpreter: str) -> str:
    """Return the version that the interpreter says. Raises `EnvironmentFault` if it says none."""
    said = _run((interpreter, "--version"), quiet=True).split()
    return said[-1].removeprefix("v") if said else ""


def install_for_python(folder: Path, interpreter: str, wanted: Wanted) -> Mapping[str, str]:
    """Make a virtual environment with the packages; return those that it has.

    Raises `EnvironmentFault`.
    """
    _run((interpreter, "-I", "-m", "venv", "--without-pip", "--symlinks", str(folder)))
    if not (wanted.files or wanted.packages):
        return {}
    pip = _folder_of_pip(interpreter)
    options = ["--no-input", "--disable-pip-version-check", "--no-warn-script-location"]
    if os.geteuid() == 0:
        options += ["--root-user-action", "ignore"]
    if not wanted.allow_source:
        options += ["--only-binary", ":all:"]
    for file in wanted.files:
        options += ["-r", str(file)]
    guard = "allow" if wanted.allow_source else "forbid"
    python = str(folder / "bin" / "python")
    command = (python, "-I", "-c", GUARDED_PIP, pip, guard, "install", *options, "--")
    _run((*command, *wanted.packages), name="pip")
    (site,) = folder.glob("lib/python3*/site-packages")
    found = importlib.metadata.distributions(path=[str(site)])
    return dict(sorted((each.metadata["Name"], each.version) for each in found))


def _folder_of_pip(interpreter: str) -> str:
    """Return the folder that has a pip: that of this program's Python, or the interpreter's."""
    here = importlib.util.find_spec("pip")
    if here is not None and here.origin is not None:
        return str(Path(here.origin).parent.parent)
    asked = subprocess.run(
        (interpreter, "-I", "-c", FIND_PIP), capture_output=True, text=True, check=False
    )
    if asked.returncode != 0:
        raise EnvironmentFault(
            f"pip is missing: install it for {sys.executable} (python -m ensurepip) or for "
            f"{interpreter} (on Debian the package python3-pip)"
        )
    return asked.stdout.strip()


def install_for_node(folder: Path, wanted: Wanted) -> Mapping[str, str]:
    """Install the packages, with what they need; return those that were asked for.

    A file of requirements is a package.json; one package-lock.json beside it is obeyed. Raises
    `EnvironmentFault`.
    """
    modules = folder / "node_modules"
    modules.mkdir()
    (folder / LOADER).write_text(LINKS)
    if not (wanted.files or wanted.packages):
        return {}
    npm = shutil.which("npm")
    if npm is None:
        raise EnvironmentFault("npm is not installed: on Debian it is the package npm")
    if len(wanted.files) > 1:
        raise EnvironmentFault("npm takes one package.json")
    words = ["ci" if _copied(folder, wanted.files) and not wanted.packages else "install"]
    variables = {}
    if not wanted.allow_source:
        words.append("--ignore-scripts")
        (folder / GUARD).write_text(GUARDED_NPM)
        variables["NODE_OPTIONS"] = _requiring(folder / GUARD)
    words += ["--omit=dev", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    # npm would look for files from the new folder.
    packages = [
        str(Path(each).absolute()) if each.startswith((".", "/")) else each
        for each in wanted.packages
    ]
    command = (npm, "--prefix", str(folder), *words, "--", *packages)
    _run(command, cwd=folder, variables=variables)
    package = _document(folder / "package.json")
    asked = package.get("dependencies")
    versions = {
        name: str(_document(modules / name / "package.json").get("version", ""))
        for name in (asked if isinstance(asked, dict) else ())
    }
    # They have the address of the registry, and paths of the operator's.
    for name in ("package.json", *LOCKS, "node_modules/.package-lock.json", GUARD):
        (folder / name).unlink(missing_ok=True)
    return dict(sorted(versions.items()))


def _requiring(module: Path) -> str:
    """Return the options of Node.js with which every program of it reads a module first."""
    quoted = str(module).replace("\\", "\\\\").replace('"', '\\"')
    return f'{os.environ.get("NODE_OPTIONS", "")} --require "{quoted}"'.strip()


def _copied(folder: Path, files: Sequence[Path]) -> bool:
    """Copy the package.json and its lock file into a folder; return whether there is the latter."""
    if not files:
        (folder / "package.json").write_text('{"private": true}\n')
        return False
    (source,) = files
    shutil.copyfile(source, folder / "package.json")
    for name in LOCKS:
        if (lock := source.parent / name).is_file():
            shutil.copyfile(lock, folder / name)
            return True
    return False


def _document(path: Path) -> dict[str, object]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _run(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
    quiet: bool = False,
    name: str = "",
) -> str:
    """Run a command whose messages are the operator's to see; return what it prints, if `quiet`.

    `variables` are for it besides the operator's. Raises `EnvironmentFault` if it fails, with its
    `name` for people.
    """
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTHON") and name not in {f"PIP_{ours}" for ours in OURS}
    }
    environ |= variables
    try:
        ran = subprocess.run(
            command,
            cwd=cwd,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if quiet else sys.stderr,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            umask=0o022,
            check=False,
        )
    except OSError as error:
        raise EnvironmentFault(f"{command[0]} cannot be started: {error.strerror}") from None
    if ran.returncode == 0:
        return ran.stdout or ""
    if REFUSED in ran.stderr:
        raise EnvironmentFault(
            "a package comes as source, which runs its own code on this host when it is built; "
            "name a version that is built (a wheel; for npm none from a repository), or allow it "
            "with --allow-source\n"
            f"{_last(ran.stderr, without=REFUSED)}"
        )
    raise EnvironmentFault(f"{name or Path(command[0]).name} failed:\n{_last(ran.stderr)}")


def _last(text: str, *, without: str = "") -> str:
    """Return the last lines of what a command has said."""
    lines = [line for line in text.splitlines() if line.strip()]
    if without:
        lines = [line for line in lines if without not in line]
    return "\n".join(lines[-20:])
