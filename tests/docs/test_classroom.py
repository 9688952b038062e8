"""Every command of the page for a class, one after another, with the service that they start."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shlex
import sys
import zlib
from pathlib import Path

import pytest
from aiohttp import ClientSession

from tests.web.test_connections import serving

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "classroom.md").read_text()
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SNIPPETS = FENCE.findall(PAGE)
SHELL = [code for language, code in SNIPPETS if language == "sh"]
START = "streamer serve "


def only(language: str) -> str:
    (code,) = [code for kind, code in SNIPPETS if kind == language]
    return str(code)


async def shell(folder: Path, code: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", code),
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, code
    return out.decode()


async def run(session: ClientSession, token: str, code: str) -> tuple[int, str]:
    """Run a program as a pupil; return the status of the answer and what it printed."""
    headers = {"Authorization": f"Bearer {token}", "Prefer": "wait=30"}
    body = {"language": "python", "code": code}
    async with session.post("/api/execute", json=body, headers=headers) as response:
        answer = await response.json()
        return response.status, answer.get("result", {}).get("stdout", "")


@pytest.mark.slow
async def test_a_class_works_as_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "class.toml").write_text(only("toml"))
    (tmp_path / "links.py").write_text(only("python"))
    listed, renewed, start, *others = SHELL
    assert "anna" in await shell(tmp_path, listed)
    handout = dict(line.split() for line in (tmp_path / "handout.txt").read_text().splitlines())
    assert list(handout) == ["anna", "ben", "chloe"]
    assert (tmp_path / "handout.txt").stat().st_mode & 0o077 == 0

    assert start.startswith(START)
    # On one address and a free port.
    options = [*shlex.split(start.removeprefix(START)), "--host", "127.0.0.1"]
    async with (
        serving(tmp_path, *options) as served,
        ClientSession(served.address) as session,
    ):
        assert (await run(session, handout["anna"], "print(6 * 7)")) == (200, "42\n")
        assert (await run(session, handout["ben"], "print(1)"))[0] == 200
        token = (await shell(tmp_path, renewed)).splitlines()[-1]
        assert (await run(session, handout["ben"], "print(1)"))[0] == 401, "revoked at once"
        assert await run(session, token, "print(2)") == (200, "2\n")
        assert (await run(session, "guess", "print(1)"))[0] == 401
        headers = {"Authorization": f"Bearer {handout['chloe']}"}
        async with session.get("/api/jobs", headers=headers) as response:
            assert (await response.json())["jobs"] == [], "nobody sees the runs of another"
        for code in others:
            printed = await shell(
                tmp_path, code.replace("127.0.0.1:8080", f"127.0.0.1:{served.port}")
            )
            if "links.py" in code:
                packed = printed.split("#code=")[1].strip()
                plain = zlib.decompress(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
                assert json.loads(plain) == {
                    "language": "python",
                    "code": 'name = input("Your name? ")\n',
                }
