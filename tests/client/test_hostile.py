"""`streamer.Client` and `streamer run --url` with a server that is not a service, or hostile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import streamer
from streamer import ServiceProblem
from streamer.cli.run import _report, _show
from streamer.model.events import Complete
from streamer.sse import EventParser

KIB = 1024


@asynccontextmanager
async def answering(
    *pieces: bytes, status: int = 200, endless: bool = False
) -> AsyncIterator[streamer.Client]:
    """Answer everything with these pieces, and repeat the last one until nobody reads it."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(status=status)
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        while endless:
            await response.write(pieces[-1])
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with (
        TestServer(app) as server,
        streamer.Client(str(server.make_url("/")), retries=0) as client,
    ):
        yield client


def event(kind: str = "output", data: str = '{"stream":"stdout"', number: str = "1") -> bytes:
    return f"event: {kind}\ndata: {data}\nid: {number}\n\n".encode()


OUTPUT = '{"stream":"stdout","data":"x","t":1,"phase":"run"}'


@pytest.mark.parametrize(
    "answer",
    [
        event(),
        event(data="{}"),
        event(data=OUTPUT, number="abc"),
        event(data=OUTPUT, number="9" * 5000),
        event(data=OUTPUT, number=""),
        event("complete", "[]"),
    ],
    ids=["json", "fields", "id", "digits", "no id", "array"],
)
async def test_a_stream_that_is_no_services_is_told_so(answer: bytes) -> None:
    async with answering(answer) as client:
        with pytest.raises(ServiceProblem, match="not from the service"):
            _ = [event async for event in client.events("a")]


@pytest.mark.parametrize("body", [b"{}", b"[1]", b'{"jobId":1}', b"<html>"])
async def test_an_answer_without_a_job_is_told_so(body: bytes) -> None:
    async with answering(body, status=202) as client:
        with pytest.raises(ServiceProblem, match="not from the service"):
            await client.submit(language="python", code="")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"{}"])
async def test_a_refusal_of_another_server_is_told_as_such(body: bytes) -> None:
    async with answering(body, status=501) as client:
        with pytest.raises(ServiceProblem, match="status 501 without a reason"):
            await client.submit(language="python", code="")


async def test_an_end_that_was_never_told_is_told_so() -> None:
    async with answering(status=204) as client:
        with pytest.raises(ServiceProblem, match="not from the service"):
            _ = [event async for event in client.events("a")]


@pytest.mark.parametrize("piece", [b"x" * KIB, b"data: x\n" * KIB], ids=["line", "lines"])
async def test_an_event_without_an_end_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, piece: bytes
) -> None:
    monkeypatch.setattr("streamer.client.streams.MAX_EVENT_BYTES", 64 * KIB)
    async with answering(b"data: ", piece, endless=True) as client:
        with pytest.raises(ServiceProblem, match="not from the service"):
            _ = [event async for event in client.events("a")]


@pytest.mark.parametrize("status", [200, 400])
async def test_a_body_without_an_end_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr("streamer.client.problem.MAX_ANSWER_BYTES", 64 * KIB)
    monkeypatch.setattr("streamer.client.problem.MAX_PROBLEM_BYTES", 64 * KIB)
    async with answering(b" " * KIB, status=status, endless=True) as client:
        with pytest.raises(ServiceProblem):
            await client.job("a")


def test_a_parser_takes_as_much_as_it_is_told_and_begins_anew_with_each_event() -> None:
    parser = EventParser(most_bytes=100)
    for _ in range(10):
        assert parser.feed(b"data: " + b"x" * 80 + b"\n\n") == [("", "message", "x" * 80)]
    with pytest.raises(ValueError, match="100 bytes"):
        parser.feed(b"data: " + b"x" * 101)
    assert EventParser().feed(b"data: " + b"x" * 101) == []


@pytest.mark.parametrize(
    "answer",
    [
        event(data=OUTPUT),
        event(data=OUTPUT.replace("}", ',"jobId":"c"}'), number="1.0"),
        event(data=OUTPUT.replace("}", ',"jobId":"a"}'), number="1"),
        event(data=OUTPUT.replace("}", ',"jobId":"a"}'), number="x.0"),
    ],
    ids=["no job", "another job", "too few numbers", "no number"],
)
async def test_a_stream_of_other_jobs_is_told_so(answer: bytes) -> None:
    async with answering(answer) as client:
        with pytest.raises(ServiceProblem, match="not from the service"):
            _ = [one async for one in client.follow(["a", "b"])]


async def test_base64_that_is_none_is_told_so() -> None:
    data = OUTPUT.replace("}", ',"encoding":"base64"}')
    async with answering(event(data=data)) as client:
        with pytest.raises(ServiceProblem, match="not from the service"):
            await _show(client.events("a"), [], None, raw=False)
        with pytest.raises(ServiceProblem, match="not from the service"):
            _ = [data async for data in client.attach("a")]


def test_an_end_cannot_speak_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    end = Complete(
        reason="signaled",
        exit_code=None,
        signal="\x1b]52;c;aGk=\x07",
        duration_ms=0,
        cpu_time_ms=0,
        peak_memory_bytes=None,
        timed_out=False,
        oom_killed=False,
        output_bytes=0,
        output_truncated=False,
        sandbox="bwrap",
        phase="run",
    )
    _report(end)
    said = capsys.readouterr().err
    assert "52;c;aGk=" in said
    assert "\x1b" not in said
