"""Run every example in the documents, against a running service."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

import streamer

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What clients.md shows is run over broken connections and behind a proxy, by tests/interop; what
# environments.md shows, one after another, by tests/environments; and so classroom.md,
# migration.md and tutorial.md by tests of their own beside this one.
DOCUMENTS = [
    ROOT / "README.md",
    *(
        path
        for path in sorted((ROOT / "docs").glob("*.md"))
        if path.stem not in ("classroom", "clients", "environments", "migration", "tutorial")
    ),
]
SNIPPETS = [
    pytest.param(language, code, id=f"{path.stem}-{number}-{language}")
    for path in DOCUMENTS
    for number, (language, code) in enumerate(FENCE.findall(path.read_text()), 1)
]
KNOWN = {"sh", "python", "json", "toml", "js", "yaml", "text", "html", "nginx"}
"""Languages of snippets; a ``text`` is the output of another one.

Those in HTML are opened by `tests/browser/test_component.py`; that of nginx is run by
`tests/docs/test_operating.py`."""

EVENT_SOURCE = ROOT / "tests" / "docs" / "eventsource.mjs"


def of(language: str, *, besides: str = " ") -> list[object]:
    return [
        pytest.param(snippet.values[1], id=snippet.id)
        for snippet in SNIPPETS
        if snippet.values[0] == language and not str(snippet.id).startswith(besides)
    ]


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """Return host and port of a service, in place of the README's."""
    server = TestServer(streamer.create_app({"streams": {"grace_s": 0.1}}))
    await server.start_server()
    yield f"127.0.0.1:{server.port}"
    await server.close()


async def check(program: list[str], text: str, folder: Path) -> str:
    """Run a program with a snippet, and return its output."""
    environ = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
    }
    process = await asyncio.create_subprocess_exec(
        *program,
        cwd=folder,
        env=environ,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(text.encode()), 60)
    assert process.returncode == 0, f"{text}\n{out.decode()}\n{err.decode()}"
    return out.decode()


async def has_groups(address: str) -> bool:
    """Return whether the service has control groups."""
    async with ClientSession() as session, session.get(f"http://{address}/api/sandboxes") as answer:
        sandboxes = (await answer.json())["sandboxes"]
    return any(one["enforces"]["memoryBytes"].startswith("cgroup") for one in sandboxes)


def test_every_snippet_says_what_it_is() -> None:
    assert {snippet.values[0] for snippet in SNIPPETS} <= KNOWN


@pytest.mark.parametrize("code", of("python"))
async def test_python(code: str, address: str, tmp_path: Path) -> None:
    # What only a program does stays out: here it is run as a module would be imported.
    program = code.replace("127.0.0.1:8080", address).replace("__main__", "__never__")
    await check([sys.executable, "-W", "error", "-"], program, tmp_path)


@pytest.mark.parametrize("code", of("sh"))
async def test_shell(code: str, address: str, tmp_path: Path) -> None:
    if code.startswith("make "):
        assert [line.split()[:2] for line in code.splitlines()] == [
            ["make", "run"],
            ["make", "test"],
        ]
        return
    if "--keep-processes" in code and not await has_groups(address):
        pytest.skip("without control groups no processes are kept")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    printed = await check(
        ["bash", "-euo", "pipefail"], code.replace("127.0.0.1:8080", address), tmp_path
    )
    assert printed
    if "/api/stream/" in code or "text/event-stream" in code:
        assert "event: complete" in printed


# What mcp.md shows is for clients of that, which tests/mcp starts by it.
@pytest.mark.parametrize("code", of("json", besides="mcp-"))
async def test_json_is_a_job_that_is_taken(code: str, address: str) -> None:
    headers = {"Prefer": "wait=30"}
    async with (
        ClientSession() as session,
        session.post(f"http://{address}/api/execute", data=code, headers=headers) as response,
    ):
        job = await response.json()
        assert (response.status, job["result"]["exitCode"]) == (200, 0), job


@pytest.mark.parametrize("code", of("toml"))
def test_toml_is_configuration(code: str, tmp_path: Path) -> None:
    if "[project." in code:
        assert '[project.entry-points."aiohttp_streamer.plugins"]' in code
        return
    file = tmp_path / "config.toml"
    file.write_text(code)
    assert streamer.load_config(file, environ={}) != streamer.Config()


@pytest.mark.parametrize("code", of("yaml"))
def test_yaml_is_for_prometheus_and_names_our_rules(code: str) -> None:
    settings = yaml.safe_load(code)
    assert settings.keys() == {"scrape_configs", "rule_files"}
    for path in settings["rule_files"]:
        assert (ROOT / "deploy" / Path(path).name).is_file()


@pytest.mark.parametrize("code", of("js"))
async def test_javascript(code: str, address: str, tmp_path: Path) -> None:
    async with (
        ClientSession() as session,
        session.post(
            f"http://{address}/api/execute", json={"language": "bash", "code": "echo 42"}
        ) as response,
    ):
        job_id = (await response.json())["jobId"]
    prelude = EVENT_SOURCE.read_text() + f'\nbase = "http://{address}"; const jobId = "{job_id}";\n'
    printed = await check(["node", "--input-type=module", "-"], prelude + code, tmp_path)
    # On a busy machine the line may come in two events, and each is a line of the console.
    assert printed.split("\n")[0] == "42"
    assert printed.split() == ["42", "ended:", "exited"]


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
async def test_example_starts(name: str, tmp_path: Path) -> None:
    path = ROOT / "examples" / name
    if "app = " not in path.read_text():
        assert "line 10" in await check([sys.executable, str(path)], "", tmp_path)
        return
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", str(path), "0", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
    assert found, line
    async with ClientSession(f"http://127.0.0.1:{found[1]}") as session:
        if name == "prices.py":
            await check_prices(session, process)
            return
        prefix = "" if name == "standalone.py" else "/code"
        headers = {"Prefer": "wait=30"}
        body = {"language": "python", "code": "print(6 * 7)"}
        async with session.post(f"{prefix}/api/execute", json=body, headers=headers) as response:
            assert (await response.json())["result"]["stdout"] == "42\n"
        if name == "submit.py":
            async with session.post("/reverse", data="live") as response:
                assert await response.text() == "evil\n"
        if name == "mount.py":
            async with session.get("/") as response:
                assert "/code/" in await response.text()
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 45) == 0


async def check_prices(session: ClientSession, process: asyncio.subprocess.Process) -> None:
    async with session.get("/") as response:
        assert "EventSource" in await response.text()
    async with session.get("/count", headers={"Last-Event-ID": "8"}) as response:
        assert (await response.text()).count("event: count") == 2
    async with session.post("/prices", json={"silver": 31.0}) as response:
        number = (await response.json())["id"]
    headers = {"Last-Event-ID": str(number - 1)}
    async with session.get("/prices", headers=headers) as response:
        event = await response.content.readuntil(b"\n\n")
        assert event.endswith(b'event: price\ndata: {"silver":31.0}\nid: %d\n\n' % number)
        # An open stream delays the shutdown no longer than the hook allows.
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 45) == 0
