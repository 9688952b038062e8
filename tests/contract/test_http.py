"""Compare the table of the HTTP interface with the answers of a real server."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

import streamer
from streamer import spi
from streamer.testing.running import plugin
from streamer.web.app import LIFETIME
from streamer.web.parameters import Handler
from tests.conftest import Start
from tests.contract import ADDED, KEPT, differences, table_http
from tests.environments.making import made_for_python
from tests.jobs.archives import zip_of
from tests.redisserver import redis_server
from tests.support import AnyClient, follow, received, submit
from tests.web import SLEEPER, problem, python, until_state
from tests.web.conftest import InRedis

SOURCES = [
    (path, path.read_text())
    for path in sorted(Path(streamer.__file__).parent.rglob("*.py"))
    if "testing" not in path.parts
]


def routes_of(app: web.Application) -> set[str]:
    """Return the routes of an application, in the notation of the table."""
    found = set()
    for route in app.router.routes():
        info = route.resource.get_info() if route.resource else {}
        path = info.get("path") or info.get("formatter", "")
        # HEAD goes with GET, "" only adds a slash, and the page's parts are its own affair.
        if route.method not in ("HEAD", "OPTIONS") and path and "/static/" not in path:
            found.add(f"{route.method} {re.sub(r'{[a-z]+_id}', '{id}', path)}")
    return found


def dotted(document: Mapping[str, Any], opened: set[str]) -> set[str]:
    """Return the names of a document's fields, those of some of its objects with a dot."""
    names = set()
    for name, value in document.items():
        names |= {f"{name}.{inner}" for inner in value} if name in opened else {name}
    return names


def calls(name: str) -> Iterator[tuple[str, ast.Call]]:
    """Yield the calls of this name in our sources, each with its file.

    Not in the forms of other services, which are theirs to decide.
    """
    for path, text in SOURCES:
        if "compat" in path.parts:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(name):
                yield path.name, node


async def test_routes(start: Start) -> None:
    client = await start()
    assert differences(table_http.ROUTES, routes_of(client.app)) == []


@pytest.mark.parametrize("route", table_http.ROUTES)
async def test_a_route_answers_as_its_row_says(start: Start, route: str) -> None:
    client = await start()
    method, path = route.split(" ")
    job = await submit(client, **python("print(1)"))
    await follow(client, job)
    places = {"{id}": job, "{path}": "a.txt", "{stream}": "stdout"}
    for name, value in places.items():
        path = path.replace(name, value)
    async with client.request(method, path, allow_redirects=False) as response:
        answered = response.status != 405 and not (
            response.status == 404 and "there is no /" in await response.text()
        )
    assert answered == (table_http.ROUTES[route] in (KEPT, ADDED)), response


async def test_parameters(start: Start) -> None:
    """A parameter that a route does not know is refused, with those that it does know."""
    client = await start()
    job = await submit(client, **python("print(1)"))
    await follow(client, job)
    found = set()
    for route, mark in table_http.ROUTES.items():
        if mark not in (KEPT, ADDED) or route in table_http.OPEN:
            continue
        method, path = route.split(" ")
        address = path.replace("{id}", job).replace("{stream}", "stdout")
        async with client.request(method, f"{address}?nonsense=1") as response:
            document = await problem(response, 400, "invalid_request")
        assert document["path"] == "?nonsense"
        _, _, known = document["detail"].partition("known here: ")
        found |= {f"{route}?{name}" for name in known.split(", ") if name}
    assert differences(table_http.QUERY, found) == []


async def accepted(client: AnyClient, job: dict[str, Any]) -> bool:
    async with client.post("/api/execute", json=job) as response:
        assert response.status in (202, 400, 403), await response.text()
        return response.status == 202


@pytest.mark.parametrize("field", table_http.FIELDS)
async def test_a_field_of_a_submission(start: Start, field: str, place: Path) -> None:
    built = {"science": made_for_python(place / "science", {})} if field == "environment" else {}
    webhooks = {"enabled": True, "secrets": ["whsec_" + "QUFB" * 8], "allow_hosts": ["127.0.0.1"]}
    client = await start(
        sandbox={"allow": ["bwrap"], "network": "open"}, environments=built, webhooks=webhooks
    )
    job = {**python("print(1)"), **table_http.EXAMPLES[field]}
    given = {name: value for name, value in job.items() if value is not None}
    assert given[field] not in ([], {}, "")
    if field == "projectId":
        data = zip_of([("main.py", b"print(1)")])
        async with client.post("/api/projects", data=data) as response:
            given[field] = (await response.json())[field]
    if field == "sessionId":
        async with client.post("/api/sessions") as response:
            given[field] = (await response.json())[field]
    assert await accepted(client, given) == (table_http.FIELDS[field] == KEPT)


async def test_every_field_that_is_known_is_in_the_table(start: Start) -> None:
    """An unknown field is reported as unknown; one that is not built yet is refused otherwise."""
    client = await start()
    names = set(re.findall(r"^    (\w+): ", source_of("_JobRequest"), re.MULTILINE))
    known = {camel(name) for name in names}
    assert {"language", "outputEncoding"} <= known
    assert known - table_http.FIELDS.keys() == set()
    async with client.post("/api/execute", json=python("1", nonsense=1)) as response:
        document = await problem(response, 400, "invalid_request")
    assert document["path"] == "$.nonsense"


def source_of(name: str) -> str:
    for _, text in SOURCES:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and node.name == name:
                return "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])
    raise AssertionError(f"there is no class {name}")


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


async def test_limits_of_a_submission(start: Start) -> None:
    client = await start()
    found = set()
    names = {
        camel(name) for name in re.findall(r"^    (\w+): ", source_of("_Limits"), re.MULTILINE)
    }
    for name in {*table_http.LIMITS, *names}:
        value = 16 * 1024 * 1024 if name.endswith("Bytes") else 50
        if await accepted(client, python("print(1)", limits={name: value})):
            found.add(name)
    assert differences(table_http.LIMITS, found) == []


async def test_what_a_submission_is_answered(start: Start) -> None:
    client = await start()
    async with client.post("/api/execute", json=python("print(1)")) as response:
        body = await response.json()
        assert response.status == 202
        assert response.headers["Location"] == f"/api/jobs/{body['jobId']}" == body["links"]["job"]
    assert body["status"] == "queued"
    assert differences(table_http.ACCEPTED, dotted(body, {"links"})) == []


async def test_documents(start: Start) -> None:
    client = await start()
    job = await submit(client, **python("print(1)"))
    await follow(client, job)
    found = {}
    for path in (f"jobs/{job}", "queue", "sandboxes", "runtimes", "jobs"):
        async with client.get(f"/api/{path}") as response:
            found[path] = await response.json()
    document = dotted(found[f"jobs/{job}"], {"result", "policy", "links"})
    # The text may be sent once or, as before, twice.
    document = {re.sub(r"^result\.(std(out|err))", r"\1", name) for name in document}
    assert differences(table_http.JOB, document) == []
    assert differences(table_http.QUEUE, found["queue"]) == []
    for sandbox in found["sandboxes"]["sandboxes"]:
        assert differences(table_http.SANDBOX, sandbox) == []
    for runtime in found["runtimes"]["runtimes"]:
        assert differences(table_http.RUNTIME, runtime) == []
    assert [one["jobId"] for one in found["jobs"]["jobs"]] == [job]
    assert found["jobs"]["nextCursor"] is None


async def test_request_headers(start: Start) -> None:
    found = {
        call.args[0].value
        for name in ("request.headers.get", "request.headers.getall")
        for _, call in calls(name)
        if isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str)
    }
    assert differences(table_http.REQUEST_HEADERS, found) == []
    client = await start()
    key = {"Idempotency-Key": "k"}
    async with client.post("/api/execute", json=python("print(1)"), headers=key) as response:
        first = await response.json()
    async with client.post("/api/execute", json=python("print(1)"), headers=key) as response:
        assert (await response.json())["jobId"] == first["jobId"]
    waiting = {"Prefer": "wait=60"}
    async with client.post("/api/execute", json=python("print(1)"), headers=waiting) as response:
        assert (response.status, (await response.json())["status"]) == (200, "complete")
    wants = {"Accept": "text/event-stream"}
    async with client.post("/api/execute", json=python("print(1)"), headers=wants) as response:
        events = [event async for event in received(response)]
        assert response.headers["X-Job-Id"] == events[0].data["jobId"]
        assert response.headers["X-Accel-Buffering"] == "no"
    after = {"Last-Event-ID": str(events[-2].id)}
    address = f"/api/stream/{events[0].data['jobId']}"
    async with client.get(address, headers=after) as response:
        assert [event async for event in received(response)] == events[-1:]
    async with client.get(address, params={"lastEventId": events[-2].id}) as response:
        assert [event async for event in received(response)] == events[-1:]
    async with client.get(address, params={"lastEventId": events[-1].id}) as response:
        assert response.status == 204


async def test_answer_headers(start: Start) -> None:
    """The headers of real answers, without those that HTTP itself needs."""
    token = {"tenant": "a", "sha256": hashlib.sha256(b"secret").hexdigest()}
    mine = {"Authorization": "Bearer secret"}
    client = await start(
        auth={"tokens": [token]},
        queue={"concurrency": 1, "max_waiting": 1},
        server={"allowed_origins": ["https://example.org"]},
    )
    found: set[str] = set()
    asked: list[tuple[str, str, dict[str, str]]] = [
        ("GET", "/api/queue", {}),
        ("GET", "/api/queue", mine | {"Origin": "https://example.org"}),
        ("OPTIONS", "/api/execute", {"Origin": "https://example.org"}),
        ("PUT", "/api/execute", mine),
        ("POST", "/api/execute", mine | {"Accept": "text/event-stream"}),
        *[("POST", "/api/execute", mine)] * 3,
        ("GET", "/", {}),
    ]
    for method, path, headers in asked:
        body = json.dumps(SLEEPER) if method == "POST" else None
        async with client.request(method, path, data=body, headers=headers) as response:
            found |= set(response.headers)
    document = await submit_ended(client, mine)
    async with client.get(f"/api/jobs/{document}/output/stdout", headers=mine) as response:
        found |= set(response.headers)
    left = python("open('a', 'w').write('x')", artifacts=["a"])
    async with client.post(
        "/api/execute", json=left, headers={**mine, "Prefer": "wait=60"}
    ) as response:
        files = (await response.json())["links"]["files"]
    async with client.get(f"{files}/a", headers={**mine, "Range": "bytes=0-"}) as response:
        assert response.status == 206
        found |= set(response.headers)
    found -= {"Content-Type", "Content-Length", "Date", "Server", "Connection"}
    found -= {"Transfer-Encoding", "Keep-Alive", "Content-Encoding"}
    assert differences(table_http.ANSWER_HEADERS, found) == []


async def submit_ended(client: AnyClient, headers: dict[str, str]) -> str:
    """Cancel all jobs, and return the id of one that is over."""
    async with client.get("/api/jobs", headers=headers) as response:
        jobs = [job["jobId"] for job in (await response.json())["jobs"]]
    for job in jobs:
        async with client.delete(f"/api/jobs/{job}", headers=headers) as response:
            assert response.status == 202
        async with client.get(f"/api/stream/{job}", headers=headers) as response:
            assert [event async for event in received(response)][-1].kind == "complete"
    return str(jobs[0])


def codes_of_the_sources() -> set[str]:
    """Return every problem code in our sources: of a class, or passed as an argument."""
    found = set()
    for path, text in SOURCES:
        if path.parts[-2:] == ("client", "problem.py"):
            continue  # repeats what a service said
        for node in ast.walk(ast.parse(text)):
            values: list[ast.expr] = []
            if isinstance(node, ast.Call):
                values = [word.value for word in node.keywords if word.arg == "code"]
            elif path.name == "errors.py" and isinstance(node, ast.Assign | ast.AnnAssign):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                values = [node.value] if ast.unparse(target) == "code" and node.value else []
            for value in values:
                found |= {
                    leaf.value
                    for leaf in ast.walk(value)
                    if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
                }
    return found


def test_codes() -> None:
    events = {"sandbox_error", "worker_lost"}
    found = codes_of_the_sources() - events
    assert differences(table_http.CODES, found) == []
    assert table_http.STATUS.keys() == table_http.CODES.keys()


@dataclass(frozen=True)
class Missing(spi.Backend):
    """A backend that this host does not have."""

    name: ClassVar[str] = "missing"
    isolation: ClassVar[spi.Isolation] = spi.Isolation.NONE

    async def probe(self, host: spi.Host) -> None:
        raise spi.BackendUnavailable("its command is not installed")

    def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
        raise NotImplementedError


OVER = "import sys\nfor _ in range(3000): sys.stdout.write('x' * 99 + '\\n')"
"""Writes more than the configuration of `refusing` keeps."""

BODIES = {
    "invalid_json": "{",
    "invalid_request": json.dumps({"language": "python", "code": 5}),
    "unknown_language": json.dumps({"language": "klingon", "code": ""}),
    "unknown_project": json.dumps({"language": "python", "projectId": "p"}),
    "payload_too_large": json.dumps(python("#" * 3000)),
    "unauthorized": json.dumps(SLEEPER),
    "forbidden": json.dumps(python("1", network=True)),
    "sandbox_unavailable": json.dumps(python("1", sandbox="missing")),
    "queue_full": json.dumps(SLEEPER),
    "shutting_down": json.dumps(SLEEPER),
}
"""A submission for each problem code that can answer one."""


RETRIED = ("queue_full", "rate_limited", "shutting_down", "storage_full", "engine_unavailable")


ADDRESSES = {"not_found": "/api/jobs/nothing", "engine_unavailable": "/api/queue"}


async def provoke(client: AnyClient, code: str) -> tuple[str, str]:
    """Bring a service into the state for a code; return the request that is answered with it."""
    if code == "queue_full":
        await until_state(client, await submit(client, **SLEEPER), "running")
        await submit(client, **SLEEPER)
    if code == "shutting_down":
        await client.app[LIFETIME].drain(0)
    if code == "conflict":
        job = await submit(client, **python("print(1)"))
        await follow(client, job)
        return "DELETE", f"/api/jobs/{job}"
    if code == "gone":
        job = await submit(client, **python(OVER))
        await until_state(client, job, "complete")
        return "GET", f"/api/jobs/{job}/output/stdout"
    if code == "rate_limited":
        return "GET", f"/api/stream/{await submit(client, **SLEEPER)}"
    if code in ADDRESSES:
        return "GET", ADDRESSES[code]
    if code == "range_not_satisfiable":
        job = await submit(client, **python("open('a', 'w')", artifacts=["a"]))
        await follow(client, job)
        return "GET", f"/api/jobs/{job}/files/a"
    return "POST", "/api/projects" if code == "storage_full" else "/api/execute"


@web.middleware
async def broken(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Fail, as a host's own middleware may."""
    del request, handler
    raise RuntimeError("a secret of the host")


async def test_what_nobody_expected_is_internal() -> None:
    app = streamer.create_app({"sandbox": {"backend": "plain"}}, middlewares=[broken])
    async with TestClient(TestServer(app)) as client, client.get("/api/queue") as response:
        document = await problem(response, table_http.STATUS["internal"], "internal")
        assert "secret" not in document["detail"]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Return what closes a test's resources after its service."""
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("code", [code for code in table_http.CODES if code != "internal"])
async def test_a_code_is_really_answered(stack: ExitStack, start: Start, code: str) -> None:
    token = {"tenant": "a", "sha256": hashlib.sha256(b"secret").hexdigest()}
    engines = []
    if code == "engine_unavailable":
        server = stack.enter_context(redis_server())
        engines.append(InRedis(server.url()))
    client = await start(
        server={"max_body_bytes": 2000},
        queue={"concurrency": 1, "max_waiting": 1},
        streams={
            "max_readers_per_job": 1,
            "log_bytes": 70_000,
            "log_memory_bytes": 70_000,
            "disk_bytes": 0,
        },
        engine={"blob_bytes": 1 if code == "storage_full" else 100_000},
        sandbox={"backend": "plain", "allow": ["missing"]},
        plugins=(plugin(Missing), *engines),
        auth={"tokens": [token]} if code == "unauthorized" else {},
    )
    method, path = await provoke(client, code)
    if code == "engine_unavailable":
        server.kill()
    async with AsyncExitStack() as open_:
        if code == "rate_limited":
            first = await open_.enter_async_context(client.get(path))
            assert first.status == 200
        asked = client.request(method, path, data=BODIES.get(code), headers={"Range": "bytes=9-"})
        response = await open_.enter_async_context(asked)
        document = await problem(response, table_http.STATUS[code], code)
        retried = code in RETRIED
        assert ("Retry-After" in response.headers) == retried
        assert int(response.headers.get("Retry-After", "1")) >= 1
        assert response.headers.get("WWW-Authenticate") == (
            "Bearer" if code == "unauthorized" else None
        )
    assert differences(table_http.PROBLEM, {*document, "path"}) == []
