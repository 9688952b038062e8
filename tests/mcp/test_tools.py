"""Each tool, called by the SDK's client over each transport, with programs in a real sandbox."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import jsonschema
import pytest
from mcp import Client

import streamer
from tests.conftest import Start
from tests.mcp.conftest import MODES, Said, Served, over_stdio, refusal, text

Connect = Callable[[], AbstractAsyncContextManager[Client]]

TOOLS = {"run", "wait", "stop", "read_file", "write_file", "list_files"}
TRANSPORTS = [f"{transport}-{mode}" for transport in ("stdio", "http") for mode in MODES]


@pytest.fixture(params=TRANSPORTS)
def connect(request: pytest.FixtureRequest) -> Connect:
    transport, mode = request.param.split("-")
    if transport == "stdio":
        return lambda: over_stdio(mode)
    server: Served = request.getfixturevalue("without_tokens")
    return lambda: server.client(mode)


async def test_all_tools(connect: Connect, said: Said) -> None:
    async with connect() as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert tools.keys() == TOOLS
        for tool in tools.values():
            assert tool.description
            for argument in tool.input_schema["properties"].values():
                assert argument.get("description") or "default" in argument
        assert "python" in (tools["run"].description or "").partition("Languages:")[2]

        def fits(name: str, result: Any) -> Any:
            jsonschema.validate(result.structured_content, tools[name].output_schema or {})
            return result.structured_content

        files = {"workspace": "tools"}
        write = {"path": "data/in.txt", "content": "3 4", **files}
        written = await client.call_tool("write_file", write)
        assert fits("write_file", written)["bytes"] == 3

        # What one program leaves, the next calls find.
        code = (
            "import sys\n"
            "a, b = map(int, open('data/in.txt').read().split())\n"
            "print(a * b)\nprint('done', file=sys.stderr)\n"
            "open('out.bin', 'wb').write(bytes([0, 255]))\nsys.exit(3)"
        )
        run = {"language": "python", "code": code, **files}
        ran = await client.call_tool("run", run, progress_callback=said)
        job = fits("run", ran)
        assert (job["status"], job["stdout"], job["stderr"]) == ("ended", "12\n", "done\n")
        assert (job["verdict"]["reason"], job["verdict"]["exit_code"]) == ("exited", 3)
        assert "exited with code 3" in text(ran)
        assert said.job_id == job["job_id"]

        listed = await client.call_tool("list_files", files)
        found = {file["path"]: file for file in fits("list_files", listed)["files"]}
        assert found["out.bin"]["bytes"] == 2
        assert found["data"]["kind"] != "file"
        read = await client.call_tool("read_file", {"path": "out.bin", **files})
        content = fits("read_file", read)
        assert content["encoding"] == "base64"
        assert base64.b64decode(content["content"]) == b"\x00\xff"

        # A program that asks is answered, and its later output comes alone.
        ask = {
            "language": "python",
            "code": "print('hello', input('your name? '))",
            "interactive": True,
            **files,
        }
        job = fits("run", await client.call_tool("run", ask))
        assert (job["status"], job["stdout"]) == ("running", "your name? ")
        answer = {"job_id": job["job_id"], "after": job["last_event"], "input": "Ada\n"}
        job = fits("wait", await client.call_tool("wait", {**answer, "until": "end"}))
        assert (job["stdout"], job["verdict"]["exit_code"]) == ("hello Ada\n", 0)
        again = {"job_id": job["job_id"], "after": job["last_event"]}
        assert fits("wait", await client.call_tool("wait", again))["verdict"]["exit_code"] == 0

        # A call may end before its program does.
        slow = {
            "language": "python",
            "code": "import time\nprint('begun', flush=True)\ntime.sleep(60)",
            "wait_s": 5,
            "until": "output",
            **files,
        }
        job = fits("run", await client.call_tool("run", slow))
        assert (job["status"], job["stdout"]) == ("running", "begun\n")
        assert "wait" in job["notes"][-1]
        busy = await client.call_tool("read_file", {"path": "out.bin", **files})
        assert "stop" in refusal(busy)
        job = fits("stop", await client.call_tool("stop", {"job_id": job["job_id"]}))
        assert (job["verdict"]["reason"], job["stdout"]) == ("cancelled", "begun\n")
        again = {"job_id": job["job_id"]}
        assert "over before" in text(await client.call_tool("stop", again))


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("run", {"language": "cobol", "code": ""}, "description of run lists"),
    ("run", {"language": "python"}, "entry"),
    ("run", {"language": "python", "code": "", "colour": 1}, "colour: there is no such argument"),
    ("run", {"language": "python", "code": "", "wait_s": 1e9}, "wait_s: "),
    ("run", {"language": "python", "code": "", "timeout_s": 1e6}, "$.limits.wallTimeS"),
    ("run", {"language": "python", "code": "", "stdin": "", "interactive": True}, "exclude"),
    ("run", {"language": "python", "entry": "nothing.py", "workspace": "none"}, "nothing.py"),
    ("wait", {"job_id": "a" * 26}, "use a job_id that run has returned"),
    ("wait", {"job_id": "../queue"}, "job_id: "),
    ("wait", {"job_id": "a" * 26, "after": 1, "input": "x"}, "use a job_id"),
    ("stop", {"job_id": "a" * 26}, "use a job_id"),
    ("read_file", {"path": "../../etc/passwd"}, "without .."),
    ("read_file", {"path": "/etc/passwd"}, "relative"),
    ("read_file", {"path": "none"}, "list_files"),
    ("write_file", {"path": "x", "content": "?", "encoding": "base64"}, "not base64"),
    ("write_file", {"path": "x", "content": "", "workspace": "../x"}, "workspace: "),
    ("erase", {}, "there is no tool 'erase': use run"),
]


async def test_errors_tell_how_to_go_on(without_tokens: Served) -> None:
    async with without_tokens.client() as client:
        for name, arguments, told in WRONG:
            result = await client.call_tool(name, arguments)
            if name == "run" and arguments.get("entry"):
                assert told in result.structured_content["stderr"]
            else:
                assert told in refusal(result), (name, arguments)


async def test_long_output_is_cut_and_can_be_read(without_tokens: Served) -> None:
    lines = 20_000
    code = f"for n in range({lines}): print(n)"
    async with without_tokens.client() as client:
        run = {"language": "python", "code": code, "workspace": "long", "max_chars": 2000}
        job = (await client.call_tool("run", run)).structured_content
        shown = job["stdout"]
        assert shown.startswith("0\n1\n")
        assert shown.endswith(f"{lines - 1}\n")
        assert len(shown) < 2200
        omitted = job["omitted"]
        whole = "".join(f"{n}\n" for n in range(lines))
        cut = shown.index("\n[... ")
        assert f"after={omitted['after']}" in shown
        assert len(whole) - omitted["characters"] == 2000
        # What was left out is read page by page.
        after, read = 0, ""
        while job["omitted"] or not read:
            page = {"job_id": job["job_id"], "after": after, "max_chars": 200_000}
            job = (await client.call_tool("wait", page)).structured_content
            if job["omitted"]:
                read += job["stdout"].partition("\n[... ")[0]
                after = job["omitted"]["after"]
            else:
                read += job["stdout"]
        assert read == whole
        assert shown[:cut] == whole[:cut]


async def test_a_long_file_comes_in_parts(without_tokens: Served) -> None:
    content = "é" * 3000
    files = {"workspace": "parts", "path": "long.txt"}
    async with without_tokens.client() as client:
        text(await client.call_tool("write_file", {**files, "content": content}))
        read, offset = "", 0
        while offset is not None:
            part = {**files, "offset": offset, "max_bytes": 1001}
            found = (await client.call_tool("read_file", part)).structured_content
            assert (found["encoding"], found["total_bytes"]) == ("utf-8", 6000)
            read += found["content"]
            offset = found["next_offset"]
        assert read == content
        beyond = await client.call_tool("read_file", {**files, "offset": 6001})
        assert "smaller offset" in refusal(beyond)


async def test_a_program_waits_for_the_one_before_in_its_workspace(without_tokens: Served) -> None:
    async with without_tokens.client() as client:
        ask = {
            "language": "python",
            "code": "print(input())",
            "interactive": True,
            "workspace": "busy",
            "wait_s": 0,
        }
        first = (await client.call_tool("run", ask)).structured_content
        second = (await client.call_tool("run", ask)).structured_content
        assert second["status"] == "queued"
        assert "use another workspace" in second["notes"][0]
        answer = {"input": "x\n", "until": "end"}
        for job in (first, second):
            done = await client.call_tool("wait", {"job_id": job["job_id"], **answer})
            assert done.structured_content["stdout"] == "x\n"


async def test_when_workspaces_end_or_are_too_many_it_is_told(start: Start) -> None:
    service = await start(sessions={"max": 1})
    url = str(service.make_url("/"))
    async with over_stdio("auto", "--url", url) as client, streamer.Client(url) as other:
        write = {"path": "a", "content": ""}
        text(await client.call_tool("write_file", write))
        more = await client.call_tool("write_file", {**write, "workspace": "more"})
        assert "use one that you have (default)" in refusal(more)
        (session,) = await other.sessions()
        await other.session(session["sessionId"]).end()
        assert "its files are gone" in refusal(await client.call_tool("read_file", {"path": "a"}))
        assert "has no files" in text(await client.call_tool("list_files", {}))
        (session,) = await other.sessions()
        await other.session(session["sessionId"]).end()
        # What comes with its code runs all the same.
        ran = await client.call_tool("run", {"language": "bash", "code": "ls"})
        assert "this is a new one" in text(ran)
