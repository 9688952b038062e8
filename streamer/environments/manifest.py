"""What a built environment has, as its build has written it down, and whether it can be used."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from streamer.environments.fault import EnvironmentFault
from streamer.model.capabilities import EnvironmentFacts
from streamer.model.environment import Environment, Kind, kind_of
from streamer.model.runtime import Runtime

__all__ = ["MANIFEST", "Manifest", "find_interpreter", "found", "look", "manifest_of"]

MANIFEST: Final = "streamer-environment.json"
FORMAT: Final = 1
"""Another number is of another version of this program, which has to build again."""
MOST_BYTES: Final = 4 * 1024 * 1024
CLOSED_TO: Final = stat.S_IWGRP | stat.S_IWOTH


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """What a build has made."""

    kind: Kind
    language: str
    interpreter: str
    """The program that it was built for, without links."""
    version: str
    """What that said of itself."""
    packages: Mapping[str, str]
    """The names that programs may rely on, with versions."""
    built_at: str
    """When: ISO 8601, UTC."""
    format: int = FORMAT


def manifest_of(folder: Path) -> Manifest:
    """Read the manifest in a folder. Raises `EnvironmentFault`."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        manifest = msgspec.json.decode(text, type=Manifest)
    except FileNotFoundError:
        raise EnvironmentFault(f"nothing is built in {folder}") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise EnvironmentFault(f"{folder / MANIFEST} cannot be read: {error}") from None
    if manifest.format != FORMAT:
        raise EnvironmentFault(f"{folder} was built by another version of streamer")
    return manifest


def find_interpreter(runtime: Runtime, path: str) -> str | None:
    """Return the program that runs the language, without links; `path` is the jobs' PATH."""
    found = shutil.which(runtime.run[0], path=path)
    return None if found is None else os.path.realpath(found)


def found(environment: Environment, runtimes: Mapping[str, Runtime], path: str) -> Manifest:
    """Return what an environment has; `runtimes` by name and alias, `path` the jobs' PATH.

    Raises `EnvironmentFault` with the reason and the remedy.
    """
    folder = Path(environment.path)
    again = f"streamer environment build {environment.name} --language {environment.languages[0]}"
    try:
        manifest = manifest_of(folder)
        _check_closed(folder)
    except EnvironmentFault as unusable:
        raise EnvironmentFault(f"{unusable}; build it: {again}") from None
    for name in environment.languages:
        runtime = runtimes[name]
        if manifest.kind != kind_of(runtime):
            raise EnvironmentFault(f"{folder} has packages for {manifest.language}, not for {name}")
        interpreter = find_interpreter(runtime, path)
        # Node.js runs what it is given; an extension of Python is for one version.
        if manifest.kind == "python" and interpreter != manifest.interpreter:
            raise EnvironmentFault(
                f"it was built for {manifest.interpreter}, and {name} is now "
                f"{interpreter or 'not installed'}; build it again: {again}"
            )
    return manifest


def look(
    environments: Mapping[str, Environment], runtimes: Mapping[str, Runtime], path: str
) -> dict[str, EnvironmentFacts]:
    """Return what is there of all environments; see `found`."""
    facts = {}
    for name, environment in environments.items():
        try:
            packages = found(environment, runtimes, path).packages
        except (EnvironmentFault, OSError) as fault:
            facts[name] = EnvironmentFacts(reason=str(fault))
        else:
            facts[name] = EnvironmentFacts(packages=packages)
    return facts


def _check_closed(folder: Path) -> None:
    """Raise `EnvironmentFault` if others could write to it, or root's jobs not read it."""
    root = os.geteuid() == 0
    for place in (folder, folder / MANIFEST):
        is_at = place.stat()
        if is_at.st_uid not in (0, os.geteuid()):
            raise EnvironmentFault(f"{place} belongs to another user")
        if is_at.st_mode & CLOSED_TO:
            raise EnvironmentFault(f"other users may write to {place}")
    for above in folder.resolve().parents if root else ():
        if not above.stat().st_mode & stat.S_IXOTH:
            raise EnvironmentFault(
                f"{above} is closed to the users that jobs run as: `chmod o+x {above}`, or "
                "another path"
            )
