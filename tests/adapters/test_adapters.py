"""Run each script of this folder in the environment of the packages, on a real service."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestServer

import streamer

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements" / "adapters.txt"
PLACE = ROOT / "build" / "adapters"

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest.fixture(scope="module")
def python() -> Path:
    """Return the interpreter of the packages' environment, which is made once for a lock file."""
    stamp = PLACE / hashlib.sha256(LOCK.read_bytes()).hexdigest()
    python = PLACE / "bin" / "python"
    if not stamp.exists():
        shutil.rmtree(PLACE, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", PLACE], check=True)
        pip = ["-m", "pip", "-qq", "--disable-pip-version-check", "--no-input", "install"]
        subprocess.run([python, *pip, "--require-hashes", "-r", LOCK], check=True)
        stamp.touch()
    return python


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url() -> AsyncIterator[str]:
    config = {
        "sandbox": {"backend": "bwrap"},
        "server": {"drain_s": 0},
        "compat": {"enabled": ["sandboxfusion"]},
    }
    async with TestServer(streamer.create_app(config)) as server:
        yield str(server.make_url("/")).rstrip("/")


async def run(python: Path, script: str, url: str) -> str:
    path = f"{ROOT}:{ROOT / 'examples' / 'adapters'}"
    process = await asyncio.create_subprocess_exec(
        python,
        Path(__file__).with_name(script),
        url,
        env={**os.environ, "PYTHONPATH": path},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, f"{out.decode()}\n{err.decode()}"
    return out.decode()


@pytest.mark.parametrize(
    "script", ["for_deepagents.py", "for_sandboxfusion.py", "for_smolagents.py"]
)
async def test_a_package_works_with_a_service(python: Path, url: str, script: str) -> None:
    await run(python, script, url)


async def test_inspects_own_checks_of_a_sandbox_pass(python: Path, url: str) -> None:
    went = json.loads((await run(python, "for_inspect.py", url)).splitlines()[-1])
    failed = {name: why for name, why in went.items() if why}
    assert len(went) > 40
    # There is one user in a sandbox, which it says as Inspect wants it.
    assert failed.keys() == {"test_exec_as_user"}, failed
    assert "SandboxUserUnsupportedError" in failed["test_exec_as_user"]
