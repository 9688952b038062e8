"""Build an environment, list those that are there, remove one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from streamer.environments import tree
from streamer.environments.fault import EnvironmentFault
from streamer.environments.manifest import (
    MANIFEST,
    Manifest,
    find_interpreter,
    manifest_of,
)
from streamer.environments.packages import (
    Wanted,
    install_for_node,
    install_for_python,
    version_of,
)
from streamer.model.environment import Environment, kind_of
from streamer.model.runtime import Runtime

__all__ = ["build", "built_in", "remove"]


def build(environment: Environment, runtime: Runtime, path: str, wanted: Wanted) -> Manifest:
    """Build it for the interpreter of a language, in the place of what is there.

    `path` is the jobs' PATH. It runs pip or npm, which say on standard error what they do. What is
    there stays if it fails. Raises `EnvironmentFault`.
    """
    kind = kind_of(runtime)
    if kind is None:
        raise EnvironmentFault(
            f"{runtime.name} can have no packages; only languages can whose programs Python or "
            "Node.js runs, without a compiler"
        )
    interpreter = find_interpreter(runtime, path)
    if interpreter is None:
        raise EnvironmentFault(f"{runtime.run[0]} is not installed: looked in {path}")
    for file in wanted.files:
        if not file.is_file():
            raise EnvironmentFault(f"{file}: there is no such file")
    target = Path(environment.path)
    _check_ours(target)
    with tree.fresh_folder(target) as folder:
        if kind == "python":
            packages = install_for_python(folder, interpreter, wanted)
            tree.relocate(folder / "bin", folder, target)
        else:
            packages = install_for_node(folder, wanted)
        manifest = Manifest(
            kind=kind,
            language=runtime.name,
            interpreter=interpreter,
            version=version_of(interpreter),
            packages=packages,
            built_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        document = msgspec.json.format(msgspec.json.encode(manifest))
        (folder / MANIFEST).write_bytes(document)
        tree.settle(folder, interpreter)
        tree.put_in_place(folder, target)
    return manifest


def built_in(folder: Path) -> dict[str, Manifest]:
    """Return what was built in a folder, by name."""
    built = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            if not path.name.startswith("."):
                built[path.name] = manifest_of(path)
        except EnvironmentFault:
            continue
    return built


def remove(environment: Environment) -> None:
    """Remove it. Raises `EnvironmentFault` if it was not built by this program."""
    target = Path(environment.path)
    _check_ours(target)
    if not target.exists():
        raise EnvironmentFault(f"nothing is built in {target}")
    tree.remove(target)


def _check_ours(target: Path) -> None:
    """Raise `EnvironmentFault` if something else is there: a build would take its place."""
    if target.exists() and not (target / MANIFEST).is_file():
        raise EnvironmentFault(f"{target} was not built by this program; it stays as it is")
