"""Who may use the service: tokens, hooks and tenants."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from aiohttp import web

import streamer
from streamer.engine.interface import JobView
from streamer.errors import Forbidden, Unauthorized
from streamer.web.app import SERVICE
from tests.conftest import Start
from tests.support import AnyClient, received, text
from tests.web import SLEEPER, job_of, problem, python

ALICE = {"Authorization": "Bearer alice-token"}
BOB = {"Authorization": "bearer bob-token"}
TOKENS = {
    "tokens": [
        {"tenant": name, "sha256": hashlib.sha256(f"{name}-token".encode()).hexdigest()}
        for name in ("alice", "bob")
    ]
}


@pytest.fixture
async def client(start: Start) -> AnyClient:
    return await start(auth=TOKENS)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/execute"),
        ("GET", "/api/jobs"),
        ("GET", "/api/runtimes"),
        ("GET", "/api/sandboxes"),
        ("GET", "/api/queue"),
        ("GET", "/metrics"),
    ],
)
async def test_without_a_known_token_there_is_nothing(
    client: AnyClient, method: str, path: str
) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic alice-token"},
        {"Authorization": "alice-token"},
        {"Authorization": "Bearer alice-tokenx"},
    ):
        async with client.request(method, path, headers=headers, json=SLEEPER) as response:
            await problem(response, 401, "unauthorized")
            assert response.headers["WWW-Authenticate"] == "Bearer"
    if method == "POST":
        # A token in the address would end up in logs; only EventSource has no other way.
        async with client.post(f"{path}?access_token=alice-token", json=SLEEPER) as response:
            await problem(response, 401, "unauthorized")


async def test_health_needs_no_token(client: AnyClient) -> None:
    for path in ("/healthz", "/readyz"):
        async with client.get(path) as response:
            assert response.status == 200


async def test_another_tenants_job_is_not_there(client: AnyClient) -> None:
    job_id = await job_of(client, ALICE)
    for method, path, body in (
        ("GET", f"/api/jobs/{job_id}", None),
        ("GET", f"/api/stream/{job_id}", None),
        ("DELETE", f"/api/jobs/{job_id}", None),
        ("DELETE", f"/api/jobs/{job_id}?purge=1", None),
        ("POST", f"/api/jobs/{job_id}/stdin", {}),
        ("POST", f"/api/jobs/{job_id}/signal", {"signal": "SIGKILL"}),
    ):
        async with client.request(method, path, headers=BOB, json=body) as response:
            theirs = await problem(response, 404, "not_found")
        unknown = path.replace(job_id, job_id[::-1])
        async with client.request(method, unknown, headers=BOB, json=body) as response:
            nobodys = await problem(response, 404, "not_found")
        # The same answer as for an unknown id, so that nobody learns which jobs exist.
        assert theirs["detail"].replace(job_id, job_id[::-1]) == nobodys["detail"]
    async with client.get("/api/jobs", headers=BOB) as response:
        assert (await response.json())["jobs"] == []
    async with client.get("/api/jobs", headers=ALICE) as response:
        (job,) = (await response.json())["jobs"]
    assert job["jobId"] == job_id
    assert job["status"] in ("queued", "preparing", "running")


async def test_a_stream_takes_its_token_from_the_query(client: AnyClient) -> None:
    job_id = await job_of(client, ALICE, **python("print('mine')"))
    async with client.get(f"/api/stream/{job_id}?access_token=alice-token") as response:
        assert text([event async for event in received(response)]) == "mine\n"
    async with client.get(f"/api/stream/{job_id}") as response:
        await problem(response, 401, "unauthorized")


async def test_idempotency_keys_are_each_tenants_own(client: AnyClient) -> None:
    key = {"Idempotency-Key": "k"}
    assert await job_of(client, {**ALICE, **key}) == await job_of(client, {**ALICE, **key})
    assert await job_of(client, {**BOB, **key}) != await job_of(client, {**ALICE, **key})


async def test_a_share_of_the_queue_is_each_tenants_own(start: Start) -> None:
    client = await start(auth=TOKENS, queue={"concurrency": 1, "max_per_client": 2})
    for _ in range(3):  # one of them runs
        async with client.post("/api/execute", json=SLEEPER, headers=ALICE) as response:
            refused = response.status == 429
    for _ in range(3):
        async with client.post("/api/execute", json=SLEEPER, headers=ALICE) as response:
            refused = response.status == 429
    assert refused
    await job_of(client, BOB)


async def test_a_plugin_may_say_who_may_do_what(start: Start) -> None:
    asked: list[tuple[str, bool]] = []

    class Rules:
        @streamer.hookimpl
        def streamer_authorize(
            self, request: web.Request, action: str, job: JobView | None
        ) -> str | bool | None:
            asked.append((action, job is not None))
            return False if action == "cancel" else request.headers.get("X-User", "nobody")

    client = await start(plugins=(Rules(),))
    job_id = await job_of(client, {"X-User": "ann"})
    async with client.get(f"/api/jobs/{job_id}", headers={"X-User": "ann"}) as response:
        assert response.status == 200
    async with client.get(f"/api/jobs/{job_id}", headers={"X-User": "ben"}) as response:
        await problem(response, 404, "not_found")
    async with client.delete(f"/api/jobs/{job_id}", headers={"X-User": "ann"}) as response:
        await problem(response, 403, "forbidden")
    # For a job it is called twice: before anything is looked up, and with the job.
    assert asked == [
        *[("submit", False), ("read", False), ("read", True)],
        *[("read", False), ("read", True), ("cancel", False)],
    ]


class Answering:
    """A plugin whose hook returns what a test wants."""

    def __init__(self, answer: Callable[[str, JobView | None], object]) -> None:
        self.answer = answer

    @streamer.hookimpl
    def streamer_authorize(self, request: web.Request, action: str, job: JobView | None) -> Any:
        return self.answer(action, job)


def raising(error: Exception) -> Callable[..., object]:
    def answer(*_: object) -> object:
        raise error

    return answer


async def coroutine() -> bool:
    return True


NOBODYS = "/api/jobs/aaaaaaaaaaaaaaaaaaaaaaaaaa"


@pytest.mark.parametrize(
    ("answer", "status", "logged"),
    [
        (lambda *_: False, 403, ""),
        (lambda *_: None, 401, ""),
        (lambda *_: "", 403, "an empty name"),
        (lambda *_: 0, 403, "type int"),
        (lambda *_: 1, 403, "type int"),
        (lambda *_: 5, 403, "type int"),
        (lambda *_: [], 403, "type list"),
        (lambda *_: ["ann"], 403, "type list"),
        (lambda *_: {}, 403, "type dict"),
        (lambda *_: b"ann", 403, "type bytes"),
        (lambda *_: object(), 403, "type object"),
        (lambda *_: coroutine(), 403, "type coroutine"),
        (raising(ValueError("no database")), 403, "no database"),
        (raising(KeyError("user")), 403, "KeyError"),
        (raising(web.HTTPOk()), 403, "HTTPOk"),
        (raising(web.HTTPForbidden()), 403, ""),
        (raising(web.HTTPUnauthorized()), 401, ""),
        (raising(Forbidden("not yours")), 403, ""),
        (raising(Unauthorized("log in at /login")), 401, ""),
    ],
)
async def test_what_is_no_clear_yes_of_the_hook_refuses(
    start: Start,
    caplog: pytest.LogCaptureFixture,
    answer: Callable[..., object],
    status: int,
    logged: str,
) -> None:
    # Tokens have no effect if there is a hook.
    client = await start(plugins=(Answering(answer),), auth=TOKENS)
    caplog.clear()
    code = {401: "unauthorized", 403: "forbidden"}[status]
    for method, path in (
        ("POST", "/api/execute"),
        ("GET", "/api/jobs"),
        ("GET", NOBODYS),
        ("DELETE", NOBODYS),
        ("GET", NOBODYS.replace("jobs", "stream")),
        ("GET", f"{NOBODYS}/sessions"),
    ):
        async with client.request(method, path, json=SLEEPER, headers=ALICE) as response:
            document = await problem(response, status, code)
            assert "database" not in document["detail"]
    assert (await client.app[SERVICE].stats()).waiting == 0
    assert (await client.app[SERVICE].stats()).running == 0
    errors = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert len(errors) == (6 if logged else 0)
    assert all(logged in r.getMessage() + str(r.exc_info) for r in errors)


async def test_a_hook_may_send_somebody_to_log_in(start: Start) -> None:
    client = await start(plugins=(Answering(raising(Unauthorized("log in at /login"))),))
    async with client.get("/api/jobs") as response:
        assert (await problem(response, 401, "unauthorized"))["detail"] == "log in at /login"
    challenge = {"WWW-Authenticate": 'Basic realm="app"'}
    client = await start(plugins=(Answering(raising(web.HTTPUnauthorized(headers=challenge))),))
    async with client.get("/api/jobs") as response:
        await problem(response, 401, "unauthorized")
        assert response.headers["WWW-Authenticate"] == challenge["WWW-Authenticate"]


async def test_with_a_hook_any_host_and_any_proxy_is_served(start: Start) -> None:
    client = await start(plugins=(Answering(lambda *_: True),))
    headers = {"Host": "www.example.org", "X-Forwarded-For": "203.0.113.7"}
    async with client.get("/api/jobs", headers=headers) as response:
        assert response.status == 200


async def test_with_tokens_any_host_and_any_proxy_is_served(client: AnyClient) -> None:
    headers = {**ALICE, "Host": "www.example.org", "X-Forwarded-For": "203.0.113.7"}
    async with client.get("/api/jobs", headers=headers) as response:
        assert response.status == 200


@pytest.mark.parametrize("action", ["read", "cancel", "write", "signal"])
async def test_a_job_is_told_from_an_unknown_one_by_its_owner_only(
    start: Start, action: str
) -> None:
    # Whatever a hook does with a job that it sees.
    def answer(_: str, job: JobView | None) -> object:
        if job is not None and job.tenant != "ben":
            raise ValueError(job.tenant)
        return asking[0]

    asking = ["ann"]
    client = await start(plugins=(Answering(answer),))
    job_id = await job_of(client, {})
    asking[0] = "ben"
    method, tail, body = {
        "read": ("GET", "", None),
        "cancel": ("DELETE", "", None),
        "write": ("POST", "/stdin", {}),
        "signal": ("POST", "/signal", {"signal": "SIGKILL"}),
    }[action]
    details = []
    for asked in (job_id, job_id[::-1]):
        async with client.request(method, f"/api/jobs/{asked}{tail}", json=body) as response:
            details.append((await problem(response, 404, "not_found"))["detail"])
    assert details[0].replace(job_id, job_id[::-1]) == details[1]


async def test_without_credentials_no_job_can_be_told_from_another(client: AnyClient) -> None:
    job_id = await job_of(client, ALICE)
    for path in ("/api/jobs/{}", "/api/stream/{}", "/api/jobs/{}/cast", "/api/stream?job={}"):
        answers = []
        for asked in (job_id, job_id[::-1]):
            async with client.get(path.format(asked)) as response:
                answers.append(await problem(response, 401, "unauthorized"))
        assert answers[0] == answers[1]


async def test_a_hook_may_let_an_administrator_in_as_the_owner(start: Start) -> None:
    client = await start(plugins=(Answering(lambda action, job: job.tenant if job else asking[0]),))
    asking = ["ann"]
    job_id = await job_of(client, {})
    asking[0] = "root"
    async with client.get(f"/api/jobs/{job_id}") as response:
        assert response.status == 200


async def test_where_other_viewers_are_is_not_for_everybody_with_the_link(start: Start) -> None:
    for auth, headers, told in (
        ({"anonymous": True}, {}, None),
        (TOKENS, ALICE, "127.0.0.1"),
        ({}, {}, "127.0.0.1"),
    ):
        client = await start(auth=auth)
        job_id = await job_of(client, headers)
        async with client.get(f"/api/stream/{job_id}", headers=headers) as stream:
            await anext(received(stream))
            async with client.get(f"/api/jobs/{job_id}/sessions", headers=headers) as response:
                (session,) = (await response.json())["sessions"]
                assert session["peer"] == told
    # A hook decides it for itself.
    client = await start(plugins=(Answering(lambda action, _: action != "viewers"),))
    job_id = await job_of(client, {})
    async with client.get(f"/api/stream/{job_id}") as stream:
        await anext(received(stream))
        async with client.get(f"/api/jobs/{job_id}/sessions") as response:
            assert [s["peer"] for s in (await response.json())["sessions"]] == [None]


async def test_a_job_that_is_over_is_told_without_the_users_files(start: Start) -> None:
    heard: list[JobView] = []

    class Ledger:
        @streamer.hookimpl
        def streamer_job_finished(self, job: JobView) -> None:
            heard.append(job)

    client = await start(plugins=(Ledger(),))
    job = {
        **python("print(input())"),
        "env": {"A": "secret"},
        "stdin": "in",
        "metadata": {"k": "v"},
    }
    async with client.post("/api/execute", json=job, headers={"Prefer": "wait=60"}) as response:
        assert response.status == 200
    (view,) = heard
    assert (view.state, view.job.language, view.job.metadata) == ("complete", "python", {"k": "v"})
    assert not {"files", "stdin", "env", "steps"} & {field.name for field in fields(view.job)}
    assert view.finished_at is not None


OPEN = ("/", "/docs", "/openapi.json", "/healthz", "/readyz")
"""Open to everybody: the page, into which a token can be typed, the reference, the health check."""


async def test_every_route_asks_who_it_is(client: AnyClient) -> None:
    asked = 0
    for route in client.app.router.routes():
        resource = route.resource
        assert resource is not None
        info = resource.get_info()
        path = info.get("path") or re.sub(r"\{[^}]*\}", "stdout", info["formatter"])
        if path in OPEN or path.startswith("/static/") or route.method == "HEAD":
            continue
        path = re.sub(r"(jobs|stream)/stdout", r"\1/" + "a" * 26, path)
        query = "?job=" + "a" * 26 if path == "/api/stream" else ""
        async with client.request(route.method, f"{path}{query}", json=SLEEPER) as response:
            await problem(response, 401, "unauthorized")
            asked += 1
    assert asked > 10


async def test_a_page_needs_a_token_to_do_anything(client: AnyClient) -> None:
    for path in OPEN:
        async with client.get(path) as response:
            assert response.status == 200


@pytest.mark.parametrize("commands", [False, True])
async def test_the_log_tells_at_the_start_who_may_run_programs(
    start: Start, caplog: pytest.LogCaptureFixture, *, commands: bool
) -> None:
    await start(auth={"anonymous": True}, sandbox={"allow_command": commands})
    assert "everybody who reaches this service may run programs here" in caplog.text
    assert ("and without isolation" in caplog.text) is commands
