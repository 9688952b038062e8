"""The distribution aiohttp-streamer-client: built, installed alone, and used with a service."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.client.served import served

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "client" / "small_client.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("service")) as address:
        yield address


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("project")
    run(sys.executable, str(ROOT / "clients/python/assemble.py"), str(project))
    build = "from setuptools import build_meta; build_meta.build_wheel('out')"
    run(sys.executable, "-c", build, cwd=project)
    (built,) = (project / "out").iterdir()
    return built


def run(*argv: str, cwd: Path | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def required(wheel: Path) -> set[str]:
    """Return the names of the distributions that the wheel needs, directly or not."""
    (found,) = importlib.metadata.distributions(path=[str(wheel)])
    left = [*(found.requires or ())]
    names: set[str] = set()
    while left:
        requirement = Requirement(left.pop())
        name = canonicalize_name(requirement.name)
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if needed and name not in names:
            names.add(name)
            left += importlib.metadata.requires(name) or ()
    return names


def test_it_works_alone_with_what_it_declares(wheel: Path, url: str, tmp_path: Path) -> None:
    """What it needs is linked in, since a test installs nothing from elsewhere; CI does."""
    venv.create(tmp_path / "alone")
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(tmp_path / "alone")}))
    with zipfile.ZipFile(wheel) as archive:
        assert {Path(name).parts[0] for name in archive.namelist()} == {
            "streamer_client",
            f"{wheel.name.partition('-py3')[0]}.dist-info",
        }
        archive.extractall(packages)
    needed = required(wheel)
    assert {"aiohttp", "msgspec", "yarl"} <= needed
    assert not needed & {"aiohttp-streamer", "aiohttp-sse", "pluggy", "limits", "zstandard"}
    for name in needed:
        files = importlib.metadata.files(name)
        assert files is not None
        for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
            (packages / top).symlink_to(
                Path(str(importlib.metadata.distribution(name).locate_file(top)))
            )
    python = tmp_path / "alone" / "bin" / "python"
    assert run(str(python), "-I", "-W", "error", str(PROGRAM), url, cwd=tmp_path) == "ok\n"


def test_it_works_beside_the_service(wheel: Path, url: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    start = f"import sys; sys.path.append({str(tmp_path)!r}); sys.argv = ['', {url!r}, 'beside']"
    program = f"{start}; import runpy; runpy.run_path({str(PROGRAM)!r}, run_name='__main__')"
    assert run(sys.executable, "-W", "error", "-c", program, cwd=ROOT) == "ok\n"


def test_it_is_typed(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        assert (
            f"\nVersion: {importlib.metadata.version('aiohttp-streamer')}\n"
            in archive.read(metadata).decode()
        )
    (tmp_path / "program.py").write_text(
        "import streamer_client\n"
        "with streamer_client.SyncClient('http://127.0.0.1:1') as client:\n"
        "    for event in client.run(language='python', code=''):\n"
        "        if event.kind == 'output':\n"
        "            text: str = event.data.data\n"
    )
    cache = ("--cache-dir", str(ROOT / ".mypy_cache" / "small"))
    run(sys.executable, "-m", "mypy", "--strict", *cache, "program.py", cwd=tmp_path)
