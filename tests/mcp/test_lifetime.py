"""What ends when: cancelled calls, and the command with all that it has started."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamer
from streamer.mcp import arguments
from streamer.mcp.tools import Tools
from streamer.mcp.workspaces import Caller, Workspaces
from tests.conftest import Start
from tests.mcp.conftest import COMMAND, MODES, Said, Served, over_stdio, text
from tests.running import adopt_orphans, descendants

SLEEP = {"language": "python", "code": "import time; print('x', flush=True); time.sleep(100)"}


async def until_told(said: Said) -> None:
    async with asyncio.timeout(30):
        while not said.messages:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("mode", MODES)
async def test_cancelling_a_run_ends_its_job(mode: str, said: Said) -> None:
    async with over_stdio(mode) as client:
        calling = asyncio.create_task(client.call_tool("run", SLEEP, progress_callback=said))
        await until_told(said)
        calling.cancel()
        await asyncio.wait({calling})
        job = (await client.call_tool("wait", {"job_id": said.job_id})).structured_content
        assert job["verdict"]["reason"] == "cancelled"


async def test_cancelling_a_run_over_http_ends_its_job(without_tokens: Served, said: Said) -> None:
    async with without_tokens.client("legacy") as client:
        run = {**SLEEP, "workspace": "cancelled"}
        calling = asyncio.create_task(client.call_tool("run", run, progress_callback=said))
        await until_told(said)
        calling.cancel()
        await asyncio.wait({calling})
        job = (await client.call_tool("wait", {"job_id": said.job_id})).structured_content
        assert job["verdict"]["reason"] == "cancelled"


@pytest.mark.parametrize("waits", [True, False])
async def test_a_job_whose_call_is_lost_goes_on_if_it_is_waited_for(
    start: Start, said: Said, *, waits: bool
) -> None:
    service = await start()
    url = str(service.make_url("/"))

    def connect(caller: Caller) -> streamer.Client:
        return streamer.Client(url, token=caller.token)

    tools = Tools(connect, Workspaces(connect, {}))
    caller = Caller()

    async def progress(seconds: float, message: str) -> None:
        await said(seconds, None, message)

    code = "print('got', input())"
    run = arguments.Run(
        language="python", code=code, interactive=True, until="end", workspace="lost"
    )
    calling = asyncio.create_task(tools.run(caller, run, progress, 5.0 if waits else 0.05))
    await until_told(said)
    calling.cancel()
    await asyncio.wait({calling})
    wait = arguments.Wait(
        job_id=said.job_id, input="it\n" if waits else None, until="end", wait_s=30
    )
    if not waits:
        async with asyncio.timeout(30):
            while tools.abandoned:
                await asyncio.sleep(0.01)
    job = await tools.wait(caller, wait, progress)
    assert job.verdict is not None
    assert job.verdict.reason == ("exited" if waits else "cancelled")
    await tools.close()


async def test_with_a_service_its_sessions_end_with_the_command(start: Start) -> None:
    service = await start()
    url = str(service.make_url("/"))
    async with over_stdio("auto", "--url", url) as client, streamer.Client(url) as other:
        text(await client.call_tool("run", {"language": "bash", "code": "echo hello > file"}))
        (session,) = await other.sessions()
        assert session["sessionId"]
        # The job of the one is there for the other.
        job = (await client.call_tool("run", {**SLEEP, "until": "output"})).structured_content
        assert (await other.job(job["job_id"]))["status"] == "running"
    async with streamer.Client(url) as other:
        assert await other.sessions() == []
        events = [event.kind async for event in other.events(job["job_id"])]
        assert events[-1] in {"complete", "error"}


def request(number: int, method: str, **parameters: Any) -> bytes:
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}
    return json.dumps(message).encode() + b"\n"


CLIENT = {"protocolVersion": "2025-06-18", "capabilities": {}}
ENDS: dict[str, Callable[[subprocess.Popen[bytes]], object]] = {
    "closed": lambda process: process.stdin and process.stdin.close(),
    "interrupted": lambda process: process.send_signal(signal.SIGINT),
    "terminated": lambda process: process.send_signal(signal.SIGTERM),
    "killed": lambda process: process.send_signal(signal.SIGKILL),
}


@pytest.mark.parametrize("end", ENDS)
async def test_nothing_is_left(end: str) -> None:
    adopt_orphans()
    before = descendants()
    with subprocess.Popen(  # noqa: ASYNC220 - nothing else is done meanwhile
        # A shell ignores the signal for background jobs, one of which may run these tests.
        ["env", "--default-signal=INT", *COMMAND],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin
        assert process.stdout
        info = {"name": "test", "version": "1"}
        process.stdin.write(request(1, "initialize", **CLIENT, clientInfo=info))
        arguments = {**SLEEP, "until": "output"}
        process.stdin.write(b'{"jsonrpc": "2.0", "method": "notifications/initialized"}\n')
        process.stdin.write(request(2, "tools/call", name="run", arguments=arguments))
        process.stdin.flush()
        for line in process.stdout:
            if json.loads(line).get("id") == 2:
                break
        assert len(descendants().keys() - before.keys()) > 1, "there is no sandbox"
        ENDS[end](process)
        assert process.wait(30) == (-signal.SIGKILL if end == "killed" else 0)
    async with asyncio.timeout(30):
        while left := descendants().keys() - before.keys():
            await asyncio.sleep(0.01)
    assert not left


def test_files_are_no_client(tmp_path: Path) -> None:
    (tmp_path / "messages").write_bytes(request(1, "initialize"))
    with (tmp_path / "messages").open() as messages:
        ended = subprocess.run(
            COMMAND, check=False, cwd="/", stdin=messages, capture_output=True, timeout=60
        )
    assert ended.returncode == 2
    assert b"talks over pipes" in ended.stderr


def test_without_the_sdk_it_says_what_to_install() -> None:
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['mcp', 'mcp_types', 'pydantic']))\n"
        "from streamer.__main__ import main\nmain()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "mcp"],
        check=False,
        cwd="/",
        env={**os.environ, "STREAMER_CONFIG": os.devnull},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert re.search(
        r"needs the package \w+: pip install 'aiohttp-streamer\[cli,mcp\]'", ended.stderr
    )
