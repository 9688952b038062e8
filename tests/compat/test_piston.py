"""Piston's interface: what its documentation promises, in its words."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import WSServerHandshakeError
from aiohttp.test_utils import TestClient

from tests.compat.serving import served

Client = TestClient[Any, Any]
ENDLESS = "while True: pass"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def piston() -> AsyncIterator[Client]:
    async with served("piston") as client:
        yield client


pytestmark = pytest.mark.asyncio(loop_scope="module")


def asked(code: str, language: str = "python", **more: Any) -> dict[str, Any]:
    return {"language": language, "version": "*", "files": [{"content": code}], **more}


async def executed(client: Client, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    async with client.post("/piston/api/v2/execute", json=body) as response:
        found: dict[str, Any] = await response.json()
        assert response.status == status, found
        return found


async def test_runtimes_are_listed_as_piston_names_them(piston: Client) -> None:
    async with piston.get("/piston/api/v2/runtimes") as response:
        found = {one["language"]: one for one in await response.json()}
    assert found["python"]["version"].count(".") == 2
    assert {"py", "python3"} <= {*found["python"]["aliases"]}
    assert (found["c++"]["runtime"], "cpp" in found["c++"]["aliases"]) == ("gcc", True)
    assert found["javascript"]["runtime"] == "node"
    async with piston.get("/piston/api/v2/packages") as response:
        packages = await response.json()
    assert {
        "language": "c++",
        "language_version": found["c++"]["version"],
        "installed": True,
    } in packages
    async with piston.get("/piston/") as response:
        assert (await response.json())["message"].startswith("Piston v")


async def test_a_program_runs_with_its_files_arguments_and_input(piston: Client) -> None:
    code = (
        "import sys; from other import word; print(sys.argv[1:], repr(sys.stdin.read()), word)\n"
        "print(open('data.bin', 'rb').read(), open('file2.code').read(), file=sys.stderr)"
    )
    files = [
        {"name": "data.bin", "content": "AP8=", "encoding": "base64"},
        {"name": "first.py", "content": code},
        {"content": "686578", "encoding": "hex"},
        {"name": "other.py", "content": "word = 'hi'", "encoding": "utf8"},
    ]
    found = await executed(
        piston, {**asked(""), "files": files, "args": ["a", "b c"], "stdin": "typed"}
    )
    run = found["run"]
    assert run["stdout"] == "['a', 'b c'] 'typed\\n' hi\n"
    assert run["stderr"] == "b'\\x00\\xff' hex\n"
    assert sorted(run["output"]) == sorted(run["stdout"] + run["stderr"])
    assert (run["code"], run["signal"], run["status"], run["message"]) == (0, None, None, None)
    assert run["wall_time"] >= 0
    assert (found["language"], found["version"].count("."), "compile" in found) == (
        "python",
        2,
        False,
    )


async def test_a_compiled_program_has_both_stages(piston: Client) -> None:
    code = '#include <stdio.h>\nint main(void) { puts("hi"); return 3; }'
    found = await executed(piston, asked(code, "c"))
    assert (found["compile"]["code"], found["compile"]["signal"]) == (0, None)
    run = found["run"]
    assert (run["stdout"], run["code"], run["status"]) == ("hi\n", 3, "RE")
    assert run["message"] == "Exited with error status 3"


async def test_a_program_that_does_not_compile_has_its_errors_in_both(piston: Client) -> None:
    files = [{"name": "prog", "content": "int main(void) { return x; }"}]
    found = await executed(piston, {**asked("", "c"), "files": files})
    assert found["compile"]["code"] == 1
    assert "undeclared" in found["compile"]["stderr"]
    assert found["run"] == found["compile"]


@pytest.mark.parametrize(
    ("code", "more", "expected"),
    [
        ("import os; os.abort()", {}, (None, "SIGABRT", "SG")),
        (ENDLESS, {"run_cpu_time": 300}, (None, "SIGKILL", "TO")),
        ("import time; time.sleep(9)", {"run_timeout": 300}, (None, "SIGKILL", "TO")),
        ("x = bytearray(10**9)", {"run_memory_limit": 50_000_000}, (None, "SIGKILL", "SG")),
        ("raise SystemExit(7)", {"run_memory_limit": -1, "run_timeout": 0}, (7, None, "RE")),
        ("print('x' * 3_000_000)", {}, (None, "SIGKILL", "OL")),
        ("import sys; sys.stderr.write('x' * 3_000_000)", {}, (None, "SIGKILL", "EL")),
    ],
    ids=["signal", "cpu", "wall", "memory", "code", "stdout", "stderr"],
)
async def test_how_a_program_ends(
    piston: Client, code: str, more: dict[str, Any], expected: tuple[int | None, str | None, str]
) -> None:
    run = (await executed(piston, asked(code, **more)))["run"]
    assert (run["code"], run["signal"], run["status"]) == expected
    assert run["message"]


async def test_a_compiled_program_has_limits_of_its_own(piston: Client) -> None:
    body = asked("int main(void) { for (;;); }", "c", compile_timeout=10_000, run_timeout=300)
    found = await executed(piston, body)
    assert found["compile"]["code"] == 0
    assert (found["run"]["status"], found["run"]["signal"]) == ("TO", "SIGKILL")
    assert 250 <= found["run"]["wall_time"] < 10_000, "the limit is not that of the compiler"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"language": None}, "language is required as a string"),
        ({"language": 7}, "language is required as a string"),
        ({"version": None}, "version is required as a string"),
        ({"files": None}, "files is required as an array"),
        ({"files": {}}, "files is required as an array"),
        ({"files": [{"name": "a"}]}, "files[0].content is required as a string"),
        ({"files": []}, "files must include at least one utf8 encoded file"),
        (
            {"files": [{"content": "AA==", "encoding": "base64"}]},
            "files must include at least one utf8 encoded file",
        ),
        ({"language": "html", "version": "5.0.0"}, "html-5.0.0 runtime is unknown"),
        ({"version": "2.7.1"}, "python-2.7.1 runtime is unknown"),
        ({"run_timeout": "1"}, "If specified, run_timeout must be a number"),
        ({"run_timeout": -5}, "run_timeout must be non-negative"),
        (
            {"run_timeout": 10**9},
            "run_timeout cannot exceed the configured limit of 600000",
        ),
        ({"stdin": 5}, "stdin must be a string"),
        ({"args": [5]}, "args must be an array of strings"),
        (
            {"files": [{"content": ""}, {"content": "xy", "encoding": "hex"}]},
            "files[1].content is not valid hex",
        ),
    ],
)
async def test_a_wrong_request_is_refused_in_pistons_words(
    piston: Client, changes: dict[str, Any], message: str
) -> None:
    assert await executed(piston, {**asked(""), **changes}, 400) == {"message": message}


async def test_a_file_cannot_leave_its_folder(piston: Client) -> None:
    files = [{"name": "../up.py", "content": ""}]
    assert "message" in await executed(piston, {**asked(""), "files": files}, 400)


async def test_what_is_no_json_and_what_cannot_be_done(piston: Client) -> None:
    path = "/piston/api/v2/execute"
    async with piston.post(path, data={"language": "python"}) as response:
        said = {"message": "requests must be of type application/json"}
        assert (response.status, await response.json()) == (415, said)
    async with piston.post(
        path, data=b"{", headers={"Content-Type": "application/json"}
    ) as response:
        assert (response.status, [*await response.json()]) == (400, ["message"])
    async with piston.post(
        "/piston/api/v2/packages", json={"language": "a", "version": "1"}
    ) as response:
        assert (response.status, [*await response.json()]) == (403, ["message"])


async def test_any_version_may_do() -> None:
    async with served("piston", compat={"piston": {"any_version": True}}) as client:
        for version in ("2.7.1", None):
            found = await executed(client, {**asked("print(1)"), "version": version})
            assert found["run"]["stdout"] == "1\n"


async def test_the_token_may_stand_alone_and_tenants_are_apart() -> None:
    tokens = [
        {"tenant": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "scopes": ["run"]}
        for name in ("ann", "bob")
    ]
    async with served("piston", auth={"tokens": tokens}) as client:
        path = "/piston/api/v2/execute"
        for token, status in (("ann", 200), ("Bearer bob", 200), ("eve", 401)):
            headers = {"Authorization": token}
            async with client.post(path, json=asked("print(1)"), headers=headers) as response:
                assert response.status == status
        with pytest.raises(WSServerHandshakeError) as refused:
            await client.ws_connect("/piston/api/v2/connect")
        assert refused.value.status == 401


@pytest.mark.parametrize("backend", ["firejail"])
async def test_where_a_compiled_program_cannot_be_taken_out_it_runs_beside_its_compiler(
    backend: str, need: Callable[[str], str]
) -> None:
    async with served("piston", sandbox={"backend": need(backend)}) as client:
        code = '#include <stdio.h>\nint main(void) { puts("hi"); return 3; }'
        found = await executed(client, asked(code, "c", run_timeout=5000))
    assert (found["compile"]["code"], found["run"]["stdout"], found["run"]["code"]) == (
        0,
        "hi\n",
        3,
    )


# -- the WebSocket ---------------------------------------------------------------------


async def talked(client: Client, *said: dict[str, Any]) -> tuple[list[dict[str, Any]], int | None]:
    """Send all messages at once; return what comes, and the code with which it closes."""
    async with client.ws_connect("/piston/api/v2/connect") as socket:
        for message in said:
            await socket.send_json(message)
        heard = [message.json() async for message in socket]
        return heard, socket.close_code


def init(code: str, language: str = "python", **more: Any) -> dict[str, Any]:
    return {"type": "init", **asked(code, language, **more)}


async def test_a_conversation_as_documented(piston: Client) -> None:
    async with piston.ws_connect("/piston/api/v2/connect") as socket:
        await socket.send_json(init("cat", "bash", stdin="discarded"))
        runtime = await socket.receive_json()
        assert (runtime["type"], runtime["language"]) == ("runtime", "bash")
        assert await socket.receive_json() == {"type": "stage", "stage": "run"}
        await socket.send_json({"type": "data", "stream": "stdin", "data": "Hello World!"})
        said = {"type": "data", "stream": "stdout", "data": "Hello World!"}
        assert await socket.receive_json() == said
        await socket.send_json({"type": "signal", "signal": "SIGKILL"})
        ended = {"type": "exit", "stage": "run", "code": None, "signal": "SIGKILL"}
        assert await socket.receive_json() == ended
        await socket.receive()
        assert socket.close_code == 4999


async def test_a_compiled_program_tells_both_stages(piston: Client) -> None:
    code = '#include <stdio.h>\nint main(void) { puts("hi"); return 2; }'
    (runtime, *heard), closed = await talked(piston, init(code, "c"))
    assert heard == [
        {"type": "stage", "stage": "compile"},
        {"type": "exit", "stage": "compile", "code": 0, "signal": None},
        {"type": "stage", "stage": "run"},
        {"type": "data", "stream": "stdout", "data": "hi\n"},
        {"type": "exit", "stage": "run", "code": 2, "signal": None},
    ]
    assert (runtime["language"], closed) == ("c", 4999)
    heard, closed = await talked(piston, init("int main(void) { return x; }", "c"))
    assert heard[-1] == {"type": "exit", "stage": "compile", "code": 1, "signal": None}


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([init("cat", "bash"), init("cat", "bash")], 4000),
        ([], 4001),
        ([{"type": "data", "stream": "stdin", "data": "x"}], 4003),
        ([{"type": "signal", "signal": "SIGINT"}], 4003),
        ([init("cat", "bash"), {"type": "data", "stream": "stdout", "data": "x"}], 4004),
        ([init("cat", "bash"), {"type": "signal", "signal": "SIGNOT"}], 4005),
    ],
    ids=["twice", "silent", "data", "signal", "stream", "unknown"],
)
async def test_a_wrong_conversation_is_closed_with_its_code(
    piston: Client, messages: list[dict[str, Any]], code: int
) -> None:
    assert (await talked(piston, *messages))[1] == code


async def test_an_error_is_told_before_the_end(piston: Client) -> None:
    heard, closed = await talked(piston, init("", "cobol"))
    said = {"type": "error", "message": "cobol-* runtime is unknown"}
    assert (heard, closed) == ([said], 4002)
    async with piston.ws_connect("/piston/api/v2/connect") as socket:
        await socket.send_str("{")
        assert (await socket.receive_json())["type"] == "error"


async def test_a_page_of_another_site_cannot_connect(piston: Client) -> None:
    with pytest.raises(WSServerHandshakeError) as refused:
        await piston.ws_connect("/piston/api/v2/connect", origin="https://example.org")
    assert refused.value.status == 403


async def test_a_program_ends_when_its_client_leaves(piston: Client) -> None:
    async with piston.ws_connect("/piston/api/v2/connect") as socket:
        await socket.send_json(init("echo on; read", "bash"))
        while (await socket.receive_json())["type"] != "data":
            pass
        async with piston.get("/api/queue") as response:
            assert (await response.json())["running"] == 1
    async with asyncio.timeout(20):
        while True:
            async with piston.get("/api/queue") as response:
                if not (await response.json())["running"]:
                    break


async def test_open_conversations_are_bounded() -> None:
    room = {"max_body_bytes": 70_000, "bodies_bytes": 70_000}
    async with served("piston", compat={"max_waiting": 1}, server=room) as client:
        async with client.ws_connect("/piston/api/v2/connect") as socket:
            with pytest.raises(WSServerHandshakeError) as refused:
                await client.ws_connect("/piston/api/v2/connect")
            assert refused.value.status == 429
            await socket.send_json(init("x" * 100_000))
            await socket.receive()
            assert socket.close_code == 1009  # a message too large
        assert (await executed(client, asked("print(1)")))["run"]["stdout"] == "1\n"
