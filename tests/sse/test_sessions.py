from __future__ import annotations

import asyncio
import math
import random
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import web

from streamer.sse import (
    Channel,
    Cursor,
    EventLog,
    EventStream,
    FilteredSource,
    Full,
    LogSource,
    MergedSource,
    SessionMap,
    StreamOptions,
    client_id,
    merged_positions,
    open_session,
)
from tests.sse.peer import QUICK, Dialer, Handler, quick_map, serving, serving_app, settle
from tests.support import in_cancelled_task


def following(sessions: SessionMap, events: EventLog, keys: str | Sequence[str] = "k") -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        with events.cursor() as cursor:
            return await sessions.follow(request, keys, LogSource(cursor))

    return handle


async def test_there_are_so_many_sessions_of_one_thing_and_no_more() -> None:
    sessions = SessionMap(QUICK, max_per_key=2)
    events = EventLog()
    async with serving(following(sessions, events)) as port, Dialer(port) as dial:
        first = await dial()
        await dial()
        refused = await dial()
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        sessions.of("k")[0].close()
        assert await first.rest() == []
        await settle(lambda: len(sessions) == 1)
        assert (await dial()).status == 200
        with pytest.raises(Full, match="k has 2 readers, which is the most"):
            await sessions.follow(fake(), "k", LogSource(Cursor(events, 0)))


def fake() -> web.BaseRequest:
    from aiohttp.test_utils import make_mocked_request

    return make_mocked_request("GET", "/")


async def test_there_are_so_many_sessions_in_all_and_no_more() -> None:
    sessions = SessionMap(QUICK, max_sessions=2)
    events = EventLog()
    async with serving(following(sessions, events, ["a", "b", "a"])) as port, Dialer(port) as dial:
        await dial()
        await dial()
        assert (await dial()).status == 503
        assert [len(sessions.of(key)) for key in ("a", "b", "c")] == [2, 2, 0]
        assert len(sessions) == 2


async def test_an_application_may_answer_otherwise_when_it_is_full() -> None:
    sessions = SessionMap(QUICK, max_sessions=0)
    plain = following(sessions, EventLog())

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await plain(request)
        except Full as full:
            return web.Response(status=429, text=str(full))

    async with serving(handle) as port, Dialer(port) as dial:
        peer = await dial(headers={"Connection": "close"})
        assert peer.status == 429
        assert await peer.reader.read() == b"0 streams are open, which is the most"


async def test_a_view_says_who_follows_since_when_and_how_far() -> None:
    sessions, events = quick_map(), EventLog()
    events.append([("e", b"1"), ("e", b"2")])
    async with serving(following(sessions, events)) as port, Dialer(port) as dial:
        peers = [await dial(), await dial()]
        for peer in peers:
            await peer.events(2)
        await settle(lambda: all(view.lag == 0 for view in sessions.views("k")))
        events.append([("e", b"3")])
        views = sessions.views("k")
        assert [(v.key, v.peer, v.position, v.lag) for v in views] == [("k", "127.0.0.1", 2, 1)] * 2
        assert views[0].number < views[1].number
        assert views[0].since <= views[1].since
        assert sessions.snapshot() == {"k": views}
    assert len(sessions) == 2, "a client that left is noticed with what is written next"
    sessions.close()
    await settle(lambda: sessions.snapshot() == {})


async def test_listeners_hear_until_they_are_taken_off() -> None:
    sessions, events = quick_map(), EventLog()
    heard: list[tuple[int, str]] = []
    unlisten = sessions.listen(lambda session, change: heard.append((session.number, change)))
    async with serving(following(sessions, events)) as port, Dialer(port) as dial:
        peer = await dial()
        [view] = sessions.views("k")
        sessions.close("other")
        sessions.close("k")
        assert await peer.rest() == []
        await settle(lambda: not len(sessions))
        unlisten()
        await dial()
    assert heard == [(view.number, "opened"), (view.number, "closed")]


async def test_heartbeats_come_only_when_a_stream_is_silent() -> None:
    sessions, events = quick_map(heartbeat_s=0.2), EventLog()
    async with serving(following(sessions, events)) as port, Dialer(port) as dial:
        peer = await dial()
        busy = 0
        async with asyncio.timeout(20):
            while peer.body.count(b":\n") < 3:
                if busy < 20:
                    # No heartbeat is sent while events are more frequent.
                    busy += 1
                    events.append([("e", b"x")])
                    await peer.events(1)
                    if busy == 20:
                        calm = peer.body.count(b":\n")
                else:
                    await peer.chunk()
        assert calm == 0
        assert peer.chunks[-1] == b":\n"


async def test_heartbeats_can_be_switched_off_and_options_are_checked() -> None:
    sessions, events = quick_map(heartbeat_s=math.inf), EventLog()
    async with serving(following(sessions, events)) as port, Dialer(port) as dial:
        peer = await dial()
        sessions._beat()
        sessions.of("k")[0].comment("only this")
        await peer.until(b"only this\n")
        assert peer.body == b": only this\n"
    wrong: list[dict[str, Any]] = [
        {"heartbeat_s": 0},
        {"heartbeat_s": math.nan},
        {"write_timeout_s": 0},
        {"grace_s": -1},
        {"retry_ms": 0},
        {"retry_jitter_ms": -1},
    ]
    for options in wrong:
        with pytest.raises(ValueError, match=r"above 0|at least 1 ms"):
            StreamOptions(**options)


async def test_a_map_may_be_used_on_one_loop_after_another() -> None:
    sessions = quick_map(heartbeat_s=60, grace_s=0.01)

    async def once() -> None:
        events = EventLog()
        async with serving(following(sessions, events)) as port, Dialer(port) as dial:
            peer = await dial()
            assert sessions._pulse is not None
            events.append([("e", b"x")], end=True)
            assert len(await peer.rest()) == 1
            await settle(lambda: not len(sessions))

    for _ in range(2):
        await asyncio.to_thread(asyncio.run, once())
    assert sessions._pulse is None


async def test_the_grace_period_ends_when_it_is_to_end() -> None:
    leaving = asyncio.Event()
    sessions = SessionMap(StreamOptions(grace_s=3600, retry_ms=None), leaving=leaving)
    events = EventLog()
    events.append([("e", b"x")], end=True)
    async with serving(following(sessions, events)) as port, Dialer(port) as dial:
        one, other = await dial(), await dial()
        for peer in (one, other):
            await peer.events(1)
        assert len(sessions) == 2
        sessions.of("k")[0].close()
        assert await one.rest() == []
        leaving.set()
        assert await other.rest() == []


async def test_an_http_1_0_client_sees_the_end() -> None:
    sessions, events = quick_map(), EventLog()
    events.append([("e", b"x")], end=True)
    async with serving(following(sessions, events)) as port, Dialer(port) as dial:
        peer = await dial(version="1.0", headers={"Connection": "keep-alive"})
        assert peer.headers["connection"] == "close"
        assert "transfer-encoding" not in peer.headers
        assert await peer.reader.read() == b"event: e\ndata: x\nid: 1\n\n"


async def test_head_is_answered_by_the_headers_and_the_connection_goes_on() -> None:
    sessions, events = quick_map(), EventLog()
    events.append([("e", b"x")])
    async with serving(following(sessions, events)) as port, Dialer(port) as dial:
        peer = await dial(method="HEAD")
        assert peer.headers["content-type"] == "text/event-stream"
        events.append((), end=True)
        peer.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await peer.head()
        assert await peer.rest() == [("1", "e", "x")]


async def test_a_post_may_ask_for_the_stream() -> None:
    sessions, events = quick_map(), EventLog()
    events.append([("e", b"x")], end=True)
    async with serving(following(sessions, events)) as port, Dialer(port) as dial:
        peer = await dial(method="POST", headers={"Content-Length": "0"})
        assert await peer.rest() == [("1", "e", "x")]


async def test_a_client_gone_before_the_start_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    sessions, events = quick_map(), EventLog()
    asked, over = asyncio.Event(), asyncio.Event()
    follow = following(sessions, events)

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.set()
        await settle(lambda: request.transport is None)
        response = await follow(request)
        over.set()
        return response

    async with serving(handle) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asked.wait()
        writer.transport.abort()
        await over.wait()
        await settle(lambda: not len(sessions))
    assert not caplog.records


async def test_a_source_that_fails_cuts_the_stream() -> None:
    sessions, events = quick_map(), EventLog()
    events.append([("e", b"x")])

    class Broken(LogSource):
        async def read(self) -> bytes:
            if self.cursors[0].position:
                raise LookupError("of the source")
            return await super().read()

    async def handle(request: web.Request) -> web.StreamResponse:
        with events.cursor() as cursor:
            try:
                return await sessions.follow(request, "k", Broken(cursor))
            except LookupError:
                return web.Response(text="an error page, which must not get into the stream")

    async with serving(handle) as port, Dialer(port) as dial:
        peer = await dial()
        with pytest.raises(asyncio.IncompleteReadError):
            await peer.rest()
        assert b"error page" not in peer.body


class Disk(LogSource):
    """The events of a log that have to be waited for."""

    def __init__(self, cursor: Cursor, answers: asyncio.Event, *, fails: bool) -> None:
        super().__init__(cursor)
        self._answers = answers
        self._fails = fails

    async def read(self) -> bytes:
        await self._answers.wait()
        if self._fails:
            raise LookupError("of the source")
        return await super().read()


@pytest.mark.parametrize("fails", [False, True])
async def test_the_headers_do_not_wait_for_the_first_read(*, fails: bool) -> None:
    """It may take long or fail, and then too the client is told what it is that ends."""
    sessions, events, answers = SessionMap(StreamOptions(grace_s=0)), EventLog(), asyncio.Event()
    events.append([("e", b"x")], end=True)

    async def handle(request: web.Request) -> web.StreamResponse:
        with events.cursor() as cursor:
            source = Disk(cursor, answers, fails=fails)
            return await sessions.follow(request, "k", source, headers={"X-Own": "y"})

    async with serving(handle) as port, Dialer(port) as dial:
        peer = await dial()
        assert (peer.status, peer.headers["x-own"]) == (200, "y")
        assert (await peer.chunk()).startswith(b"retry: ")
        answers.set()
        if fails:
            with pytest.raises(asyncio.IncompleteReadError):
                await peer.rest()
        else:
            assert await peer.rest() == [("1", "e", "x")]


async def test_headers_of_the_application_count_until_they_are_sent() -> None:
    sessions, events = quick_map(), EventLog()
    events.append([("e", b"x" * 100)])
    held: list[int] = []

    class Noted(EventStream):
        async def write(self, data: bytes | bytearray | memoryview) -> None:
            (session,) = sessions.of("k")
            held.append(session.held_bytes)
            assert sessions.outgoing.bytes == session.held_bytes
            await super().write(data)
            assert self.unsent_bytes == 0, "the client takes everything"
            held.append(session.held_bytes)

    async def handle(request: web.Request) -> web.StreamResponse:
        large = {f"X-{number}": "é" * 2000 for number in range(5)}
        with events.cursor() as cursor:
            response = Noted(request, sessions.options, large)
            response.hold_headers()
            await sessions.send(request, response, "k", LogSource(cursor))
        return response

    async with serving(handle) as port, Dialer(port) as dial:
        peer = await dial()
        await peer.events()
        events.append([("e", b"y" * 100_000)])  # too much to be written without the coroutine
        await peer.events()
    # What is written, and what the connection copies of it with all that is before it.
    headers = 5 * 4000
    assert headers + 2 * 100 < held[0] < headers + 2 * 100 + 1000
    assert held[1] == held[0], "until the end of the write"
    assert 200_000 < held[2] < 200_300


async def test_what_was_sent_is_let_go_of_before_what_is_next_is_read() -> None:
    """Reading may wait for the disk, and the bytes that were sent are no longer counted."""
    sessions, size = quick_map(), 8_000_000
    held: list[int] = []

    class Large:
        cursors: Sequence[Cursor] = ()
        ended = False

        async def read(self) -> bytes:
            held.append(tracemalloc.get_traced_memory()[0])
            self.ended = len(held) == 4
            return b"" if self.ended else b":" * size + b"\n\n"

        def sent(self) -> None:
            pass

    async def handle(request: web.Request) -> web.StreamResponse:
        return await sessions.follow(request, "k", Large())

    async with serving(handle) as port, Dialer(port) as dial:
        tracemalloc.start()
        try:
            peer = await dial()
            while len(held) < 4:
                assert await peer.reader.read(100_000)
        finally:
            tracemalloc.stop()
    assert len(held) == 4
    assert max(held) - held[0] < size


async def test_headers_stand_over_the_built_in_ones() -> None:
    options = StreamOptions(
        grace_s=0, retry_ms=None, headers={"Cache-Control": "private", "X-Accel-Buffering": "yes"}
    )
    prices = Channel("c", sessions=SessionMap(options))

    async def handle(request: web.Request) -> web.StreamResponse:
        return await prices.respond(request, headers={"X-Accel-Buffering": "no", "X-Mine": "1"})

    async with serving(handle) as port, Dialer(port) as dial:
        peer = await dial()
        assert peer.headers["cache-control"] == "private"
        assert peer.headers["x-accel-buffering"] == "no"
        assert peer.headers["x-mine"] == "1"


@pytest.mark.parametrize(
    ("target", "size"),
    [("/?padding", 2049), ("/?evs_preamble", 2056), ("/?padding&evs_preamble", 4105)],
)
async def test_polyfills_get_what_they_ask_for(target: str, size: int) -> None:
    sessions = SessionMap(StreamOptions(grace_s=0, retry_ms=77, retry_jitter_ms=0))
    events = EventLog()
    events.append([("e", b"x")], end=True)
    async with serving(following(sessions, events)) as port, Dialer(port) as dial:
        peer = await dial(target)
        assert await peer.rest() == [("1", "e", "x")]
        assert peer.body.startswith(b"retry: 77\n:")
        assert len(peer.body) == len(b"retry: 77\nevent: e\ndata: x\nid: 1\n\n") + size


async def test_shutdown_is_quick_with_open_streams_of_every_kind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    prices = Channel("c", backlog_bytes=100_000_000)
    inside = asyncio.Event()

    async def push(request: web.Request) -> web.StreamResponse:
        async with open_session(request, sessions=prices.sessions) as session:
            inside.set()
            await asyncio.Event().wait()
        return session.response

    async def shutdown(app: web.Application) -> None:
        await in_cancelled_task(lambda: prices.sessions.shutdown(app, timeout_s=0.1))
        assert len(prices.sessions) <= 1, "only the stalled one, and that is cut"

    app = web.Application()
    app.router.add_get("/", prices.respond)
    app.router.add_get("/push", push)
    app.on_shutdown.append(shutdown)
    async with Dialer(0) as dial, serving_app(app, shutdown_s=3600) as dial.port:
        quick, pushed, stalled = (
            await dial(),
            await dial("/push"),
            await dial(receive_bytes=4096),
        )
        await inside.wait()
        for _ in range(100):
            prices.broadcast("x" * 100_000)
        assert len(await quick.events(100)) == 100
        # Without the hook, leaving the block would take two hours.
        ending = [asyncio.create_task(peer.rest()) for peer in (quick, pushed)]
    assert await asyncio.gather(*ending) == [[], []]
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await stalled.rest()
    assert not caplog.records


async def test_shutdown_of_nothing_is_nothing() -> None:
    await SessionMap().shutdown()


def tagged(name: str, data: bytes) -> bytes:
    return name.encode() + b" " + data


async def merged(logs: dict[str, EventLog], asked: str) -> list[tuple[str, str, str]]:
    """Return what a client that sends this id gets."""
    sessions = quick_map()

    async def handle(request: web.Request) -> web.StreamResponse:
        positions = merged_positions(client_id(request, sessions.options), tuple(logs.values()))
        pairs = zip(logs.items(), positions, strict=True)
        sources = {name: LogSource(Cursor(log, after)) for (name, log), after in pairs}
        return await sessions.follow(request, tuple(logs), MergedSource(sources, tagged))

    async with serving(handle) as port, Dialer(port) as dial:
        return await (await dial(headers={"Last-Event-ID": asked})).rest()


async def test_a_merged_stream_resumes_after_every_event() -> None:
    logs = {name: EventLog() for name in "abc"}
    for count, log in enumerate(logs.values()):
        for n in range(4 * count):
            log.append([("e", b"%d" % n), ("e", b"two\ndata: lines")])
        log.append((), end=True)
    whole = await merged(logs, "")
    assert len(whole) == 24
    by_log = {name: [data for _, _, data in whole if data[0] == name] for name in logs}
    assert [len(events) for events in by_log.values()] == [0, 8, 16]
    assert by_log["b"][1] == "b two\nlines"
    for place, (number, _, _) in enumerate(whole):
        rest = await merged(logs, number)
        for name in logs:
            after = [data for _, _, data in whole[place + 1 :] if data[0] == name]
            assert [data for _, _, data in rest if data[0] == name] == after
    for strange in ("1", "1.2", "1.2.3.4", "x.y.z", "0.99.0"):
        assert len(await merged(logs, strange)) == 24


async def test_logs_in_one_stream_take_turns() -> None:
    logs = {name: EventLog() for name in "ab"}
    for log in logs.values():
        for _ in range(60):
            log.append([("e", b"x" * 10_000)])
        log.append((), end=True)
    order = "".join(data[0] for _, _, data in await merged(logs, ""))
    assert "b" in order[:10]
    longest = max(len(run) for letter in "ab" for run in order.split(letter))
    assert longest <= 8, "one block at a time"


async def test_a_tag_cannot_make_a_field_of_data() -> None:
    logs = {"a": EventLog()}
    logs["a"].append([("e", b"x\ndata: id: 99\ndata: \ndata: event: forged")], end=True)
    assert await merged(logs, "") == [("1", "e", "a x\nid: 99\n\nevent: forged")]


async def test_a_filter_lets_others_run_and_passes_gaps_on() -> None:
    events = EventLog()
    for _ in range(100):
        events.append([("e", b"x" * 10_000)])
    events.drop(1)
    with events.cursor() as cursor:
        source = FilteredSource(cursor, lambda number, kind, data: number == 100)
        ran = 0

        async def other() -> None:
            nonlocal ran
            while True:
                ran += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        assert (await source.read()).startswith(b"event: gap\n")
        source.sent()
        assert (await source.read()).endswith(b"\nid: 100\n\n")
        task.cancel()
        assert ran > 5


async def test_a_filter_lets_go_of_what_it_passes_over() -> None:
    """While it lets others run and reads on, nothing counts what it holds."""
    size = 5_000_000
    held: list[int] = []

    class Watched(EventLog):
        async def read(self, after: int) -> tuple[bytes, int]:
            held.append(tracemalloc.get_traced_memory()[0])
            # As from a disk: what is read is this reader's alone.
            return b"event: e\ndata: %b\nid: %d\n\n" % (b"x" * size, after + 1), after + 1

    events = Watched()
    tracemalloc.start()
    try:
        with events.cursor() as cursor:
            source = FilteredSource(cursor, lambda number, kind, data: number == 4)
            assert (await source.read()).endswith(b"\nid: 4\n\n")
    finally:
        tracemalloc.stop()
    assert len(held) == 4
    assert max(held) - held[0] < size


async def test_the_headers_come_with_the_first_bytes_and_do_not_wait_for_them() -> None:
    events = EventLog()
    events.append([("output", b"1")])
    quiet = EventLog()
    logs = {"/loud": events, "/quiet": quiet}
    sessions = SessionMap(StreamOptions(retry_ms=None))

    async def handle(request: web.Request) -> web.StreamResponse:
        return await following(sessions, logs[request.path])(request)

    written: list[bytes] = []

    @web.middleware
    async def listening(request: web.Request, handler: Handler) -> web.StreamResponse:
        assert request.transport is not None
        write = request.transport.write

        def listened(data: bytes) -> None:
            written.append(data)
            write(data)

        request.transport.write = listened  # type: ignore[method-assign, assignment]
        return await handler(request)

    app = web.Application(middlewares=[listening])
    app.router.add_get("/{name}", handle)
    async with serving_app(app) as port, Dialer(port) as dial:
        assert (await dial("/loud")).status == 200
        assert (written[0].startswith(b"HTTP/1.1 200"), b"data: 1\n" in written[0]) == (True, True)
        assert (await dial("/quiet")).status == 200
        assert written[1].endswith(b"\r\n\r\n")


@pytest.fixture
def awaited(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return what the coroutines of sessions write besides the headers."""
    written: list[bytes] = []
    write = EventStream.write

    async def noted(self: EventStream, data: bytes | bytearray | memoryview) -> None:
        if data:
            written.append(bytes(data))
        await write(self, data)

    monkeypatch.setattr(EventStream, "write", noted)
    return written


async def test_readers_that_wait_are_written_to_without_their_coroutines(
    awaited: list[bytes],
) -> None:
    sessions, events = quick_map(), EventLog()
    async with serving(following(sessions, events)) as port, Dialer(port) as dial:
        peers = [await dial() for _ in range(3)]
        await settle(lambda: len(sessions) == 3)
        await asyncio.sleep(0)
        for number in range(1, 20):
            events.append([("e", b"x" * number), ("f", b"y")])
            for peer in peers:
                assert await peer.events(2) == [
                    (str(2 * number - 1), "e", "x" * number),
                    (str(2 * number), "f", "y"),
                ]
        assert awaited == []
        assert [view.lag for view in sessions.views("k")] == [0, 0, 0]
        events.append([("e", b"the last")], end=True)
        for peer in peers:
            assert await peer.rest() == [("39", "e", "the last")]
        assert awaited == []


async def test_an_http_1_0_client_that_waits_gets_no_chunks() -> None:
    sessions, events = quick_map(), EventLog()
    async with serving(following(sessions, events)) as port, Dialer(port) as dial:
        peer = await dial(version="1.0")
        await settle(lambda: len(sessions) == 1)
        await asyncio.sleep(0)
        events.append([("e", b"x")])
        expected = b"event: e\ndata: x\nid: 1\n\n"
        assert await peer.reader.readexactly(len(expected)) == expected
        events.append([("e", b"y")], end=True)
        assert await peer.reader.read() == b"event: e\ndata: y\nid: 2\n\n"


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_comes_between_every_event_comes_once_and_whole(
    seed: int, awaited: list[bytes]
) -> None:
    """Events small and large, alone and many, comments, heartbeats, a client that pauses."""
    chance = random.Random(seed)
    sessions, events = quick_map(), EventLog()
    sent: list[tuple[str, bytes]] = []
    async with serving(following(sessions, events)) as port, Dialer(port) as dial:
        peer = await dial(receive_bytes=4096)
        await settle(lambda: len(sessions) == 1)
        (session,) = sessions.of("k")
        comments = 0
        for _ in range(400):
            turn = chance.randrange(10)
            if turn < 6:
                batch = [("e", b"%d" % n) for n in range(chance.choice((1, 1, 1, 5)))]
                sent += batch
                events.append(batch)
            elif turn == 6:
                large = ("large", b"x" * chance.choice((31_000, 97_000, 100_000)))
                sent.append(large)
                events.append([large])
            elif turn == 7:
                session.comment("between")
                comments += 1
            elif turn == 8:
                session.beat()
            if chance.random() < 0.7:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
        events.append([("end", b"")], end=True)
        found = await peer.rest()
    expected = [*sent, ("end", b"")]
    assert [(kind, data.encode()) for _, kind, data in found] == expected
    assert [int(number) for number, _, _ in found] == list(range(1, len(expected) + 1))
    assert peer.body.count(b": between\n") == comments
    # Both ways of writing were tried.
    assert awaited
    assert sum(map(len, awaited)) < len(peer.body)


async def test_a_source_that_changes_what_it_reads_is_not_passed_by(awaited: list[bytes]) -> None:
    sessions, events = quick_map(), EventLog()

    class Loud(LogSource):
        async def read(self) -> bytes:
            return (await super().read()).replace(b"whisper", b"SHOUT")

    async def handle(request: web.Request) -> web.StreamResponse:
        with events.cursor() as cursor:
            return await sessions.follow(request, "k", Loud(cursor))

    async with serving(handle) as port, Dialer(port) as dial:
        peer = await dial()
        for number in range(1, 4):
            events.append([("e", b"whisper")])
            assert await peer.events() == [(str(number), "e", "SHOUT")]
    assert len(awaited) == 3


async def test_a_source_around_another_is_not_passed_by(awaited: list[bytes]) -> None:
    sessions, events = quick_map(), EventLog()

    class Around:
        """Passes on what it does not know itself, as wrappers do."""

        def __init__(self, inner: LogSource) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        async def read(self) -> bytes:
            return (await self._inner.read()).replace(b"secret", b"------")

    async def handle(request: web.Request) -> web.StreamResponse:
        with events.cursor() as cursor:
            around: Any = Around(LogSource(cursor))
            return await sessions.follow(request, "k", around)

    async with serving(handle) as port, Dialer(port) as dial:
        peer = await dial()
        for number in range(1, 4):
            events.append([("e", b"secret")])
            assert await peer.events() == [(str(number), "e", "------")]
    assert len(awaited) == 3


async def test_a_reader_that_stalls_holds_what_its_socket_took_and_little_more(
    awaited: list[bytes],
) -> None:
    sessions, events = quick_map(write_timeout_s=600), EventLog()
    async with serving(following(sessions, events)) as port, Dialer(port) as dial:
        await dial(receive_bytes=4096)
        await settle(lambda: len(sessions) == 1)
        (session,) = sessions.of("k")

        async def append() -> None:
            events.append([("e", b"x" * 20_000)])
            for _ in range(3):
                await asyncio.sleep(0)

        while not session.response.unsent_bytes:
            await append()
        assert not awaited
        assert 0 < session.held_bytes <= 20_100
        assert session.held_bytes == session.counted == sessions.outgoing.bytes
        for _ in range(200):
            await append()
        assert session.lag > 100
        assert awaited
        assert session.response.unsent_bytes < 200_000
        # Also what the write in progress adds to the connection.
        assert session.held_bytes == session.counted == sessions.outgoing.bytes
