"""The commands of the page for those who switch, with the configuration that it shows."""

from __future__ import annotations

import asyncio
import json
import re
import tomllib
from pathlib import Path

import pytest

from tests.conftest import Start

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "migration.md").read_text()
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SNIPPETS = FENCE.findall(PAGE)
SHELL = [code for language, code in SNIPPETS if language == "sh"]


@pytest.mark.slow
async def test_old_clients_are_answered(start: Start) -> None:
    (written,) = [code for language, code in SNIPPETS if language == "toml"]
    client = await start(**tomllib.loads(written))
    assert len(SHELL) == 3
    results = []
    for code in SHELL:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c"),
            code.replace("127.0.0.1:8080", f"{client.host}:{client.port}"),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, code
        decoder, text = json.JSONDecoder(), out.decode().strip()
        listed, end = decoder.raw_decode(text)
        assert listed
        results.append(decoder.raw_decode(text[end:].strip())[0])
    piston, judge0, jobe = results
    assert (piston["run"]["stdout"], piston["run"]["code"]) == ("42\n", 0)
    assert (judge0["stdout"], judge0["status"]["description"]) == ("42\n", "Accepted")
    assert (jobe["stdout"], jobe["outcome"]) == ("42\n", 15)
