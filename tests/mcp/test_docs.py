"""What docs/mcp.md shows for clients starts a server."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from tests.conftest import Start
from tests.mcp.conftest import Served, text

DOCUMENT = (Path(__file__).parents[2] / "docs" / "mcp.md").read_text()
SHOWN: list[dict[str, Any]] = [
    next(iter(json.loads(code).values()))["streamer"]
    for code in re.findall(r"^```json\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
]
COMMANDS = [one for one in SHOWN if "command" in one]
RUN = {"language": "python", "code": "print(6 * 7)"}


@pytest.mark.parametrize("shown", COMMANDS, ids=[" ".join(one["args"]) for one in COMMANDS])
async def test_commands(shown: dict[str, Any], start: Start) -> None:
    assert shown["command"] == "streamer"
    args = [*shown["args"]]
    if "--url" in args:
        service = await start()
        args[args.index("--url") + 1] = str(service.make_url("/"))
    environment = {**os.environ, **shown.get("env", {})}
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "streamer", *args], env=environment, cwd="/"
    )
    async with Client(command) as client:
        assert "42" in text(await client.call_tool("run", RUN))


async def test_address(without_tokens: Served) -> None:
    (shown,) = (one for one in SHOWN if "url" in one)
    assert shown["url"].endswith("/mcp")
    assert shown["headers"].keys() == {"Authorization"}
    async with without_tokens.client(token=shown["headers"]["Authorization"]) as client:
        assert "42" in text(await client.call_tool("run", RUN))
