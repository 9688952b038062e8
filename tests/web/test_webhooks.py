"""The end of a job is told to the URL that it was submitted with, signed, until it is heard."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import streamer
from tests.conftest import Start
from tests.redisserver import RedisServer
from tests.support import AnyClient, submit
from tests.test_process import serving
from tests.web import SLEEPER, job_of, problem, python
from tests.web.test_access import ALICE, BOB, TOKENS

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + "QUFB" * 8
WEBHOOKS: Mapping[str, Any] = {
    "enabled": True,
    "secrets": [SECRET],
    "allow_hosts": ["127.0.0.1"],
    "first_pause_s": 0.01,
}


def signed_by(secret: str, request: web.Request, body: bytes) -> bool:
    """Check a signature as https://github.com/standard-webhooks/standard-webhooks has it."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode()
    digest = base64.b64encode(hmac.new(key, content + body, hashlib.sha256).digest()).decode()
    return f"v1,{digest}" in request.headers["webhook-signature"].split(" ")


class Receiver:
    """Answers with each of `statuses`, then 204; None: with nothing."""

    def __init__(self, url: str, statuses: tuple[int | None, ...]) -> None:
        self.url = url
        self.statuses = [*statuses]
        self.got: asyncio.Queue[tuple[web.Request, bytes]] = asyncio.Queue()
        self.over = asyncio.Event()
        self.open = 0
        self.most_open = 0

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        self.got.put_nowait((request, body))
        try:
            status = self.statuses.pop(0) if self.statuses else 204
            if status is None:
                self.statuses.append(None)
                await self.over.wait()
            headers = {"Location": self.url} if status == 307 else {}
            return web.Response(status=status or 500, headers=headers)
        finally:
            self.open -= 1

    async def next(self) -> tuple[web.Request, dict[str, Any]]:
        """Wait for a request, which must be signed, and return it with its document."""
        async with asyncio.timeout(60):
            request, body = await self.got.get()
        assert signed_by(SECRET, request, body)
        assert not signed_by(OTHER, request, body)
        return request, json.loads(body)


Receive = Callable[..., Awaitable[Receiver]]


@pytest.fixture
async def receive() -> AsyncIterator[Receive]:
    """Return a function that starts a receiver."""
    servers: list[TestServer] = []
    receivers: list[Receiver] = []

    async def begin(*statuses: int | None) -> Receiver:
        app = web.Application()
        server = TestServer(app)
        receiver = Receiver("", statuses)
        app.router.add_post("/{path:.*}", receiver.answer)
        await server.start_server()
        servers.append(server)
        receivers.append(receiver)
        receiver.url = str(server.make_url("/ended?key=hidden"))
        return receiver

    yield begin
    for receiver in receivers:
        receiver.over.set()
    for server in servers:
        await server.close()


async def until_webhook(
    client: AnyClient, job_id: str, *states: str, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Ask until a job's webhook is in one of these states."""
    async with asyncio.timeout(60):
        while True:
            async with client.get(f"/api/jobs/{job_id}", headers=headers) as response:
                webhook: dict[str, Any] = (await response.json())["webhook"]
            if webhook["state"] in states:
                return webhook


async def test_the_end_is_told_once_and_signed(start: Start, receive: Receive) -> None:
    receiver = await receive()
    client = await start(webhooks=WEBHOOKS)
    job = python("print('told')", webhook={"url": receiver.url}, metadata={"lesson": "3"})
    job_id = await submit(client, **job)
    request, document = await receiver.next()
    assert request.headers["webhook-id"] == f"msg_{job_id}"
    assert request.content_type == "application/json"
    assert (request.path, request.query_string) == ("/ended", "key=hidden")
    data = document["data"]
    assert document["type"] == "job.complete"
    assert (data["jobId"], data["status"], data["metadata"]) == (
        job_id,
        "complete",
        {"lesson": "3"},
    )
    assert (data["result"]["reason"], data["result"]["exitCode"]) == ("exited", 0)
    told = await until_webhook(client, job_id, "delivered")
    assert told == {"state": "delivered", "attempts": 1}
    async with client.get(f"/api/jobs/{job_id}") as response:
        shown = await response.json()
    assert document["timestamp"] == data["finishedAt"] == shown["finishedAt"]
    assert "hidden" not in json.dumps(shown)
    async with client.get("/metrics") as response:
        text = await response.text()
    assert 'streamer_webhook_attempts_total{outcome="delivered"} 1' in text
    assert "streamer_webhooks_pending 0" in text


async def test_it_is_tried_again_until_it_is_heard(start: Start, receive: Receive) -> None:
    receiver = await receive(500, 307)
    client = await start(webhooks=WEBHOOKS)
    job_id = await submit(client, **python("1", webhook={"url": receiver.url}))
    requests = [await receiver.next() for _ in range(3)]
    assert len({request.headers["webhook-id"] for request, _ in requests}) == 1
    assert requests[0][1] == requests[1][1] == requests[2][1]
    told = await until_webhook(client, job_id, "delivered")
    assert told == {"state": "delivered", "attempts": 3}


async def test_a_failure_is_shown_with_the_next_attempt(start: Start, receive: Receive) -> None:
    receiver = await receive(307)
    client = await start(webhooks={**WEBHOOKS, "first_pause_s": 600})
    job_id = await submit(client, **SLEEPER, webhook={"url": receiver.url})
    assert await until_webhook(client, job_id, "waiting") == {"state": "waiting", "attempts": 0}
    async with client.delete(f"/api/jobs/{job_id}") as response:
        assert response.status == 202
    await receiver.next()
    async with asyncio.timeout(60):
        while not (shown := await until_webhook(client, job_id, "pending"))["attempts"]:
            pass
        while "lastError" not in shown:
            shown = await until_webhook(client, job_id, "pending")
    assert shown["lastError"] == "the receiver answered 307, and redirects are not followed"
    async with client.get(f"/api/jobs/{job_id}") as response:
        assert shown["nextAt"] > (await response.json())["finishedAt"]


@pytest.mark.parametrize(
    ("status", "attempts", "error"),
    [(503, 2, "the receiver answered 503"), (410, 1, "the receiver answered 410")],
)
async def test_at_last_it_is_given_up(
    start: Start, receive: Receive, status: int, attempts: int, error: str
) -> None:
    receiver = await receive(*[status] * 9)
    client = await start(webhooks={**WEBHOOKS, "max_tries": 2})
    job_id = await submit(client, **python("1", webhook={"url": receiver.url}))
    told = await until_webhook(client, job_id, "failed")
    assert told == {"state": "failed", "attempts": attempts, "lastError": error}
    assert receiver.got.qsize() == attempts


async def test_who_never_answers_delays_nobody_else(start: Start, receive: Receive) -> None:
    silent, quick = await receive(None), await receive()
    client = await start(webhooks={**WEBHOOKS, "timeout_s": 100, "max_per_host": 2})
    for _ in range(5):
        job_id = await submit(client, **python("1", webhook={"url": silent.url}))
        await until_webhook(client, job_id, "pending")
    for _ in range(5):
        await submit(client, **python("1", webhook={"url": quick.url}))
        await quick.next()
    assert silent.most_open == 2
    assert quick.most_open <= 2


async def test_what_ends_with_the_service_is_told_by_it(start: Start, receive: Receive) -> None:
    receiver = await receive()
    client = await start(webhooks=WEBHOOKS)
    job_id = await submit(client, **SLEEPER, webhook={"url": receiver.url})
    await client.close()
    _, document = await receiver.next()
    assert (document["type"], document["data"]["jobId"]) == ("job.error", job_id)
    assert document["data"]["result"]["code"] == "shutting_down"


@pytest.mark.memory_engine("what is submitted does not depend on it")
async def test_only_where_the_operator_allows_it(start: Start) -> None:
    client = await start()
    wanted = python("1", webhook={"url": "https://example.org/"})
    async with client.post("/api/execute", json=wanted) as response:
        assert (await problem(response, 403, "forbidden"))["path"] == "$.webhook"
    client = await start(webhooks={**WEBHOOKS, "allow_hosts": []})
    for webhook, status, path in (
        ({"url": "https://127.0.0.1/"}, 403, "$.webhook.url"),
        ({"url": "http://example.org/"}, 403, "$.webhook.url"),
        ({"url": "https://a:b@example.org/"}, 400, "$.webhook.url"),
        ({"url": "https://example.org/", "events": []}, 400, "$.webhook.events"),
        ({"url": "https://example.org/", "events": ["started"]}, 400, "$.webhook.events[0]"),
        ({"url": "https://example.org/", "secret": "x"}, 400, "$.webhook.secret"),
        ({}, 400, "$.webhook"),
    ):
        async with client.post("/api/execute", json=python("1", webhook=webhook)) as response:
            code = "forbidden" if status == 403 else "invalid_request"
            assert (await problem(response, status, code))["path"] == path, webhook


@pytest.mark.memory_engine("its names are resolved here")
async def test_a_name_that_leads_inwards_is_told_at_the_job(start: Start, receive: Receive) -> None:
    receiver = await receive()
    port = receiver.url.split(":")[2].split("/")[0]
    client = await start(webhooks={**WEBHOOKS, "allow_hosts": [], "max_tries": 1})
    job = python("1", webhook={"url": f"https://localhost:{port}/"})
    told = await until_webhook(client, await submit(client, **job), "failed")
    assert told["lastError"] == "the name of the receiver leads to no address that is allowed"
    assert receiver.got.empty()


@pytest.mark.memory_engine("each process signs what it sends")
async def test_a_tenant_may_have_a_secret_of_its_own(start: Start, receive: Receive) -> None:
    receiver = await receive()
    webhooks = {**WEBHOOKS, "tenant_secrets": {"alice": [OTHER]}}
    client = await start(webhooks=webhooks, auth=TOKENS)
    for headers, secret in ((ALICE, OTHER), (BOB, SECRET)):
        await job_of(client, headers, **python("1", webhook={"url": receiver.url}))
        async with asyncio.timeout(60):
            request, body = await receiver.got.get()
        assert signed_by(secret, request, body)
        assert not signed_by(SECRET if secret == OTHER else OTHER, request, body)


@pytest.mark.memory_engine("the log of the process")
async def test_the_log_tells_of_failures_without_what_may_be_secret(
    start: Start, receive: Receive, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = await receive(404)
    client = await start(webhooks={**WEBHOOKS, "max_tries": 1})
    with caplog.at_level(logging.DEBUG, "streamer"):
        job_id = await submit(client, **python("1", webhook={"url": receiver.url}))
        await until_webhook(client, job_id, "failed")
    assert f"the webhook of job {job_id} to 127.0.0.1:" in caplog.text
    assert "hidden" not in caplog.text
    assert SECRET.removeprefix("whsec_") not in caplog.text


@pytest.mark.memory_engine("how it is submitted does not depend on it")
async def test_it_is_submitted_from_python_and_in_a_batch(start: Start, receive: Receive) -> None:
    receiver = await receive()
    client = await start(webhooks=WEBHOOKS)
    spec = streamer.JobSpec(
        language="python", code="1", webhook=streamer.Webhook(receiver.url, ("complete",))
    )
    async with streamer.Client(str(client.make_url("/"))) as remote:
        jobs = [await remote.submit(spec), *await remote.batch([spec])]
    jobs.append((await streamer.get_service(client.app).submit(spec)).id)
    told = {(await receiver.next())[1]["data"]["jobId"] for _ in jobs}
    assert told == {*jobs}


@pytest.mark.memory_engine("its engine is a server's")
async def test_one_survives_the_process_that_was_sending_it(
    receive: Receive, redis: RedisServer, place: Path
) -> None:
    receiver = await receive(None, 204)
    secrets, hosts = json.dumps([SECRET]), json.dumps(["127.0.0.1"])
    options = [
        *("--set", f"engine.url={redis.url()}", "--set", "webhooks.enabled=true"),
        *("--set", f"webhooks.secrets={secrets}", "--set", f"webhooks.allow_hosts={hosts}"),
        *("--set", "webhooks.timeout_s=1"),
    ]
    job = python("1", webhook={"url": receiver.url})
    async with serving(place, *options) as one:
        async with one.session.post("/api/execute", json=job) as response:
            job_id = (await response.json())["jobId"]
        first, _ = await receiver.next()
        one.process.kill()
        await one.process.wait()
    receiver.over.set()
    async with serving(place, *options) as other:
        again, document = await receiver.next()
        assert again.headers["webhook-id"] == first.headers["webhook-id"]
        assert document["data"]["jobId"] == job_id
        async with asyncio.timeout(60):
            while True:
                async with other.session.get(f"/api/jobs/{job_id}") as response:
                    told = (await response.json())["webhook"]
                if told["state"] == "delivered":
                    break
    assert told["attempts"] == 2


@pytest.mark.memory_engine("its engine is a server's")
async def test_where_they_are_switched_off_what_waits_ends(
    start: Start,
    receive: Receive,
    redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver = await receive(500, 500, 500)
    engine = {"url": redis.url()}
    client = await start(engine=engine, webhooks={**WEBHOOKS, "first_pause_s": 1.0})
    job_id = await submit(client, **python("1", webhook={"url": receiver.url}))
    await receiver.next()
    await client.close()
    got = receiver.got.qsize()
    monkeypatch.setattr("streamer.jobs.webhooks.abandoned.ABANDONED_S", 0.0)
    monkeypatch.setattr("streamer.jobs.webhooks.abandoned.LOOK_S", 0.05)
    client = await start(engine=engine)
    told = await until_webhook(client, job_id, "failed")
    assert told["lastError"] == "webhooks were switched off before it was delivered"
    async with client.get("/metrics") as response:
        assert "streamer_webhooks_pending 0" in await response.text()
    assert receiver.got.qsize() == got
    assert "1 webhooks were never delivered: webhooks.enabled is false" in caplog.text
