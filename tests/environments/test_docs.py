"""Run docs/environments.md as it stands, one example after another.

Its packages are large, so they are built once, of the versions and hashes in
requirements/science.txt; pip keeps what it has downloaded.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

import streamer
from tests.tools import tool

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "environments.md").read_text()
LOCK = ROOT / "requirements" / "science.txt"
SNIPPETS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
SHELL = [code for language, code in SNIPPETS if language == "sh"]
PACKAGES = "numpy pandas matplotlib"

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]


async def shell(code: str, home: Path, state: Path) -> str:
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LANG": "C.UTF-8",
        "STREAMER_CONFIG": str(home / "config.toml"),
        "STREAMER_SERVER__STATE_DIR": str(state),
    }
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail"),
        cwd=home,
        env=environ,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(code.encode())
    assert process.returncode == 0, f"{code}\n{out.decode()}\n{err.decode()}"
    return out.decode()


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    """Return the folder of services, in which the environments are."""
    with tempfile.TemporaryDirectory(prefix="streamer-science-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def home(state: Path) -> Iterator[Path]:
    """Return the folder of who reads the page, with the configuration that the page shows."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        tables = [code for language, code in SNIPPETS if language == "toml"]
        text = "".join(tables).replace("/var/lib/streamer", str(state))
        (home / "config.toml").write_text(text)
        yield home


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def science(state: Path, home: Path) -> None:
    """Build the environment that the page builds first."""
    assert PACKAGES in SHELL[0]
    said = await shell(SHELL[0].replace(PACKAGES, f"-r {LOCK}"), home, state)
    assert re.match(r"science: \d+ packages for Python", said)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address(science: None, home: Path) -> AsyncIterator[str]:
    config = streamer.load_config(home / "config.toml", environ={})
    server = TestServer(streamer.create_app(config))
    await server.start_server()
    yield f"127.0.0.1:{server.port}"
    await server.close()


@pytest.mark.usefixtures("science")
async def test_a_plot_is_made_and_comes_back(state: Path, home: Path) -> None:
    said = await shell(SHELL[1], home, state)
    (expected,) = [code for language, code in SNIPPETS if language == "text"]
    assert said == expected
    assert (home / "plot.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


async def test_a_client_finds_and_uses_it(address: str, home: Path, state: Path) -> None:
    (program,) = [code for language, code in SNIPPETS if language == "python"]
    (home / "client.py").write_text(program.replace("127.0.0.1:8080", address))
    said = (await shell("python -W error client.py", home, state)).splitlines()
    locked = re.search(r"^numpy==(\S+)", LOCK.read_text(), re.MULTILINE)
    assert locked
    science, last = said
    assert science.startswith("python science {")
    assert f"'numpy': '{locked[1]}'" in science
    assert last == "10"


async def test_a_request_names_it(address: str) -> None:
    (body,) = [code for language, code in SNIPPETS if language == "json"]
    async with (
        ClientSession() as session,
        session.post(
            f"http://{address}/api/execute", data=body, headers={"Prefer": "wait=60"}
        ) as response,
    ):
        job: dict[str, Any] = json.loads(await response.text())
    assert (job["environment"], job["result"]["stdout"]) == ("science", "2.0\n"), job


async def test_packages_of_npm_are_built_and_used(home: Path, state: Path) -> None:
    tool("npm")
    folder = state / "environments" / "web"
    try:
        assert "web: 1 package for JavaScript" in await shell(SHELL[2], home, state)
        assert await shell(SHELL[3], home, state) == "172800000\n"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
