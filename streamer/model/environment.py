"""One set of packages that the operator has built, and how programs are run with it.

An interpreter finds packages in its own ways: a virtual environment of Python has an interpreter of
its own; Node.js looks in folders above the program, so what the build has put beside the packages
is loaded first and makes them known.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Final, Literal

from streamer.errors import ConfigError
from streamer.model.runtime import PYTHON, VARIABLE, Runtime

__all__ = ["LOADER", "NOT_BUILT", "Environment", "Kind", "kind_of"]

Kind = Literal["python", "node"]
"""The interpreter that finds the packages."""

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
NODE: Final = re.compile(r"node(js)?(\d+)?")
LOADER: Final = "streamer-environment.cjs"
"""The file beside packages of Node.js that makes them known to a program."""

NOT_BUILT: Final = "it is not built here; its operator sees why with: streamer environment list"
"""What callers are told of any reason: it has paths of the host."""

OF_PYTHON: Final = {
    # Else the linear algebra of numpy starts a thread for each of the host's processors, of which
    # a job may have few; each place of the service would.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class Environment:
    """Packages in the folder `path`, for programs in `languages`.

    `variables` are set for programs that run with it. Raises `ConfigError`.
    """

    name: str
    languages: tuple[str, ...]
    path: str
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for key, wrong in self._faults():
            raise ConfigError(f"{f'environments.{self.name}.{key}'.rstrip('.')}: {wrong}")

    def _faults(self) -> Iterator[tuple[str, str]]:
        if not NAME.fullmatch(self.name):
            yield "", "use only letters, digits, _ and - in a name, at most 64"
        if not self.languages:
            yield "languages", 'write the languages that it is for, such as ["python"]'
        path = PurePosixPath(self.path)
        if not path.is_absolute() or ".." in path.parts or "\0" in self.path:
            yield "path", f"{self.path!r}: write an absolute path without .."
        elif len(path.parts) < 3 or path.parts[1] in ("proc", "dev", "etc", "work"):
            yield "path", f"{self.path!r} would hide a part of the sandbox; use another folder"
        for name, value in self.variables.items():
            if not VARIABLE.fullmatch(name) or "\0" in value:
                yield (
                    f"variables.{name}",
                    "use only letters, digits and _ in the name, and no NUL in the value",
                )

    def applied(self, runtime: Runtime, search: str) -> Runtime:
        """Return the language as its programs run with these packages.

        `search` is the PATH of the jobs. Nothing of it is started before its job: what is made
        ahead is for what most jobs want.
        """
        kind = kind_of(runtime)
        assert kind is not None
        if kind == "python":
            run = (f"{self.path}/bin/python", *runtime.run[1:])
            env = {**OF_PYTHON, "VIRTUAL_ENV": self.path, "PATH": f"{self.path}/bin:{search}"}
        else:
            packages = f"{self.path}/node_modules"
            run = (runtime.run[0], f"--require={self.path}/{LOADER}", *runtime.run[1:])
            env = {"NODE_PATH": packages, "PATH": f"{packages}/.bin:{search}"}
        return replace(
            runtime,
            run=run,
            env={**env, **runtime.env, **self.variables},
            read_only=(*runtime.read_only, self.path),
            warm=False,
            fork=False,
        )


def kind_of(runtime: Runtime) -> Kind | None:
    """Return which interpreter runs a language's programs, or None if there are no packages for it.

    A compiler would have to find the packages too.
    """
    if runtime.compile:
        return None
    program = posixpath.basename(runtime.run[0])
    if PYTHON.fullmatch(program):
        return "python"
    return "node" if NODE.fullmatch(program) else None
