"""Piston's client from npm, which gets nothing but the address."""

from __future__ import annotations

import json
from pathlib import Path

from tests.compat.serving import served
from tests.interop.clients import node

PROGRAM = (Path(__file__).parent / "piston_client.mjs").read_text()


async def test_the_client_from_npm_runs_programs_here() -> None:
    async with served("piston") as client:
        printed, _ = await node(PROGRAM, str(client.make_url("/piston/")))
    languages, typed, compiled, unknown, endless = map(json.loads, printed.splitlines())
    assert {"python", "c", "c++", "javascript"} <= {*languages}
    assert typed["run"]["stdout"] == "['1', '2', '3'] typed\n"
    assert (compiled["compile"]["code"], compiled["run"]["stdout"]) == (0, "hi\n")
    assert unknown == {"message": "python-1.0.0 runtime is unknown"}
    assert (endless["run"]["signal"], endless["run"]["status"]) == ("SIGKILL", "TO")
