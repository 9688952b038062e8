"""`streamer.Client` when a request is refused or not answered: which ones it repeats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import streamer
from streamer import ServiceProblem
from streamer.client.connection import FIRST_PAUSE_S, MAX_PAUSE_S, pause_s
from streamer.client.problem import retry_after_s
from tests.client.test_client import address
from tests.conftest import Start
from tests.web import SLEEPER


class Answers:
    """A service that refuses requests before it accepts one, and counts them."""

    def __init__(self, *answers: web.Response | None) -> None:
        self.left = list(answers)
        self.keys: list[str] = []
        self.at: list[float] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.keys.append(request.headers.get("Idempotency-Key", ""))
        self.at.append(asyncio.get_running_loop().time())
        answer = self.left.pop(0)
        if answer is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return answer


def refusing(status: int, retry_after: str | None = None) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return web.json_response(
        {"code": "queue_full", "detail": "full"}, status=status, headers=headers
    )


def accepting() -> web.Response:
    return web.json_response({"jobId": "a"}, status=202)


@asynccontextmanager
async def answering(answers: Answers) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answers.answer)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


async def test_a_submission_is_repeated_with_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.client.connection.random.uniform", lambda low, high: 0.01)
    answers = Answers(refusing(429), None, refusing(502), accepting(), accepting(), accepting())
    async with answering(answers) as url, streamer.Client(url) as client:
        assert await client.submit(**SLEEPER) == "a"
        assert len(answers.keys) == 4
        assert len(set(answers.keys)) == 1
        await client.submit(**SLEEPER)
        assert answers.keys[4] not in ("", answers.keys[0])
        await client.submit(**SLEEPER, idempotency_key="mine")
        assert answers.keys[5] == "mine"


async def test_it_comes_back_when_it_was_told_to() -> None:
    answers = Answers(refusing(429, "1"), accepting())
    async with answering(answers) as url, streamer.Client(url) as client:
        await client.submit(**SLEEPER)
    first, second = answers.at
    assert second - first >= 1.0


async def test_what_is_refused_too_often_or_for_too_long_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streamer.client.connection.random.uniform", lambda low, high: 0.01)
    answers = Answers(refusing(429), refusing(503), refusing(429, "0"), refusing(429, "3600"))
    async with answering(answers) as url, streamer.Client(url, retries=2) as client:
        with pytest.raises(ServiceProblem) as refused:
            await client.submit(**SLEEPER)
        assert (refused.value.code, refused.value.status) == ("queue_full", 429)
        assert refused.value.retry_after == 0.0
        with pytest.raises(ServiceProblem) as refused:
            await client.submit(**SLEEPER)
        assert refused.value.retry_after == 3600.0
    assert answers.left == []


async def test_a_sandbox_that_is_not_there_is_not_asked_for_again() -> None:
    document = {"status": 503, "code": "sandbox_unavailable", "detail": "no"}
    answers = Answers(web.json_response(document, status=503))
    async with answering(answers) as url, streamer.Client(url) as client:
        with pytest.raises(ServiceProblem) as refused:
            await client.submit(**SLEEPER)
        assert refused.value.code == "sandbox_unavailable"
    assert answers.left == []
    assert len(answers.at) == 1


async def test_what_may_not_happen_twice_is_not_repeated() -> None:
    answers = Answers(None, None, refusing(502))
    async with answering(answers) as url, streamer.Client(url) as client:
        for call in (client.write("a", b"x"), client.signal("a", "SIGUSR1")):
            with pytest.raises(aiohttp.ClientError):
                await call
        with pytest.raises(ServiceProblem):
            await client.signal("a", "SIGUSR1")
    assert answers.left == []


async def test_input_waits_while_the_program_has_not_read_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streamer.client.connection.random.uniform", lambda low, high: 0.0)
    answers = Answers(*[refusing(429, "9") for _ in range(30)], accepting())
    async with answering(answers) as url, streamer.Client(url) as client:
        await client.write("a", b"x")
    assert answers.left == []


async def test_numbered_input_is_sent_again_however_long_it_has_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streamer.client.connection.random.uniform", lambda low, high: 0.0)
    full = [refusing(429) for _ in range(10)]
    answers = Answers(*full, None, refusing(502), refusing(429), refusing(504), accepting())
    async with answering(answers) as url, streamer.Client(url) as client:
        await client.write("a", b"x", seq=0)
    assert answers.left == []
    answers = Answers(None, refusing(502), None, refusing(504), accepting())
    async with answering(answers) as url, streamer.Client(url) as client:
        with pytest.raises(ServiceProblem):
            await client.write("a", b"x", seq=0)
    assert len(answers.left) == 1, "three more at most"


def test_the_pause_is_bounded_however_often_it_has_failed() -> None:
    """An outage of hours has thousands of failures, and so has a program that reads no input."""
    assert pause_s(0) <= FIRST_PAUSE_S
    for failures in (10, 1023, 1024, 10**6):
        assert MAX_PAUSE_S / 2 <= pause_s(failures) <= MAX_PAUSE_S


async def test_a_page_that_is_no_service_is_told(start: Start) -> None:
    server = await start()
    async with streamer.Client(address(server) + "static/playground/") as client:
        with pytest.raises(ServiceProblem):
            await client.queue()
    answers = Answers(web.Response(text="<html>", content_type="text/html"))
    async with answering(answers) as url, streamer.Client(url) as client:
        with pytest.raises(ServiceProblem, match="where it is mounted"):
            await client.queue()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(None, None), ("7", 7.0), ("-7", None), ("soon", None), ("²", None)],
)
def test_a_retry_after_is_seconds(text: str | None, seconds: float | None) -> None:
    assert retry_after_s(text) == seconds


def test_a_retry_after_may_be_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    found = retry_after_s(later)
    assert found is not None
    assert 50 < found <= 100
    assert retry_after_s("Mon, 02 Jan 2006 15:04:05 GMT") == 0.0
    assert retry_after_s("Mon, 02 Jan 99999999999 15:04:05 GMT") is None
