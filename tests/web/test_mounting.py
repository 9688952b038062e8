"""The service inside another application, and twice, and alone."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

import streamer
from streamer.engine.interface import JobView
from streamer.errors import StreamerError
from streamer.model.events import Output
from tests.support import AnyClient, received, text
from tests.web import problem, python

CONFIG = {"sandbox": {"backend": "bwrap"}, "streams": {"grace_s": 0.05}, "server": {"drain_s": 0}}

Serve = Callable[[web.Application], Awaitable[AnyClient]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Return a function that serves an application."""
    clients: list[AnyClient] = []

    async def start(app: web.Application) -> AnyClient:
        client: AnyClient = TestClient(TestServer(app))
        await client.start_server()
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.close()


async def print_one(client: AnyClient, prefix: str) -> None:
    """Run a job below a prefix, and follow its links."""
    async with client.post(f"{prefix}/api/execute", json=python("print(1)")) as response:
        body = await response.json()
        assert response.status == 202
    assert body["links"] == {
        "job": f"{prefix}/api/jobs/{body['jobId']}",
        "stream": f"{prefix}/api/stream/{body['jobId']}",
        "stdin": f"{prefix}/api/jobs/{body['jobId']}/stdin",
        "signal": f"{prefix}/api/jobs/{body['jobId']}/signal",
        "cancel": f"{prefix}/api/jobs/{body['jobId']}",
        "output": f"{prefix}/api/jobs/{body['jobId']}/output/stdout",
        "cast": f"{prefix}/api/jobs/{body['jobId']}/cast",
        "files": f"{prefix}/api/jobs/{body['jobId']}/files",
    }
    assert response.headers["Location"] == body["links"]["job"]
    async with client.get(body["links"]["stream"]) as response:
        assert text([event async for event in received(response)]) == "1\n"
    async with client.get(body["links"]["job"]) as response:
        assert (await response.json())["links"] == body["links"]


async def test_stands_alone(serve: Serve) -> None:
    await print_one(await serve(streamer.create_app(CONFIG)), "")


async def test_lives_below_a_prefix_and_leaves_the_host_alone(serve: Serve) -> None:
    seen: list[str] = []

    @web.middleware
    async def watch(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        seen.append(request.path)
        response = await handler(request)
        if not response.prepared:
            response.headers["X-Host"] = "yes"
        return response

    async def index(request: web.Request) -> web.Response:
        return web.Response(text="host")

    async def fail(request: web.Request) -> web.Response:
        raise web.HTTPBadRequest(text="the host's own words")

    async def own(request: web.Request) -> web.Response:
        service = streamer.get_service(request)
        job = await service.submit(streamer.JobSpec(language="python", code="print('inside')"))
        events = [event async for event in job.events(after=0)]
        assert [event.id for event in events] == list(range(1, len(events) + 1))
        out = [e.data.data for e in events if isinstance(e.data, Output)]
        return web.Response(text="".join(out))

    host = web.Application(middlewares=[watch])
    host.router.add_get("/", index)
    host.router.add_get("/fail", fail)
    host.router.add_get("/own", own)
    service = streamer.setup(host, CONFIG, prefix="/code")
    assert streamer.get_service(host) is service
    assert len(streamer.get_sessions(host)) == 0
    client = await serve(host)
    await print_one(client, "/code")
    async with client.get("/") as response:
        assert await response.text() == "host"
        assert "Cache-Control" not in response.headers
    async with client.get("/fail") as response:
        assert (response.status, await response.text()) == (400, "the host's own words")
    async with client.get("/own") as response:
        assert await response.text() == "inside\n"
    for path in ("/nothing", "/api/jobs"):
        async with client.get(path) as response:
            assert response.status == 404
            assert response.content_type == "text/plain"
    async with client.get("/code/nothing") as response:
        await problem(response, 404, "not_found")
        assert response.headers["X-Host"] == "yes"
    async with client.put("/code/api/execute") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")
    assert "/code/api/execute" in seen
    assert any(path.startswith("/code/api/stream/") for path in seen)


async def test_a_larger_body_than_the_hosts_is_taken(serve: Serve) -> None:
    host = web.Application(client_max_size=1000)
    streamer.setup(host, CONFIG, prefix="/code")
    client = await serve(host)
    job = python("print(2)" + "#" * 100_000)
    async with client.post(
        "/code/api/execute", json=job, headers={"Prefer": "wait=60"}
    ) as response:
        assert (await response.json())["result"]["stdout"] == "2\n"


async def test_middlewares_of_the_mount_run_inside_it(serve: Serve) -> None:
    seen: list[str] = []

    @web.middleware
    async def watch(request: web.Request, handler: Any) -> web.StreamResponse:
        seen.append(request.path)
        if request.headers.get("X-Stop"):
            raise web.HTTPForbidden
        response: web.StreamResponse = await handler(request)
        return response

    host = web.Application()
    service = streamer.setup(host, CONFIG, prefix="/code", middlewares=[watch])
    assert streamer.get_service(host) is service
    assert len(streamer.get_sessions(host)) == 0
    client = await serve(host)
    async with client.get("/code/healthz") as response:
        assert response.status == 200
    async with client.get("/code/healthz", headers={"X-Stop": "1"}) as response:
        assert response.status == 403
        assert response.content_type == "application/problem+json"
    async with client.get("/elsewhere") as response:
        assert response.status == 404
    assert seen == ["/code/healthz"] * 2


@pytest.mark.parametrize(
    ("raised", "status", "code", "headers"),
    [
        (
            web.HTTPUnauthorized(headers={"WWW-Authenticate": 'Basic realm="app"'}),
            *(401, "unauthorized", {"WWW-Authenticate": 'Basic realm="app"'}),
        ),
        (web.HTTPUnauthorized(), 401, "unauthorized", {"WWW-Authenticate": None}),
        (web.HTTPForbidden(), 403, "forbidden", {}),
        (web.HTTPConflict(), 409, "conflict", {}),
        (
            web.HTTPTooManyRequests(headers={"Retry-After": "7"}),
            429,
            "rate_limited",
            {"Retry-After": "7"},
        ),
        (web.HTTPExpectationFailed(), 417, "invalid_request", {"WWW-Authenticate": None}),
        (web.HTTPBadGateway(text="upstream at 10.1.2.3"), 502, "internal", {}),
        (
            web.HTTPServiceUnavailable(headers={"Retry-After": "9"}),
            *(503, "internal", {"Retry-After": "9"}),
        ),
    ],
)
async def test_what_a_middleware_of_the_host_raises_keeps_its_meaning(
    serve: Serve, raised: web.HTTPException, status: int, code: str, headers: dict[str, str | None]
) -> None:
    @web.middleware
    async def refuse(request: web.Request, handler: Any) -> web.StreamResponse:
        raise raised

    host = web.Application()
    streamer.setup(host, CONFIG, prefix="/code", middlewares=[refuse])
    client = await serve(host)
    async with client.get("/code/api/jobs") as response:
        document = await problem(response, status, code)
        assert "10.1.2.3" not in document["detail"]
        assert {name: response.headers.get(name) for name in headers} == headers


async def test_two_mounts_have_nothing_in_common(serve: Serve) -> None:
    host = web.Application()
    first, second = streamer.create_app(CONFIG), streamer.create_app(CONFIG)
    host.add_subapp("/a", first)
    host.add_subapp("/b/c", second)
    client = await serve(host)
    await print_one(client, "/a")
    await print_one(client, "/b/c")
    assert streamer.get_service(first) is not streamer.get_service(second)
    async with client.post("/a/api/execute", json=python("print(1)")) as response:
        job_id = (await response.json())["jobId"]
    async with client.get(f"/b/c/api/jobs/{job_id}") as response:
        await problem(response, 404, "not_found")


async def test_a_second_setup_is_refused() -> None:
    host = web.Application()
    streamer.setup(host, CONFIG, prefix="/code")
    with pytest.raises(RuntimeError, match=r"create_app\(\) and add_subapp\(\)"):
        streamer.setup(host, CONFIG, prefix="/other")


@pytest.mark.parametrize("prefix", ["", "/", "code"])
async def test_an_empty_prefix_is_refused_and_changes_nothing(serve: Serve, prefix: str) -> None:
    host = web.Application()
    with pytest.raises(ValueError, match=r"(?i)prefix"):
        streamer.setup(host, CONFIG, prefix=prefix)
    streamer.setup(host, CONFIG, prefix="/code")
    await print_one(await serve(host), "/code")


async def test_plugins_of_the_mount_take_part(serve: Serve) -> None:
    ended: list[JobView] = []

    class Plugin:
        @streamer.hookimpl
        def streamer_job_finished(self, job: JobView) -> None:
            ended.append(job)

    host = web.Application()
    streamer.setup(host, CONFIG, prefix="/code", plugins=[Plugin()])
    await print_one(await serve(host), "/code")
    assert [view.job.language for view in ended] == ["python"]


async def test_a_configuration_file_is_all_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_text("server.drain_s = 1\n")
    monkeypatch.setenv("STREAMER_SERVER__DRAIN_S", "2")
    app = streamer.create_app(tmp_path / "config.toml")
    assert streamer.get_service(app).config.server.drain_s == 1


async def test_without_setup_there_is_no_service() -> None:
    with pytest.raises(RuntimeError, match=r"streamer\.setup"):
        streamer.get_service(web.Application())
    with pytest.raises(RuntimeError, match=r"streamer\.setup"):
        streamer.get_sessions(web.Application())


async def test_wrong_settings_are_refused_before_the_start() -> None:
    with pytest.raises(StreamerError, match=r"server\.prot|prot"):
        streamer.create_app({"server": {"prot": 1}})


async def test_a_sandbox_that_does_not_work_stops_the_start() -> None:
    # Its options name a command that does not exist.
    runner = web.AppRunner(
        streamer.create_app({"sandbox": {"backend": "bwrap", "bwrap": {"path": "/nothing"}}})
    )
    with pytest.raises(StreamerError, match="bubblewrap"):
        await runner.setup()
    await runner.cleanup()


async def test_a_sandbox_that_does_not_exist_is_named_before_the_start() -> None:
    with pytest.raises(StreamerError, match=r"sandbox\.backend = 'nothing'"):
        streamer.create_app({"sandbox": {"backend": "nothing"}})


IMPORT = """
import asyncio, logging, signal, threading
def refuse(*_): raise AssertionError("an event loop was made")
asyncio.new_event_loop = refuse
def state():
    return (
        logging.root.handlers[:],
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        threading.active_count(),
    )
before = state()
import streamer
for name in streamer.__all__:
    getattr(streamer, name)
app = streamer.create_app({"sandbox": {"backend": "bwrap"}})
assert state() == before
assert all(type(h) is logging.NullHandler for h in logging.getLogger("streamer").handlers)
"""


@pytest.mark.slow
def test_importing_has_no_effect() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_a_middleware_that_compresses_leaves_the_stream_whole(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def compress(request: web.Request, response: web.StreamResponse) -> None:
        response.enable_compression()

    host = web.Application()
    host.on_response_prepare.append(compress)
    streamer.setup(host, CONFIG, prefix="/code")
    client = await serve(host)
    await print_one(client, "/code")
    (said,) = [r.getMessage() for r in caplog.records if "compress" in r.getMessage()]
    assert re.match(r"/code/api/stream/\w+: a middleware .*text/event-stream", said)


async def test_a_job_of_python_is_watched_by_the_user_it_is_for(serve: Serve) -> None:
    class Users:
        @streamer.hookimpl
        def streamer_authorize(self, request: web.Request) -> str | None:
            return request.headers.get("X-User")

    host = web.Application()
    service = streamer.setup(host, CONFIG, prefix="/code", plugins=[Users()])
    client = await serve(host)
    job = await service.submit(streamer.JobSpec(language="python", code="print(5)"), tenant="ann")
    for user, status in (({"X-User": "ann"}, 200), ({"X-User": "ben"}, 404), ({}, 401)):
        async with client.get(f"/code/api/stream/{job.id}", headers=user) as response:
            assert response.status == status
            if status == 200:
                assert text([event async for event in received(response)]) == "5\n"


async def test_an_error_is_one_line_of_the_log(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    @web.middleware
    async def fail(request: web.Request, handler: Any) -> web.StreamResponse:
        raise ZeroDivisionError("by zero")

    host = web.Application()
    streamer.setup(host, CONFIG, prefix="/code", middlewares=[fail])
    client = await serve(host)
    async with client.get(
        URL("/code/x%0AERROR%20forged?access_token=secret", encoded=True)
    ) as response:
        await problem(response, 500, "internal")
    (said,) = [r.getMessage() for r in caplog.records if "failed" in r.getMessage()]
    assert said == "GET /code/x%0AERROR%20forged failed"
