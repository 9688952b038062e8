"""The languages over HTTP: their titles and versions, and several versions side by side."""

from __future__ import annotations

import asyncio
import subprocess
from typing import Any

from streamer.worker.versions import version_in
from tests.conftest import Start
from tests.support import AnyClient, run, text
from tests.web import problem

BASH = version_in(subprocess.check_output(["/bin/bash", "--version"], text=True))
STRICT = {"run": ["bash", "--posix", "{entry}"]}
LOOKS = "shopt -qo posix && echo strict || echo usual"


async def listed(client: AnyClient) -> dict[str, dict[str, Any]]:
    """Return the languages by name, once the versions are known: the first question asks for them."""
    async with asyncio.timeout(60):
        while True:
            async with client.get("/api/runtimes") as response:
                assert response.status == 200
                found = {one["name"]: one for one in (await response.json())["runtimes"]}
            if found["bash"]["version"] and found["bash@0"]["version"]:
                return found
            await asyncio.sleep(0.01)


async def test_languages_are_listed_with_their_titles_and_versions(start: Start) -> None:
    client = await start(runtimes={"bash@0": STRICT})
    found = await listed(client)
    limits = found["bash"]["limits"]
    assert (limits["wallTimeS"], limits["memoryBytes"]) == (60, 256 << 20)
    usual = {
        "name": "bash",
        "title": "Bash",
        "version": BASH,
        "aliases": ["shell"],
        "entry": "main.sh",
        "compiled": False,
        "available": True,
        "reason": None,
        "environments": [],
        "limits": limits,
    }
    assert found["bash"] == usual
    older = {"name": "bash@0", "title": "Bash 0", "aliases": ["shell@0"]}
    assert found["bash@0"] == {**usual, **older}


async def test_the_limits_of_a_language_and_the_most_that_a_job_may_ask_for_are_told(
    start: Start,
) -> None:
    lisp = {"run": ["sh", "{entry}"], "entry": "main.l", "limits": {"memory_bytes": 300 << 20}}
    most = {"wall_time_s": 90, "memory_bytes": 400 << 20}
    client = await start(runtimes={"lisp": lisp}, limits={"max": most})
    async with client.get("/api/runtimes") as response:
        told = await response.json()
    assert told["maxLimits"]["wallTimeS"] == 90
    (limits,) = [one["limits"] for one in told["runtimes"] if one["name"] == "lisp"]
    assert (limits["wallTimeS"], limits["memoryBytes"]) == (60, 300 << 20)
    for size, status in ((told["maxLimits"]["memoryBytes"], 202), ((400 << 20) + 1, 400)):
        job = {"language": "lisp", "code": "", "limits": {"memoryBytes": size}}
        async with client.post("/api/execute", json=job) as response:
            assert response.status == status


async def test_jobs_run_with_the_version_that_they_name(start: Start) -> None:
    client = await start(runtimes={"bash@0": STRICT})
    for language, said in (("bash", "usual"), ("bash@0", "strict"), ("shell@0", "strict")):
        assert text(await run(client, language=language, code=LOOKS)) == f"{said}\n"
    body = {"language": "bash@1", "code": LOOKS}
    async with client.post("/api/execute", json=body) as response:
        assert (await problem(response, 400, "unknown_language"))["path"] == "$.language"
