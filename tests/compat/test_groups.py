"""Routes that a plugin adds: below which prefix, who may call them, and what bounds them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer

import streamer
from streamer.config.tokens import changed_tokens, new_token
from streamer.errors import ConfigError, InvalidRequest, PluginError
from tests.conftest import Start

TOKEN = "a-token-of-ann"
AUTH = {
    "tokens": [
        {"tenant": "ann", "sha256": hashlib.sha256(TOKEN.encode()).hexdigest(), "scopes": ["run"]}
    ]
}
WAITS = "import time; print('on', flush=True); time.sleep(60)"


@dataclass(frozen=True)
class Options:
    language: str = "bash"


def worded(refusal: streamer.Refusal) -> web.Response:
    return web.json_response(
        {"said": f"{refusal.code}: {refusal.message}"}, status=418 if refusal.status == 400 else 503
    )


class Simple:
    """A group as a stranger writes it."""

    def __init__(self, name: str = "simple") -> None:
        self.name = name

    @streamer.hookimpl
    def streamer_routes(self) -> list[streamer.RouteGroup]:
        group = streamer.RouteGroup(
            self.name, routes, Options, token_headers=("X-Simple",), refusal=worded
        )
        return [group]


def routes(options: Options) -> list[streamer.Route]:
    async def run(caller: streamer.Caller) -> web.Response:
        async with caller.document(dict[str, str]) as asked:
            code = asked["code"]
        spec = streamer.JobSpec(language=options.language, code=code)

        async def text(job: streamer.Job) -> str:
            return "".join(
                [one.data.data async for one in job.events() if one.kind == "output"]  # type: ignore[union-attr]
            )

        return web.json_response({"text": await caller.run(spec, text), "of": caller.tenant})

    async def fail(caller: streamer.Caller) -> web.Response:
        raise {"known": InvalidRequest("not so"), "unknown": OSError("/secret")}[
            caller.request.match_info["how"]
        ]

    async def alive(caller: streamer.Caller) -> web.Response:
        return web.Response(text="yes")

    return [
        streamer.Route("POST", "/run", run, "submit"),
        streamer.Route("GET", "/fail/{how}", fail, "read"),
        streamer.Route("GET", "/alive", alive, None),
    ]


ON: dict[str, Any] = {"enabled": ["simple"]}


async def ran(client: TestClient[Any, Any], path: str, **headers: str) -> tuple[int, Any]:
    async with client.post(path, json={"code": "echo hi"}, headers=headers) as response:
        return response.status, await response.json()


async def test_a_group_is_served_below_its_prefix_with_its_options(start: Start) -> None:
    client = await start(
        plugins=(Simple(),),
        compat={**ON, "simple": {"prefix": "/at/another/", "language": "python"}},
    )
    async with client.post("/at/another/run", json={"code": "print(6 * 7)"}) as response:
        assert (response.status, await response.json()) == (200, {"text": "42\n", "of": ""})
    async with client.post("/simple/run", json={}) as response:
        assert response.status == 404


async def test_a_group_that_is_not_switched_on_has_no_routes(start: Start) -> None:
    client = await start(plugins=(Simple(),))
    assert (await ran(client, "/simple/run"))[0] == 404


async def test_a_mount_has_them_below_its_own_prefix() -> None:
    app = web.Application()
    config = {"sandbox": {"backend": "bwrap"}, "server": {"drain_s": 0}, "compat": ON}
    streamer.setup(app, config, prefix="/code", plugins=[Simple()])
    async with TestClient(TestServer(app)) as client:
        assert await ran(client, "/code/simple/run") == (200, {"text": "hi\n", "of": ""})


async def test_a_token_in_a_header_of_the_group_is_as_good_as_any(start: Start) -> None:
    client = await start(plugins=(Simple(),), compat=ON, auth=AUTH)
    found = {"text": "hi\n", "of": "ann"}
    assert await ran(client, "/simple/run", **{"X-Simple": TOKEN}) == (200, found)
    assert await ran(client, "/simple/run", Authorization=f"Bearer {TOKEN}") == (200, found)
    for headers in ({}, {"X-Simple": "another"}, {"X-Other": TOKEN}):
        status, said = await ran(client, "/simple/run", **headers)
        assert (status, said["said"].partition(":")[0]) == (503, "unauthorized"), headers
    # Its scope is checked: it may run, and not read.
    async with client.get("/simple/fail/known", headers={"X-Simple": TOKEN}) as response:
        assert (await response.json())["said"].startswith("forbidden: ")
    async with client.post("/api/execute", json={}, headers={"X-Simple": TOKEN}) as response:
        assert response.status == 401  # the header is the group's only


async def test_who_is_no_caller_gets_an_answer_only_where_nothing_is_asked(start: Start) -> None:
    client = await start(plugins=(Simple(),), compat=ON, auth=AUTH)
    async with client.get("/simple/alive") as response:
        assert (response.status, await response.text()) == (200, "yes")


async def test_pages_of_other_sites_are_refused_and_allowed_ones_may_send_the_header(
    start: Start,
) -> None:
    origin = "https://example.org"
    client = await start(plugins=(Simple(),), compat=ON, server={"allowed_origins": [origin]})
    assert (await ran(client, "/simple/run", Origin="https://example.net"))[0] == 503
    async with client.options("/simple/run", headers={"Origin": origin}) as response:
        assert response.status == 204
        assert "X-Simple" in response.headers["Access-Control-Allow-Headers"]


async def test_refusals_and_failures_are_in_the_words_of_the_group(start: Start) -> None:
    client = await start(plugins=(Simple(),), compat=ON)
    for path, status, said in (
        ("/simple/fail/known", 418, "invalid_request: not so"),
        ("/simple/fail/unknown", 503, "internal: an internal error occurred"),
        ("/simple/nowhere", 503, "not_found: there is no /simple/nowhere"),
    ):
        async with client.get(path) as response:
            assert (response.status, (await response.json())["said"]) == (status, said)
    async with client.post("/simple/run", data=b"{") as response:
        assert (await response.json())["said"].startswith("invalid_json: ")


async def test_bodies_and_rates_are_bounded_as_everywhere(start: Start) -> None:
    client = await start(
        plugins=(Simple(),),
        compat=ON,
        server={"max_body_bytes": 1000, "bodies_bytes": 1000},
        auth={"rate": "1/hour"},
    )
    async with client.post("/simple/run", json={"code": "x" * 1000}) as response:
        assert (await response.json())["said"].startswith("payload_too_large: ")
    assert (await ran(client, "/simple/run"))[0] == 200
    async with client.post("/simple/run", json={"code": "echo hi"}) as response:
        assert (await response.json())["said"].startswith("rate_limited: ")
        assert int(response.headers["Retry-After"]) > 0


AnyClient = TestClient[Any, Any] | ClientSession


async def running(client: AnyClient) -> int:
    async with client.get("/api/queue") as response:
        found = await response.json()
    return int(found["running"]) + int(found["waiting"])


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await holds():
            await asyncio.sleep(0.01)


async def some_run(client: AnyClient) -> bool:
    return await running(client) > 0


async def none_runs(client: AnyClient) -> bool:
    return await running(client) == 0


@asynccontextmanager
async def without_cancellation() -> AsyncIterator[ClientSession]:
    """Serve as a host application does by default: handlers run on when their clients leave."""
    config = {
        "sandbox": {"backend": "bwrap"},
        "server": {"drain_s": 0},
        "compat": {**ON, "max_waiting": 1, "simple": {"language": "python"}},
    }
    runner = web.AppRunner(streamer.create_app(config, plugins=[Simple()]))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        async with ClientSession(f"http://{host}:{port}") as client:
            yield client
    finally:
        await runner.cleanup()


async def test_waiting_requests_are_bounded_and_a_job_ends_when_its_caller_leaves() -> None:
    async with without_cancellation() as client:
        waiting = asyncio.create_task(client.post("/simple/run", json={"code": WAITS}))
        await until(lambda: some_run(client))
        async with client.post("/simple/run", json={"code": "print(1)"}) as response:
            assert (await response.json())["said"].startswith("rate_limited: too many requests")
        waiting.cancel()
        await until(lambda: none_runs(client))
        async with client.post("/simple/run", json={"code": "print(1)"}) as response:
            assert (await response.json())["text"] == "1\n"


async def test_a_job_ends_with_its_request_where_handlers_are_cancelled(start: Start) -> None:
    client = await start(plugins=(Simple(),), compat={**ON, "simple": {"language": "python"}})
    waiting = asyncio.create_task(client.post("/simple/run", json={"code": WAITS}))
    await until(lambda: some_run(client))
    waiting.cancel()
    await until(lambda: none_runs(client))


def group(**changes: Any) -> Any:
    values: dict[str, Any] = {"name": "simple", "routes": routes, "options": Options, **changes}

    @streamer.hookimpl
    def streamer_routes() -> list[streamer.RouteGroup]:
        return [streamer.RouteGroup(**values)]

    return SimpleNamespace(streamer_routes=streamer_routes)


@pytest.mark.parametrize(
    ("compat", "message"),
    [
        ({"enabled": ["simpel"]}, "compat.enabled: simpel: .*did you mean simple"),
        ({"simpel": {}}, "compat.simpel: no plugin has routes"),
        ({**ON, "simple": {"langage": "c"}}, "compat.simple.langage: .*did you mean language"),
        ({**ON, "simple": {"language": 1}}, "compat.simple.language: expected a string"),
        ({**ON, "simple": {"prefix": ""}}, "compat.simple.prefix: ''"),
        ({**ON, "simple": {"prefix": "/a/../b"}}, "compat.simple.prefix: '/a/../b'"),
        ({**ON, "simple": {"prefix": "/api/v2"}}, "compat.simple.prefix: '/api/v2': /api is ours"),
        (
            {"enabled": ["simple", "other"], "other": {"prefix": "/simple/below"}},
            "compat.other.prefix: '/simple/below' is below that of simple",
        ),
        ({"enabled": "simple"}, "compat.enabled: expected a list"),
        ({"max_waiting": 0}, "compat.max_waiting"),
    ],
)
def test_a_wrong_configuration_stops_the_start(compat: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        streamer.create_app({"compat": compat}, plugins=[Simple(), Simple("other")])


@pytest.mark.parametrize(
    ("plugins", "message"),
    [
        (lambda: [Simple(), group()], "two groups of routes are named 'simple'"),
        (lambda: [group(name="max_waiting")], "compat.max_waiting is a setting"),
        (lambda: [group(name="Simple")], "is not of the form"),
        (lambda: [group(token_headers="X-Token")], "token_headers is a tuple"),
        (lambda: [group(routes=lambda _: [1])], "1 is no Route"),
        (
            lambda: [group(routes=lambda _: [streamer.Route("GET", "/", _none, "rad")])],  # type: ignore[arg-type]
            "unknown action 'rad'",
        ),
    ],
)
def test_a_malformed_group_stops_the_start(plugins: Callable[[], list[Any]], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        streamer.create_app({"compat": ON}, plugins=plugins())


async def _none(caller: streamer.Caller) -> web.Response:
    return web.Response()


def test_options_may_come_from_the_environment_and_are_listed() -> None:
    environ = {
        "STREAMER_COMPAT__ENABLED": '["simple"]',
        "STREAMER_COMPAT__SIMPLE__LANGUAGE": "lua",
        "STREAMER_COMPAT__SIMPLE__PREFIX": "/at",
    }
    config = streamer.load_config(None, environ=environ)
    app = streamer.create_app(config, plugins=[Simple()])
    assert any(resource.canonical == "/at" for resource in app.router.resources())


async def test_the_languages_are_listed_with_their_versions(start: Start) -> None:
    client = await start()
    service = streamer.get_service(client.app)
    (python,) = [one for one in await service.languages() if one.name == "python"]
    assert (python.available, python.compiled, python.entry) == (True, False, "main.py")
    assert "python3" in python.aliases


async def test_a_token_in_a_header_of_the_group_may_be_made_while_the_service_runs(
    start: Start, tmp_path: Path
) -> None:
    file = tmp_path / "tokens.json"
    client = await start(plugins=(Simple(),), compat=ON, auth={"tokens_file": str(file)})
    token, stored = new_token("ann")
    assert (await ran(client, "/simple/run", **{"X-Simple": token}))[0] == 503
    with changed_tokens(file) as tokens:
        tokens.append(stored)
    assert (await ran(client, "/simple/run", **{"X-Simple": token}))[0] == 200
    with changed_tokens(file) as tokens:
        tokens.clear()
    assert (await ran(client, "/simple/run", **{"X-Simple": token}))[0] == 503
