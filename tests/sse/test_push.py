from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from streamer.sse import PushSession, StreamOptions, open_session
from tests.sse.peer import QUICK, Dialer, Handler, quick_map, serving, serving_app, settle

Body = Callable[[PushSession], Awaitable[None]]


def pushing(body: Body, **options: Any) -> Handler:
    """Return a handler that opens a session and runs a body in it."""
    given = options if "sessions" in options else {"options": QUICK, **options}

    async def handle(request: web.Request) -> web.StreamResponse:
        async with open_session(request, **given) as session:
            await body(session)
        return session.response

    return handle


async def test_what_is_pushed_arrives_and_the_end_of_the_block_ends_the_stream() -> None:
    async def body(session: PushSession) -> None:
        assert session.connected
        assert session.push({"a": 1}, "x") == 1
        with session.batch() as batch:
            batch.push(2)
            batch.push(3)
        await session.iterate([4])
        await session.stream([b"\xc3", b"\xa4"])
        assert session.last_id == 5

    async with serving(pushing(body)) as port, Dialer(port) as dial:
        assert await (await dial()).rest() == [
            ("1", "x", '{"a":1}'),
            ("2", "message", "2"),
            ("3", "message", "3"),
            ("4", "iteration", "4"),
            ("5", "stream", '"ä"'),
        ]


async def test_ids_go_on_from_the_one_that_the_client_has() -> None:
    async def body(session: PushSession) -> None:
        await session.drain()  # with nothing pushed yet
        session.push(session.last_event_id)

    async with serving(pushing(body)) as port, Dialer(port) as dial:
        for asked, first in (("41", "42"), ("abc", "1"), ("", "1")):
            peer = await dial(headers={"Last-Event-ID": asked})
            assert await peer.rest() == [(first, "message", json.dumps(asked))]
    untrusting = quick_map(trust_client_ids=False)
    async with serving(pushing(body, sessions=untrusting)) as port, Dialer(port) as dial:
        peer = await dial(headers={"Last-Event-ID": "41"})
        assert await peer.rest() == [("1", "message", '""')]


async def test_the_session_is_in_its_map_while_it_is_open() -> None:
    sessions = quick_map()
    go = asyncio.Event()

    async def body(session: PushSession) -> None:
        session.push(1)
        await go.wait()

    handler = pushing(body, sessions=sessions, key="k", state={"user": 7})
    async with serving(handler) as port, Dialer(port) as dial:
        peer = await dial()
        await peer.events(1)
        await settle(lambda: sessions.views("k")[0].lag == 0)
        [view] = sessions.views("k")
        assert (view.key, view.position, view.peer) == ("k", 1, "127.0.0.1")
        assert sessions.of("k")[0].state == {"user": 7}
        go.set()
        assert await peer.rest() == []
        await settle(lambda: not len(sessions))


async def test_a_client_that_does_not_read_slows_its_source_and_holds_little() -> None:
    sizes: list[int] = []

    async def body(session: PushSession) -> None:
        async def source() -> AsyncIterator[str]:
            for _ in range(200):
                sizes.append(session._log.memory_bytes)
                yield "x" * 100_000

        await session.iterate(source())

    async with serving(pushing(body)) as port, Dialer(port) as dial:
        peer = await dial(receive_bytes=4096)
        # Nothing is sent any more once all buffers are full.
        before = -1
        while before != len(sizes):
            before = len(sizes)
            for _ in range(2000):
                await asyncio.sleep(0)
        assert 0 < len(sizes) < 200
        assert len(await peer.rest()) == 200
    assert max(sizes) < 500_000


async def test_what_is_sent_is_forgotten_without_drain() -> None:
    async def body(session: PushSession) -> None:
        for n in range(200):
            sent = session.push("x" * 10_000)
            while session._session.position < sent:
                await asyncio.sleep(0)
            assert session._log.memory_bytes < 300_000, n

    async with serving(pushing(body)) as port, Dialer(port) as dial:
        assert len(await (await dial()).rest()) == 200


async def test_a_client_with_too_much_to_take_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    pushed = 0
    after = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal pushed
        async with open_session(request, options=QUICK) as session:
            while True:
                session.push("x" * 100_000)
                pushed += 1
        after.set()
        return session.response

    async with serving(handle) as port, Dialer(port) as dial:
        await dial(receive_bytes=4096)
        await after.wait()
        assert 80 < pushed < 90
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("body_waits", ["", "for a silent source"])
async def test_a_client_that_leaves_ends_the_block_and_what_follows_goes_on(
    body_waits: str, caplog: pytest.LogCaptureFixture
) -> None:
    sessions = quick_map(heartbeat_s=0.02)
    ended: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        async with open_session(request, sessions=sessions) as session:
            try:
                session.push(1)
                if body_waits:
                    await asyncio.Event().wait()
                while True:
                    session.push(2)
                    await session.drain()
            except BaseException as error:
                ended.append(type(error).__name__)
                assert not session.connected
                for refused in (lambda: session.push(3), session.comment):
                    with pytest.raises(ConnectionResetError):
                        refused()
                with pytest.raises(ConnectionResetError):
                    await session.drain()
                raise
        ended.append("after")
        return session.response

    async with serving(handle) as port, Dialer(port) as dial:
        peer = await dial()
        await peer.events(1)
        peer.leave()
        await settle(lambda: "after" in ended)
        await settle(lambda: not len(sessions))
    if body_waits:
        assert ended == ["CancelledError", "after"]
    else:
        assert ended in (["CancelledError", "after"], ["ConnectionResetError", "after"])
    assert not caplog.records, "a client that leaves is nothing to log"


@pytest.mark.parametrize(
    "error", [LookupError("x"), ConnectionResetError("of a database"), TimeoutError("of another")]
)
async def test_an_exception_cuts_the_stream_so_that_the_client_comes_back(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    @web.middleware
    async def polite(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except Exception as caught:  # noqa: BLE001 - as applications do
            caught_by_host.append(caught)
            return web.Response(text="an error page, which must not get into the stream")

    caught_by_host: list[Exception] = []
    go = asyncio.Event()

    async def body(session: PushSession) -> None:
        session.push(1)
        await go.wait()
        raise error

    app = web.Application(middlewares=[polite])
    app.router.add_get("/", pushing(body))
    async with serving_app(app) as port, Dialer(port) as dial:
        peer = await dial()
        await peer.events(1)
        go.set()
        with pytest.raises(asyncio.IncompleteReadError):
            await peer.rest()
        assert not peer.ended, "no last chunk"
        assert b"error page" not in peer.body
    assert caught_by_host == [error]


async def test_the_end_of_the_handler_by_cancellation_cuts_too() -> None:
    inside = asyncio.Event()
    left = asyncio.Event()
    sessions = quick_map()

    async def body(session: PushSession) -> None:
        inside.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    handler = pushing(body, sessions=sessions)
    async with serving(handler, cancelling=True) as port, Dialer(port) as dial:
        peer = await dial()
        await inside.wait()
        peer.leave()
        await left.wait()
        await settle(lambda: not len(sessions))


async def test_comments_and_retry_are_sent_when_they_are_said() -> None:
    go = asyncio.Event()

    async def body(session: PushSession) -> None:
        session.comment("one\ntwo")
        session.retry(50)
        await go.wait()
        with pytest.raises(ValueError, match="at least 1 ms"):
            session.retry(0)

    async with serving(pushing(body)) as port, Dialer(port) as dial:
        peer = await dial()
        await peer.until(b"retry: 50\n")
        assert peer.body == b": one\n: two\nretry: 50\n"
        go.set()
        assert await peer.rest() == []


async def test_close_ends_the_stream_and_not_the_block() -> None:
    done = asyncio.Event()

    async def body(session: PushSession) -> None:
        session.push(1)
        session.close()
        session.close()
        for refused in (lambda: session.push(2), session.comment, lambda: session.retry(1)):
            with pytest.raises(RuntimeError, match="closed"):
                refused()
        await settle(lambda: not session.connected)
        await asyncio.sleep(0)
        await session.drain()
        done.set()

    async with serving(pushing(body)) as port, Dialer(port) as dial:
        assert len(await (await dial()).rest()) == 1
        assert done.is_set()


async def test_a_session_too_many_is_refused_before_anything_is_sent() -> None:
    sessions = quick_map()
    sessions._max_sessions = 1
    go = asyncio.Event()

    async def body(session: PushSession) -> None:
        await go.wait()

    async with serving(pushing(body, sessions=sessions)) as port, Dialer(port) as dial:
        first = await dial()
        second = await dial()
        assert (second.status, second.headers["retry-after"]) == (503, "5")
        go.set()
        assert await first.rest() == []


async def test_heartbeats_come_while_the_application_is_silent() -> None:
    go = asyncio.Event()

    async def body(session: PushSession) -> None:
        await go.wait()

    handler = pushing(body, options=StreamOptions(heartbeat_s=0.02, retry_ms=None, grace_s=0))
    async with serving(handler) as port, Dialer(port) as dial:
        peer = await dial()
        await peer.until(b":\n:\n:\n")
        go.set()
        assert await peer.rest() == []


async def test_head_gets_the_headers_and_ends_the_block() -> None:
    async def body(session: PushSession) -> None:
        await asyncio.Event().wait()

    async with serving(pushing(body)) as port, Dialer(port) as dial:
        peer = await dial(method="HEAD", headers={"Connection": "close"})
        assert peer.headers["content-type"] == "text/event-stream"
        assert await peer.reader.read() == b""


async def test_a_client_gone_before_the_start_ends_the_block(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked, gone, left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.set()
        await settle(lambda: request.transport is None)
        gone.set()
        async with open_session(request) as session:
            await asyncio.Event().wait()
        left.set()
        return session.response

    async with serving(handle) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asked.wait()
        writer.transport.abort()
        await left.wait()
        assert reader.at_eof() or gone.is_set()
    assert not caplog.records


async def test_a_map_has_options_of_its_own() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        with pytest.raises(TypeError, match="its own options"):
            async with open_session(request, sessions=quick_map(), options=QUICK):
                pass
        return web.Response(text="refused")

    async with serving(handle) as port, Dialer(port) as dial:
        assert (await dial()).status == 200
