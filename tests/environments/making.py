"""Make environments without a registry: by hand, or of packages that are made here."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from streamer.config.schema import Config
from streamer.environments import tree
from streamer.environments.build import build
from streamer.environments.manifest import MANIFEST, Manifest
from streamer.environments.packages import Wanted
from streamer.model.environment import Environment
from streamer.model.languages import DEFAULT_RUNTIMES

PATH = Config().sandbox.path


def made_for_python(folder: Path, modules: Mapping[str, str]) -> dict[str, Any]:
    """Make a virtual environment with modules, as a build would; return its table."""
    built = _built(folder, "python")
    (site,) = folder.glob("lib/python3*/site-packages")
    for name, text in modules.items():
        (site / f"{name}.py").write_text(text)
    return _listed(folder, built, modules)


def made_for_node(folder: Path, modules: Mapping[str, str]) -> dict[str, Any]:
    """Make a folder of packages as a build would; return its table."""
    built = _built(folder, "javascript")
    for name, text in modules.items():
        package = folder / "node_modules" / name
        package.mkdir()
        (package / "package.json").write_text(json.dumps({"name": name, "main": "index.js"}))
        (package / "index.js").write_text(text)
    return _listed(folder, built, modules)


def _built(folder: Path, language: str) -> Manifest:
    environment = Environment(folder.name, (language,), str(folder))
    return build(environment, DEFAULT_RUNTIMES[language], PATH, Wanted((), ()))


def _listed(folder: Path, built: Manifest, modules: Mapping[str, str]) -> dict[str, Any]:
    manifest = msgspec.structs.replace(built, packages=dict.fromkeys(modules, "1.0"))
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    tree.settle(folder, built.interpreter)
    return {"languages": [built.language], "path": str(folder)}


def wheel(
    folder: Path,
    name: str,
    text: str,
    *,
    scripts: Mapping[str, str] | None = None,
    needs: str = "",
) -> Path:
    """Write a wheel with one module, and commands that call functions of it."""
    info = f"{name}-1.0.dist-info"
    required = f"Requires-Dist: {needs}\n" if needs else ""
    files = {
        f"{name}.py": text,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{required}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if scripts:
        lines = [f"{command} = {call}" for command, call in scripts.items()]
        files[f"{info}/entry_points.txt"] = "\n".join(["[console_scripts]", *lines, ""])
    record = []
    for each, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=")
        record.append(f"{each},sha256={digest.decode()},{len(content.encode())}")
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in files.items():
            archive.writestr(each, content)
    return path


def tarball(folder: Path, name: str, files: Mapping[str, str]) -> Path:
    """Write a tar.gz of files, as source packages and those of npm are."""
    path = folder / name
    with tarfile.open(path, "w:gz") as archive:
        for each, content in files.items():
            info = tarfile.TarInfo(each)
            info.size = len(content.encode())
            archive.addfile(info, io.BytesIO(content.encode()))
    return path
