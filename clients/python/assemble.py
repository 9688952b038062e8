"""Make the project of aiohttp-streamer-client from the sources of the client in this repository.

The modules that `streamer.client` imports become the package `streamer_client`, under names of its
own, so that it can be installed beside aiohttp-streamer: no file belongs to both::

    streamer.client.*          streamer_client.*
    streamer.events, .errors   streamer_client.events, .errors
    streamer.anything.else     streamer_client._shared.anything.else

Usage: python clients/python/assemble.py FOLDER
"""

from __future__ import annotations

import ast
import re
import shutil
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PUBLIC: Final = ("streamer.client", "streamer.events", "streamer.errors")
SHARED: Final = "streamer_client._shared"
NAME: Final = re.compile(r"\bstreamer((?:\.[a-z_]+)+)")
FACE: Final = re.compile(r"\bstreamer\.(?=[A-Z])")
"""A name that the package itself exports, in a text."""


def source(module: str) -> Path | None:
    """Return the file of a module, or None if that is no module."""
    path = ROOT.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def imported(file: Path) -> set[str]:
    """Return the modules of streamer that a module names in its imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("streamer.") and source(name)}


def needed() -> dict[str, Path]:
    """Return all modules that the client consists of, with their files."""
    found: dict[str, Path] = {}
    left = list(PUBLIC)
    while left:
        module = left.pop()
        file = source(module)
        if module == "streamer" or module in found or file is None:
            continue
        found[module] = file
        left += [*imported(file), module.rpartition(".")[0]]
    return found


def renamed(module: str) -> str:
    """Return the name that a module has in the package."""
    for public in PUBLIC:
        if module == public or module.startswith(f"{public}."):
            return "streamer_client" + module.removeprefix("streamer").removeprefix(".client")
    return SHARED + module.removeprefix("streamer")


def rewritten(text: str, modules: dict[str, Path]) -> str:
    """Return a source with the new names of these modules."""

    def replaced(match: re.Match[str]) -> str:
        module, rest = match[0], ""
        while module != "streamer":
            if module in modules:
                return renamed(module) + rest
            module, _, last = module.rpartition(".")
            rest = f".{last}{rest}"
        return match[0]

    return FACE.sub("streamer_client.", NAME.sub(replaced, text))


def assemble(folder: Path) -> None:
    """Write the project into a new folder."""
    modules = needed()
    for module, file in modules.items():
        place = folder.joinpath(*renamed(module).split("."))
        place = place / "__init__.py" if file.name == "__init__.py" else place.with_suffix(".py")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(rewritten(file.read_text(), modules))
    package = folder / "streamer_client"
    (package / "_shared" / "__init__.py").write_text(
        '"""What the client shares with the service."""\n'
    )
    (package / "py.typed").touch()
    version = re.search(
        r'^__version__ = "(.+)"$', (ROOT / "streamer/__init__.py").read_text(), re.MULTILINE
    )
    assert version is not None
    here = Path(__file__).parent
    project = (here / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text(project.replace('"0"', f'"{version[1]}"', 1))
    shutil.copy(here / "README.md", folder)
    shutil.copy(ROOT / "LICENSE", folder)


if __name__ == "__main__":
    assemble(Path(sys.argv[1]))
