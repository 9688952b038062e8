"""Every refusal is a problem document that names the place and reveals nothing internal."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import pytest
from yarl import URL

from streamer.jobs.jobs import Jobs
from tests.conftest import Start
from tests.support import AnyClient, run, submit, text
from tests.web import problem, python

INVALID = "invalid_request"
P: dict[str, Any] = python("print(1)")


def place(name: str, **fields: Any) -> tuple[dict[str, Any], str]:
    """Return a submission and the place at which it is refused."""
    return fields, f"$.{name}" if name else "$"


def named(name: str) -> dict[str, Any]:
    """Return a submission with a file of this name."""
    return {**P, "files": [{"name": name, "content": ""}]}


WRONG = [
    place("extra", **P, extra=1),
    place("limits.walltime", **P, limits={"walltime": 1}),
    place("files[0].size", **P, files=[{"name": "a", "content": "", "size": 1}]),
    place("terminal.depth", **P, terminal={"cols": 1, "rows": 1, "depth": 1}),
    # Wrong types.
    place("code", language="python", code=1),
    place("language", language=["python"], code="1"),
    place("args", **P, args="--x"),
    place("args[1]", **P, args=["a", 1]),
    place("env", **P, env=[]),
    place("env[...]", **P, env={"A": 1}),
    place("files", **P, files={}),
    place("files[1]", **P, files=[{"name": "a", "content": ""}, "b"]),
    place("files[0]", **P, files=[{"name": "a"}]),
    place("stdin", **P, stdin=[1]),
    place("interactive", **P, interactive="yes"),
    place("network", **P, network=1),
    place("limits", **P, limits=[]),
    place("metadata[...]", **P, metadata={"a": {}}),
    place("outputEncoding", **P, outputEncoding="latin-1"),
    place("files[0].encoding", **P, files=[{"name": "a", "content": "", "encoding": "hex"}]),
    # Impossible limits.
    place("limits.wallTimeS", **P, limits={"wallTimeS": 0}),
    place("limits.wallTimeS", **P, limits={"wallTimeS": -1}),
    place("limits.wallTimeS", **P, limits={"wallTimeS": 1e308}),
    place("limits.wallTimeS", **P, limits={"wallTimeS": True}),
    place("limits.wallTimeS", **P, limits={"wallTimeS": "5"}),
    place("limits.wallTimeS", **P, limits={"wallTimeS": 601}),
    place("limits.cpuTimeS", **P, limits={"cpuTimeS": 1e-9}),
    place("limits.memoryBytes", **P, limits={"memoryBytes": 1}),
    place("limits.memoryBytes", **P, limits={"memoryBytes": 1.5}),
    place("limits.memoryBytes", **P, limits={"memoryBytes": 10**30}),
    place("limits.memoryBytes", **P, limits={"memoryBytes": 2**63}),
    place("limits.memoryBytes", **P, limits={"memoryBytes": 2**31 + 1}),
    place("limits.memoryBytes", **P, limits={"memoryBytes": "1"}),
    place("limits.memoryBytes", **P, limits={"memoryBytes": "3GiB"}),
    place("limits.memoryBytes", **P, limits={"memoryBytes": "-256MiB"}),
    place("limits.memoryBytes", **P, limits={"memoryBytes": "lots"}),
    place("limits.memoryBytes", **P, limits={"memoryBytes": ""}),
    place("limits.memoryBytes", **P, limits={"memoryBytes": "9" * 100_000 + "MiB"}),
    place("limits.processes", **P, limits={"processes": "8"}),
    place("limits.processes", **P, limits={"processes": 0}),
    place("limits.processes", **P, limits={"processes": True}),
    place("limits.processes", **P, limits={"processes": 10**6}),
    place("limits.openFiles", **P, limits={"openFiles": -1}),
    place("limits.fileBytes", **P, limits={"fileBytes": 0}),
    place("limits.diskBytes", **P, limits={"diskBytes": 1}),
    place("limits.outputBytes", **P, limits={"outputBytes": 0}),
    place("files", **python("x" * 5000), limits={"diskBytes": 4096}),
    # Names that are not clearly inside the workspace.
    *(
        (named(name), "$.files[0].name")
        for name in (
            "../x",
            "a/../../x",
            "a/..",
            ".",
            "./a",
            "/etc/passwd",
            "a//b",
            "a/",
            "a\\b",
            "..\\x",
            "a\0b",
            "",
            "x" * 256,
            "/".join(["d" * 100] * 11),
            "é" * 128,
        )
    ),
    place("files[1].name", **P, files=[{"name": "a", "content": ""}] * 2),
    place("files", **P, files=[{"name": n, "content": ""} for n in ("a", "a/b")]),
    place("files", **P, files=[{"name": n, "content": ""} for n in ("a/b", "a")]),
    place("files", **P, files=[{"name": "main.py", "content": ""}]),
    place("files", **P, files=[{"name": "main.py/x", "content": ""}]),
    place("entry", **P, entry="../main.py"),
    place("entry", language="python", files=[{"name": "a.py", "content": ""}]),
    place("code", language="python"),
    *(
        place("files[0].content", **P, files=[{"name": "a", "content": c, "encoding": "base64"}])
        for c in ("a", "@@@@", "AAA=\n", "é")
    ),
    *(
        place("files[0].mode", **P, files=[{"name": "a", "content": "", "mode": mode}])
        for mode in ("", "rwx", "4755", "0o755", "999", "0755\n", "-755", "٠٧٥٥")
    ),
    # Cases.
    place("cases", **P, cases=[]),
    place("cases", **P, cases={}),
    place("cases", **P, cases=[{}] * 101),
    place("cases", **P, cases=[{}] * 1001),
    place("cases[1]", **P, cases=[{}, "x"]),
    place("cases[0].stdout", **P, cases=[{"stdout": "x"}]),
    place("cases[1].limits.walltime", **P, cases=[{}, {"limits": {"walltime": 1}}]),
    place("cases[0].stdin", **P, cases=[{"stdin": 1}]),
    place("cases[0].args[1]", **P, cases=[{"args": ["a", "b\0"]}]),
    place("cases[0].env.A", **P, cases=[{"env": {"A": "b\0"}}]),
    place("cases[1].limits.wallTimeS", **P, cases=[{}, {"limits": {"wallTimeS": 61}}]),
    place(
        "cases[0].limits.processes",
        **P,
        limits={"processes": 9},
        cases=[{"limits": {"processes": 10}}],
    ),
    place("cases[0].limits.diskBytes", **P, cases=[{"limits": {"diskBytes": "1GiB"}}]),
    *(place("cases[0].name", **P, cases=[{"name": name}]) for name in ("", "a\n", "é" * 51)),
    place("interactive", **P, cases=[{}], interactive=True),
    place("terminal", **P, cases=[{}], terminal={"cols": 80, "rows": 24}),
    place("artifacts", **P, cases=[{}], artifacts=["*"]),
    place("stopOnFailure", **P, stopOnFailure=True),
    *(place("priority", **P, priority=value) for value in (-11, 11, 10**30, 1.5, "1", True)),
    *(place("retry", **P, retry=times) for times in (-1, 4, 1.5, "1", True)),
    # The program.
    place(""),
    place("", code="1"),
    place("", language="python", code="1", command=["true"]),
    place("command", command=[]),
    place("command[0]", command=[""]),
    place("command[1]", command=["true", "a\0b"]),
    place("command[0]", command=["x" * 200_000]),
    place("code", command=["true"], code="1"),
    place("entry", command=["true"], entry="main.py"),
    place("args[0]", **P, args=["\0"]),
    place("args", **P, args=["x" * 100_000] * 11),
    place("env.A", **P, env={"A": "\0"}),
    place("env['A=B']", **P, env={"A=B": "1"}),
    place("env['']", **P, env={"": "1"}),
    place("env['A\\x00']", **P, env={"A\0": "1"}),
    place("args", **P, args=["x"] * 4097),
    place("command", command=["x"] * 4097),
    place("env", **P, env={f"V{number}": "" for number in range(1025)}),
    place("metadata", **P, metadata={"k": "v" * 20_000}),
    place("metadata", **P, metadata={"k": "é" * 10_000}),
    place("metadata", **P, metadata={str(number): "" for number in range(65)}),
    place("sandbox", **P, sandbox="docker"),
    place("terminal.cols", **P, terminal={"cols": 0, "rows": 24}),
    place("artifacts[0]", **P, artifacts=["/a"]),
]


@pytest.fixture
async def client(start: Start) -> AnyClient:
    return await start()


async def test_what_is_wrong_is_said_with_its_place(client: AnyClient) -> None:
    # One service for all: a refusal has no effect on the next one.
    failed = []
    for body, path in WRONG:
        data = io.BytesIO(json.dumps(body).encode())
        async with client.post("/api/execute", data=data) as response:
            document = json.loads(await response.text())
            if (response.status, document.get("code"), document.get("path")) != (
                400,
                INVALID,
                path,
            ):
                failed.append((str(body)[:100], path, document))
            else:
                await problem(response, 400, INVALID)
    assert not failed, "\n".join(map(str, failed))
    async with client.get("/api/queue") as response:
        assert (await response.json())["waiting"] == 0
    async with client.get("/api/jobs") as response:
        assert (await response.json())["jobs"] == []


async def test_a_body_that_is_no_json(client: AnyClient) -> None:
    for body in (
        b"",
        b"{",
        b'{"language":"python",}',
        b"\xff\xfe",
        b'{"language":"\xff"}',
        b'{"code":"\x01"}',
        b'{"code":"\\ud8"}',
        b"\x00" * 100,
        b'{"language": "python", "code": "1"} {}',
    ):
        async with client.post("/api/execute", data=body) as response:
            await problem(response, 400, "invalid_json")


async def test_a_body_that_is_no_object(client: AnyClient) -> None:
    for body in (b"[]", b"null", b"1", b'"x"', b"true"):
        async with client.post("/api/execute", data=body) as response:
            assert (await problem(response, 400, INVALID))["path"] == "$"


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"a":' * 500_000,
        b'{"files":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"extra":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=["arrays", "objects", "in-a-field", "in-an-unknown-field"],
)
async def test_a_deeply_nested_body_is_refused(client: AnyClient, body: bytes) -> None:
    async with client.post("/api/execute", data=io.BytesIO(body)) as response:
        assert response.status == 400
        assert json.loads(await response.text())["code"] in ("invalid_json", INVALID)
    assert text(await run(client, **P)) == "1\n"


async def test_lone_surrogates_are_refused_everywhere(client: AnyClient) -> None:
    bad = "\\ud800"
    for field in (
        f'"code":"{bad}","language":"python"',
        f'"language":"{bad}","code":""',
        f'"stdin":"{bad}","language":"python","code":""',
        f'"args":["{bad}"],"language":"python","code":""',
        f'"env":{{"A":"{bad}"}},"language":"python","code":""',
        f'"env":{{"{bad}":"A"}},"language":"python","code":""',
        f'"metadata":{{"{bad}":"A"}},"language":"python","code":""',
        f'"metadata":{{"A":"{bad}"}},"language":"python","code":""',
        f'"files":[{{"name":"{bad}","content":""}}],"language":"python","code":""',
        f'"files":[{{"name":"a","content":"{bad}"}}],"language":"python","code":""',
        f'"cases":[{{"name":"{bad}"}}],"language":"python","code":""',
        f'"cases":[{{"stdin":"{bad}"}}],"language":"python","code":""',
        f'"sandbox":"{bad}","language":"python","code":""',
        f'"command":["{bad}"]',
        f'"{bad}":1',
    ):
        async with client.post("/api/execute", data=f"{{{field}}}") as response:
            body = await response.text()
            assert response.status == 400, (field, body)
            assert response.content_type == "application/problem+json"


async def test_an_unknown_language_is_named(client: AnyClient) -> None:
    async with client.post("/api/execute", json={"language": "cobol", "code": ""}) as response:
        document = await problem(response, 400, "unknown_language")
    assert document["path"] == "$.language"
    assert "'cobol'" in document["detail"]
    assert "python" in document["detail"]


async def test_an_unknown_project_is_named(client: AnyClient) -> None:
    async with client.post("/api/execute", json={**P, "projectId": "p"}) as response:
        assert (await problem(response, 400, "unknown_project"))["path"] == "$.projectId"


NOT_ALLOWED: list[tuple[str, dict[str, Any]]] = [
    ("command", {"command": ["true"]}),
    ("network", {**P, "network": True}),
    ("sandbox", {**P, "sandbox": "plain"}),
    ("sandbox", {**P, "sandbox": "firejail"}),
]


async def test_what_the_configuration_does_not_allow_is_403(start: Start) -> None:
    client = await start(sandbox={"allow_command": False})
    for field, body in NOT_ALLOWED:
        async with client.post("/api/execute", json=body) as response:
            document = await problem(response, 403, "forbidden")
        assert document["path"] == f"$.{field}"


async def test_a_body_too_large_is_413_announced_or_not(start: Start) -> None:
    client = await start(server={"max_body_bytes": 20_000})
    body = json.dumps(python("#" * 30_000)).encode()

    async def chunks() -> Any:
        for at in range(0, len(body), 1000):
            yield body[at : at + 1000]

    for data in (body, chunks()):
        async with client.post("/api/execute", data=data) as response:
            document = await problem(response, 413, "payload_too_large")
        assert "20000" in document["detail"]
    # A body within our limit is accepted, whatever aiohttp's own limit.
    assert text(await run(client, **python("print(1)" + " " * 19_000))) == "1\n"


async def test_a_large_body_within_the_limit_is_taken(start: Start) -> None:
    client = await start()
    files = [{"name": "big", "content": "x" * 7_000_000}]
    job = python("print(len(open('big').read()))", files=files)
    body = io.BytesIO(json.dumps(job).encode())
    headers = {"Prefer": "wait=60"}
    async with client.post("/api/execute", data=body, headers=headers) as response:
        assert (await response.json())["result"]["stdout"] == "7000000\n"


async def test_a_body_that_does_not_arrive_is_given_up(start: Start) -> None:
    client = await start(server={"body_timeout_s": 0.2})
    reader, writer = await asyncio.open_connection(client.host, client.port)
    head = f"POST /api/execute HTTP/1.1\r\nHost: {client.host}\r\nContent-Length: 100\r\n\r\n"
    writer.write(head.encode() + b'{"language"')
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer
    writer.close()
    await writer.wait_closed()


METHODS = [
    ("GET", "/api/execute", {"POST"}),
    ("PUT", "/api/execute", {"POST"}),
    ("HEAD", "/api/stream/abc", {"GET"}),
    ("POST", "/api/stream/abc", {"GET"}),
    ("PATCH", "/api/jobs/abc", {"GET", "HEAD", "DELETE"}),
    ("GET", "/api/jobs/abc/stdin", {"POST"}),
]


async def test_a_wrong_method_is_405_and_says_which_are_right(client: AnyClient) -> None:
    for method, path, allowed in METHODS:
        async with client.request(method, path) as response:
            assert response.status == 405, (method, path)
            assert set(response.headers["Allow"].split(",")) == allowed
            assert response.content_type == "application/problem+json"
            if method != "HEAD":
                said = f"{path} has no {method}: use {', '.join(sorted(allowed))}"
                assert (await problem(response, 405, INVALID))["detail"] == said


NO_ROUTES = [
    "/nothing",
    "/api",
    "/api/execute/",
    "/api/stream/",
    "/api/stream/../../etc/passwd",
    "/api/stream/%2e%2e%2f",
    "/api/stream/ABC",
    "/api/stream/" + "a" * 65,
    "/api/jobs/%00",
    "/api/jobs/%ff",
    "/static/%2e%2e/page.py",
    "/static/../page.py",
    "//etc/passwd",
]


async def test_an_unknown_route_is_404(client: AnyClient) -> None:
    for path in NO_ROUTES:
        async with client.session.get(
            URL(f"{client.make_url('/')}"[:-1] + path, encoded=True)
        ) as response:
            await problem(response, 404, "not_found")


OF_A_JOB = [
    ("GET", "/api/jobs/{}"),
    ("DELETE", "/api/jobs/{}"),
    ("DELETE", "/api/jobs/{}?purge=1"),
    ("GET", "/api/stream/{}"),
    ("POST", "/api/jobs/{}/stdin"),
    ("POST", "/api/jobs/{}/signal"),
]


async def test_an_unknown_job_is_404(client: AnyClient) -> None:
    known = await submit(client, command=["sleep", "60"])
    unknown = known[::-1]
    for method, path in OF_A_JOB:
        target = path.format(unknown)
        async with client.request(method, target, json={"signal": "SIGINT"}) as response:
            document = await problem(response, 404, "not_found")
        assert unknown in document["detail"]


async def test_an_internal_failure_says_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = await start()

    async def fail(self: Jobs, *, tenant: str) -> None:
        raise ValueError("secret /etc/shadow")

    monkeypatch.setattr(Jobs, "own_queue", fail)
    async with client.get("/api/queue") as response:
        body = await response.text()
        await problem(response, 500, "internal")
    assert "secret" not in body
    assert "ValueError" not in body
    assert "secret /etc/shadow" in caplog.text  # the operator's log has it


async def test_bytes_that_are_no_http_do_not_stop_the_service(client: AnyClient) -> None:
    for garbage in (b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 100):
        reader, writer = await asyncio.open_connection(client.host, client.port)
        writer.write(garbage)
        writer.write_eof()
        answer = await reader.read()
        assert b"Traceback" not in answer
        writer.close()
        await writer.wait_closed()
    assert text(await run(client, **P)) == "1\n"
