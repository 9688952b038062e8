"""Run the tests of the page's parts that need no browser."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from tests.tools import tool

ROOT = Path(__file__).parents[2]


async def test_the_parts_without_a_browser(tmp_path: Path) -> None:
    # Older releases of Node.js want to be told that a .js file is a module.
    (tmp_path / "package.json").write_text('{"type": "module"}')
    shutil.copytree(ROOT / "streamer" / "web" / "static", tmp_path / "streamer" / "web" / "static")
    tests = sorted(Path(__file__).parent.glob("*.test.mjs"))
    assert tests
    folder = tmp_path / "tests" / "browser"
    folder.mkdir(parents=True)
    for file in tests:
        shutil.copy(file, folder)
    process = await asyncio.create_subprocess_exec(
        *(tool("node"), "--test", *(str(folder / file.name) for file in tests)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
