"""Who is let in over HTTP, and what callers see of each other."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack

import aiohttp
import pytest

import streamer
from streamer.mcp.http import MAX_BODY_BYTES
from tests.conftest import Start
from tests.mcp.conftest import COMMAND, MODES, Said, Served, refusal, served, text

ACCEPT = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
BEGIN = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
LIST = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}


async def asked(
    server: Served, headers: Mapping[str, str], body: object = BEGIN
) -> tuple[int, Mapping[str, str]]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{server.address}/mcp",
            data=io.BytesIO(json.dumps(body).encode()),
            headers={**ACCEPT, **headers},
        ) as answer,
    ):
        await answer.read()
        return answer.status, answer.headers


REFUSED = [
    ({"Host": "attacker.example:80"}, 401),
    ({"Host": "attacker.example", "Origin": "http://attacker.example"}, 401),
    ({"Origin": "http://attacker.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"X-Forwarded-For": "192.0.2.1"}, 401),
]


async def test_without_tokens_only_this_machine_is_let_in(without_tokens: Served) -> None:
    assert (await asked(without_tokens, {}))[0] == 200
    for headers, status in REFUSED:
        assert (await asked(without_tokens, headers))[0] == status, headers


async def test_with_tokens_each_request_needs_one(with_tokens: Served) -> None:
    assert (await asked(with_tokens, {}))[0] == 401
    assert (await asked(with_tokens, {"Authorization": "Bearer wrong"}))[0] == 401
    assert (await asked(with_tokens, {"Authorization": "Bearer alice-token"}))[0] == 200
    foreign = {"Authorization": "Bearer alice-token", "Origin": "http://attacker.example"}
    assert (await asked(with_tokens, foreign))[0] == 403


async def test_a_session_of_the_protocol_is_its_owners(with_tokens: Served) -> None:
    status, headers = await asked(with_tokens, {"Authorization": "Bearer alice-token"})
    session = {"Mcp-Session-Id": headers["Mcp-Session-Id"]}
    assert status == 200
    for name, expected in (("alice", 200), ("bob", 404)):
        own = {"Authorization": f"Bearer {name}-token", **session}
        assert (await asked(with_tokens, own, LIST))[0] == expected


async def test_messages_are_bounded(without_tokens: Served) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "x" * MAX_BODY_BYTES}
    assert (await asked(without_tokens, {}, body))[0] == 413


def test_no_address_for_strangers_without_tokens() -> None:
    argv = [*COMMAND, "--http", "--host", "0.0.0.0", "--port", "0"]  # noqa: S104 - it is refused
    for more in ((), ("--set", "auth.anonymous=true")):
        ended = subprocess.run(
            [*argv, *more], check=False, cwd="/", capture_output=True, text=True, timeout=60
        )
        assert ended.returncode == 2
        assert "add a token" in ended.stderr


@pytest.mark.parametrize("mode", MODES)
async def test_two_callers_see_nothing_of_each_other(with_tokens: Served, mode: str) -> None:
    async with (
        with_tokens.client(mode, "alice-token") as alice,
        with_tokens.client(mode, "bob-token") as bob,
    ):
        write = {"path": "secret", "content": "of alice"}
        text(await alice.call_tool("write_file", write))
        code = "import os, time; print(os.listdir())"
        run = {"language": "python", "code": code}
        ran = await asyncio.gather(alice.call_tool("run", run), bob.call_tool("run", run))
        hers, his = (one.structured_content for one in ran)
        assert "secret" in hers["stdout"]
        assert "secret" not in his["stdout"]
        read = {"path": "secret"}
        assert text(await alice.call_tool("read_file", read)) == "of alice"
        assert "there is no file" in refusal(await bob.call_tool("read_file", read))
        for tool in ("wait", "stop"):
            job = {"job_id": hers["job_id"]}
            assert "there is no job" in refusal(await bob.call_tool(tool, job))


@pytest.mark.parametrize("mode", MODES)
async def test_a_lost_connection_is_gone_on_with_by_another_client(
    with_tokens: Served, mode: str
) -> None:
    said = Said([], [])
    code = "print('begun', flush=True)\nprint('got', input())"
    run = {"language": "python", "code": code, "interactive": True, "until": "end", "wait_s": 60}

    async def first() -> None:
        async with with_tokens.client(mode, "alice-token") as client:
            await client.call_tool("run", run, progress_callback=said)

    calling = asyncio.create_task(first())
    async with asyncio.timeout(30):
        while not said.messages:
            await asyncio.sleep(0.01)
    if mode == "auto":  # the newest protocol: its connection is closed
        calling.cancel()
        await asyncio.wait({calling})
    async with with_tokens.client(mode, "alice-token") as client:
        wait = {"job_id": said.job_id, "input": "it\n", "until": "end"}
        job = (await client.call_tool("wait", wait)).structured_content
    assert (job["stdout"], job["verdict"]["reason"]) == ("begun\ngot it\n", "exited")
    if mode != "auto":
        await calling


async def test_by_a_service_elsewhere_only_this_account_is_let_in(start: Start) -> None:
    sha256 = hashlib.sha256(b"alice-token").hexdigest()
    service = await start(auth={"tokens": [{"tenant": "alice", "sha256": sha256}]})
    url = str(service.make_url("/"))
    token = {"STREAMER_TOKEN": "alice-token"}
    refused = [*COMMAND, "--http", "--host", "0.0.0.0", "--url", url]  # noqa: S104 - it is refused
    ended = await asyncio.to_thread(
        subprocess.run, refused, check=False, cwd="/", capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    assert "only this account may connect" in ended.stderr
    # Elsewhere, as this loop has the service.
    with ExitStack() as stack:
        running = served("--url", url, environment=token)
        server = await asyncio.to_thread(stack.enter_context, running)
        for headers, status in REFUSED:
            assert (await asked(server, headers))[0] == status, headers
        if os.geteuid() == 0:
            assert await asyncio.to_thread(asked_by_another_account, server) == 401
        for mode in MODES:
            async with server.client(mode) as client:
                run = {"language": "bash", "code": "cat a; echo hello | tee a"}
                assert "hello" in text(await client.call_tool("run", run))
        await asyncio.to_thread(stack.close)
    async with streamer.Client(url, token="alice-token") as other:
        assert await other.sessions() == []


def asked_by_another_account(server: Served) -> int:
    """Return the status of the answer to a request by the user `nobody`."""
    program = (
        "import sys, urllib.error, urllib.request\n"
        "try: print(urllib.request.urlopen(sys.argv[1]).status)\n"
        "except urllib.error.HTTPError as error: print(error.code)"
    )
    asked = subprocess.run(
        ["/usr/bin/python3", "-c", program, f"{server.address}/mcp"],
        check=True,
        cwd="/",
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return int(asked.stdout)
