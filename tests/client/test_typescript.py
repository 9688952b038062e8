"""The TypeScript client: types from the OpenAPI document, checked by tsc, tested by Node.js."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.served import served
from tests.interop.clients import snippet
from tests.tools import required_tools, tool

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "clients" / "typescript"
PACKAGES = ROOT / "build" / "typescript" / "node_modules"
"""Where `make setup` puts what the lock file names."""

pytestmark = pytest.mark.slow


def run(*argv: str, cwd: Path, **variables: str) -> str:
    done = subprocess.run(
        argv,
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the client, built as `make typescript` does it."""
    tool("node")
    if not (PACKAGES / "typescript").is_dir():
        message = "the packages of the TypeScript client are not installed: make setup"
        pytest.fail(message) if "node" in required_tools() else pytest.skip(message)
    folder = tmp_path_factory.mktemp("typescript") / "client"
    ignored = shutil.ignore_patterns("node_modules", "dist", "schema.ts")
    shutil.copytree(SOURCES, folder, ignore=ignored)
    (folder / "node_modules").symlink_to(PACKAGES)
    document = run(sys.executable, str(ROOT / "clients" / "openapi.py"), cwd=ROOT)
    (folder / "openapi.json").write_text(document)
    run(
        "node",
        "node_modules/openapi-typescript/bin/cli.js",
        "openapi.json",
        "--output",
        "src/schema.ts",
        cwd=folder,
    )
    # The sample of the documents is checked, and run, too.
    sample = snippet("TypeScript").replace('"aiohttp-streamer-client"', '"../src/index.js"')
    (folder / "test" / "sample.ts").write_text(sample)
    run("node", "node_modules/typescript/bin/tsc", cwd=folder)
    return folder


def test_it_works_with_a_service(project: Path, tmp_path: Path) -> None:
    with served(tmp_path) as url:
        told = run("node", "--test", "dist/test/client.test.js", cwd=project, STREAMER_URL=url)
        assert run("node", "dist/test/sample.js", url, cwd=project) == "hello\nexited 0\n"
    assert "# fail 0" in told
    assert "# pass 12" in told
