from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiohttp import web

from streamer.sse import Channel, SessionMap, StreamOptions, respond_merged
from tests.sse.peer import Dialer, Handler, Peer, quick_map, serving, settle


def channel(name: str = "c", **options: Any) -> Channel:
    return Channel(name, **{"first_id": 1, "sessions": quick_map(), **options})


def values(events: list[tuple[str, str, str]]) -> list[Any]:
    return [json.loads(data) for _, _, data in events]


async def readers(dial: Dialer, source: Channel, count: int, target: str = "/") -> list[Peer]:
    peers = [await dial(target) for _ in range(count)]
    await settle(lambda: len(source.sessions) == count)
    return peers


@pytest.mark.parametrize(
    "wrong",
    [
        {"first_id": 0},
        {"history_events": -1},
        {"history_bytes": -1},
        {"history_s": -0.1},
        {"backlog_bytes": -1},
    ],
)
def test_a_number_that_cannot_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        channel(**wrong)


async def test_every_session_gets_every_event_once() -> None:
    prices = channel()
    async with serving(prices.respond) as port, Dialer(port) as dial:
        peers = await readers(dial, prices, 5)
        assert [prices.broadcast({"n": n}, "price") for n in range(3)] == [1, 2, 3]
        expected = [(str(n + 1), "price", f'{{"n":{n}}}') for n in range(3)]
        for peer in peers:
            assert peer.status == 200
            assert await peer.events(3) == expected


async def test_respond_is_a_handler_with_the_headers_of_a_stream() -> None:
    prices = channel()
    async with serving(prices.respond) as port, Dialer(port) as dial:
        peer = await dial()
        assert peer.headers["content-type"] == "text/event-stream"
        assert peer.headers["cache-control"] == "no-cache, no-transform"
        assert peer.headers["x-accel-buffering"] == "no"


RETURNS = [
    pytest.param("/", {"Last-Event-ID": "2"}, id="header"),
    pytest.param("/?lastEventId=2", {}, id="lastEventId"),
    pytest.param("/?last_event_id=2", {}, id="last_event_id"),
    pytest.param("/?evs_last_event_id=2", {}, id="evs_last_event_id"),
    pytest.param("/?lastEventId=1", {"Last-Event-ID": "2"}, id="header-wins"),
]


@pytest.mark.parametrize(("target", "headers"), RETURNS)
async def test_a_client_resumes_exactly_after_what_it_has(
    target: str, headers: dict[str, str]
) -> None:
    prices = channel()
    for n in range(1, 5):
        prices.broadcast(n)
    async with serving(prices.respond) as port, Dialer(port) as dial:
        peer = await dial(target, headers=headers)
        assert values(await peer.events(2)) == [3, 4]
        prices.broadcast(5)
        assert values(await peer.events(1)) == [5]


async def test_an_untrusted_id_is_as_none() -> None:
    prices = channel(sessions=quick_map(trust_client_ids=False))
    prices.broadcast(1)
    async with serving(prices.respond) as port, Dialer(port) as dial:
        peer = await dial(headers={"Last-Event-ID": "0"})
        await settle(lambda: len(prices.sessions) == 1)
        prices.broadcast(2)
        assert values(await peer.events(1)) == [2]


def replaying(source: Channel) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await source.respond(request, replay=True)

    return handle


async def test_a_new_client_begins_with_what_is_next_or_with_the_history() -> None:
    prices = channel(history_events=2)
    for n in range(1, 5):
        prices.broadcast(n)
    async with serving(replaying(prices)) as port, Dialer(port) as dial:
        peer = await dial()
        assert values(await peer.events(2)) == [3, 4], "and no gap: it has lost nothing"


@pytest.mark.parametrize("asked", ["1", "0", "99", "x", "1_0", "٣", "9" * 5000])
async def test_what_is_gone_is_told_by_a_gap(asked: str) -> None:
    prices = channel(history_events=3)
    for n in range(1, 8):
        prices.broadcast(n)
    async with serving(prices.respond) as port, Dialer(port) as dial:
        peer = await dial(headers={"Last-Event-ID": asked})
        (number, kind, data), *rest = await peer.events(4)
        after = 1 if asked == "1" else 0
        assert (number, kind) == ("4", "gap")
        assert json.loads(data) == {"from": after + 1, "to": 4, "reason": "retention"}
        assert values(rest) == [5, 6, 7]


async def missed(prices: Channel, after: int) -> list[tuple[str, str, str]]:
    """Return what a client that reconnects gets, to the end of a closed channel."""
    prices.close()
    async with serving(prices.respond) as port, Dialer(port) as dial:
        return await (await dial(headers={"Last-Event-ID": str(after)})).rest()


@pytest.mark.parametrize("held", [0, 1, 7, 1000])
async def test_history_by_count_is_exact_whatever_the_blocks_of_the_log(held: int) -> None:
    prices = channel(history_events=held, history_bytes=10**9)
    for n in range(2000):
        prices.broadcast("x" * 200 + str(n))
    assert prices.history_size == held
    found = await missed(prices, 1)
    assert found[0][:2] == (str(2000 - held), "gap")
    assert [int(number) for number, _, _ in found[1:]] == list(range(2001 - held, 2001))


async def test_history_by_bytes() -> None:
    prices = channel(history_bytes=35, serializer=str)
    for _ in range(9):
        prices.broadcast("x" * 10)
    found = await missed(prices, 1)
    assert [number for number, _, _ in found] == ["6", "7", "8", "9"]
    assert found[0][1] == "gap"


async def test_history_by_age_also_when_nothing_is_pushed_any_more() -> None:
    now = 0.0
    prices = channel(history_s=10, clock=lambda: now)
    for n in range(5):
        now = float(n)
        prices.broadcast(n)
    assert prices.history_size == 5
    now = 12.5
    assert prices.history_size == 2
    found = await missed(prices, 1)
    assert [number for number, _, _ in found] == ["3", "4", "5"]
    assert found[0][1] == "gap"


async def test_a_client_from_before_a_restart_is_told_that_it_missed_something() -> None:
    """However fast events were sent, no id is used twice."""
    old = Channel("c", sessions=quick_map())
    for _ in range(5000):
        old.broadcast(0)
    new = Channel("c", sessions=quick_map())
    assert new.last_id + 1 > old.last_id
    new.broadcast(1)
    gap, event = await missed(new, old.last_id)
    assert gap[1] == "gap"
    assert values([event]) == [1]
    assert await missed(new, new.last_id - 1) == [event], "and so long an id is known again"
    assert new.last_id < 2**53, "a number in every language"


async def test_more_than_the_history_at_once_reaches_those_who_are_there() -> None:
    prices = channel(history_events=10, history_bytes=1000)
    async with serving(prices.respond) as port, Dialer(port) as dial:
        peers = await readers(dial, prices, 3)
        for n in range(2000):
            prices.broadcast(n)
        for peer in peers:
            assert values(await peer.events(2000)) == list(range(2000))
        for n in range(2000):
            prices.broadcast(n)
        for peer in peers:
            assert values(await peer.events(2000)) == list(range(2000))
    assert len(prices._log._tail) <= 2011
    prices.broadcast(0)
    assert len(prices._log._tail) <= 13, "what nobody needs any more is forgotten"


def by_role(source: Channel) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await source.respond(request, state={"role": request.query["role"]})

    return handle


async def test_recipients_are_chosen_by_state_also_when_they_come_back() -> None:
    prices = channel()
    async with serving(by_role(prices)) as port, Dialer(port) as dial:
        admin, guest = await dial("/?role=admin"), await dial("/?role=guest")
        await settle(lambda: len(prices.sessions) == 2)
        prices.broadcast("all")
        prices.broadcast("secret", to=lambda state: state["role"] == "admin")
        with prices.batch(to=lambda state: state["role"] == "guest") as batch:
            batch.push("a")
            batch.push("b")
        prices.broadcast("end")
        assert values(await admin.events(3)) == ["all", "secret", "end"]
        assert values(await guest.events(4)) == ["all", "a", "b", "end"]
        back = await dial("/?role=guest", headers={"Last-Event-ID": "1"})
        assert await back.events(3) == [
            ("3", "message", '"a"'), ("4", "message", '"b"'), ("5", "message", '"end"')
        ]  # fmt: skip


async def test_recipients_are_chosen_among_readers_that_wait() -> None:
    """They get what is for all without a wait, and what is for some through the choice."""
    prices = channel()

    async def handle(request: web.Request) -> web.StreamResponse:
        return await prices.respond(request, state={"name": request.query["name"]})

    async with serving(handle) as port, Dialer(port) as dial:
        peers = {name: await dial(f"/?name={name}") for name in "ab"}
        await settle(lambda: len(prices.sessions) == 2)
        for turn in range(5):
            prices.broadcast("for all")
            prices.broadcast("for a", to=lambda state: state["name"] == "a")
            prices.broadcast(turn)
            assert [data for _, _, data in await peers["a"].events(3)] == [
                '"for all"',
                '"for a"',
                str(turn),
            ]
            assert [data for _, _, data in await peers["b"].events(2)] == ['"for all"', str(turn)]
            prices.broadcast("again for all")
            for peer in peers.values():
                assert [data for _, _, data in await peer.events()] == ['"again for all"']


async def test_a_session_that_is_never_chosen_moves_on_and_gets_heartbeats() -> None:
    prices = channel(sessions=quick_map(heartbeat_s=0.05))
    async with serving(by_role(prices)) as port, Dialer(port) as dial:
        guest = await dial("/?role=guest")
        await settle(lambda: len(prices.sessions) == 1)
        for _ in range(10):
            prices.broadcast("secret", to=lambda state: False)
        await guest.until(b":\n:\n")
        [view] = prices.sessions.views("c")
        assert (view.position, view.lag) == (10, 0)
        assert set(guest.body) == set(b":\n"), "and nothing else"


async def test_wanted_filters_for_one_session() -> None:
    prices = channel()

    async def handle(request: web.Request) -> web.StreamResponse:
        return await prices.respond(
            request, wanted=lambda _, kind, data: kind == "a" and data > b"3"
        )

    async with serving(handle) as port, Dialer(port) as dial:
        peer = await dial()
        await settle(lambda: len(prices.sessions) == 1)
        for n in range(6):
            prices.broadcast(n, "ab"[n % 2])
        prices.broadcast(6, "a")
        assert await peer.events(2) == [("5", "a", "4"), ("7", "a", "6")]


@pytest.mark.parametrize("which", ["to", "wanted"])
async def test_a_filter_that_raises_withholds_the_event_from_its_session_alone(
    which: str, caplog: pytest.LogCaptureFixture
) -> None:
    prices = channel()

    def broken(*_: object) -> bool:
        raise LookupError("of the filter")

    async def handle(request: web.Request) -> web.StreamResponse:
        wanted = broken if which == "wanted" and "bad" in request.query else None
        return await prices.respond(request, wanted=wanted, state=dict(request.query))

    def admins(state: Any) -> bool:
        return bool(state["role"])  # KeyError for the bad one

    async with serving(handle) as port, Dialer(port) as dial:
        good, bad = await dial("/?role=x"), await dial("/?bad=1")
        await settle(lambda: len(prices.sessions) == 2)
        for n in range(3):
            prices.broadcast(n, to=admins if which == "to" else None)
        if which == "to":
            prices.broadcast("for all")
            assert values(await bad.events(1)) == ["for all"]
        assert values(await good.events(3)) == [0, 1, 2]
        assert len(prices.sessions) == 2
    assert len([record for record in caplog.records if record.exc_info]) == 1, "said once"


async def test_the_recipients_of_old_events_are_forgotten_with_them() -> None:
    prices = channel(history_events=10)
    for n in range(1000):
        prices.broadcast(n, to=lambda state: True)
    assert len(prices._recipients) <= 14
    assert next(iter(prices._recipients)) >= prices._log.first_id


async def test_a_batch_is_one_write_and_nothing_if_its_block_raises() -> None:
    prices = channel()
    async with serving(prices.respond) as port, Dialer(port) as dial:
        [peer] = await readers(dial, prices, 1)
        with pytest.raises(LookupError), prices.batch() as batch:
            batch.push("lost")
            raise LookupError
        with prices.batch():
            pass
        assert prices.last_id == 0
        sent = []
        for size in (1, 3, 350, 350):  # together more than a block of the log
            with prices.batch() as batch:
                for n in range(size):
                    batch.push("x" * 100 + str(n), "b")
            sent.append(prices.last_id)
            await peer.until(b"id: %d\n\n" % sent[-1])
        assert sent == [1, 4, 354, 704]
        assert len(peer.chunks) == 4, "each is one chunk"


async def test_batches_over_the_blocks_of_the_log_stay_whole() -> None:
    prices = channel(history_events=10**6, history_bytes=10**9)
    async with serving(prices.respond) as port, Dialer(port) as dial:
        [peer] = await readers(dial, prices, 1)
        for _ in range(40):
            with prices.batch() as batch:
                for _ in range(7):
                    batch.push("x" * 1000)
            await peer.until(b"id: %d\n\n" % prices.last_id)
        assert [chunk.count(b"\n\n") for chunk in peer.chunks] == [7] * 40


def test_an_event_that_cannot_be_sent_leaves_nothing_behind() -> None:
    prices = channel()
    for data, event in (
        ("x", "a\nb"),
        ("x", "gap"),
        ("x", "\udc80"),
        ({1}, "e"),
        (float("nan"), "e"),
    ):
        with pytest.raises((ValueError, TypeError)):
            prices.broadcast(data, event, to=lambda state: False)
    assert prices.last_id == 0
    assert prices._recipients == {}


async def test_sources_of_both_kinds_are_iterated() -> None:
    prices = channel()

    async def numbers() -> AsyncIterator[int]:
        for n in range(3):
            await asyncio.sleep(0)
            yield n

    def letters() -> Iterator[str]:
        yield from "ab"

    async with serving(prices.respond) as port, Dialer(port) as dial:
        [peer] = await readers(dial, prices, 1)
        await prices.iterate(numbers(), "n")
        await prices.iterate(letters())
        assert [event[1:] for event in await peer.events(5)] == [
            ("n", "0"), ("n", "1"), ("n", "2"), ("iteration", '"a"'), ("iteration", '"b"')
        ]  # fmt: skip


async def test_a_source_that_raises_is_heard() -> None:
    prices = channel()

    def broken() -> Iterator[int]:
        yield 1
        raise LookupError("of the source")

    with pytest.raises(LookupError, match="of the source"):
        await prices.iterate(broken())
    assert prices.last_id == 1


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
async def test_characters_that_chunks_share_stay_whole(size: int) -> None:
    prices = channel()
    text = "aä€😀\r\nz"
    data = text.encode() + b"\xe2\x82"  # and half of one more
    async with serving(prices.respond) as port, Dialer(port) as dial:
        [peer] = await readers(dial, prices, 1)
        await prices.stream([data[at : at + size] for at in range(0, len(data), size)])
        prices.close()
        assert "".join(values(await peer.rest())) == text + "\ufffd"


async def test_a_serialiser_may_give_several_lines() -> None:
    prices = channel(serializer=str)
    async with serving(prices.respond) as port, Dialer(port) as dial:
        [peer] = await readers(dial, prices, 1)
        prices.broadcast("a\nid: 99\n\nevent: forged\rdata: z\r\n")
        prices.broadcast("")
        assert await peer.events(2) == [
            ("1", "message", "a\nid: 99\n\nevent: forged\ndata: z\n"), ("2", "message", "")
        ]  # fmt: skip


async def test_data_is_serialised_once_for_everyone() -> None:
    calls: list[Any] = []

    def serialise(value: Any) -> str:
        calls.append(value)
        return str(value)

    prices = channel(serializer=serialise)
    async with serving(prices.respond) as port, Dialer(port) as dial:
        peers = await readers(dial, prices, 5)
        prices.broadcast(1)
        for peer in peers:
            await peer.events(1)
    assert calls == [1]


async def test_closing_ends_each_session_once_it_has_everything_and_then_is_204() -> None:
    options = StreamOptions(grace_s=0, retry_ms=None, headers={"Access-Control-Allow-Origin": "*"})
    prices = channel(sessions=SessionMap(options))
    async with serving(prices.respond) as port, Dialer(port) as dial:
        peers = await readers(dial, prices, 3)
        prices.broadcast(1)
        prices.close()
        prices.close()
        assert prices.closed
        for peer in peers:
            assert values(await peer.rest()) == [1]
        for headers in ({}, {"Last-Event-ID": "1"}):
            done = await dial(headers=headers)
            assert done.status == 204
            assert done.headers["access-control-allow-origin"] == "*"
        assert values(await (await dial(headers={"Last-Event-ID": "0"})).rest()) == [1]
    with pytest.raises(RuntimeError, match="ended"):
        prices.broadcast(2)
    with prices.batch():
        pass


async def test_a_stalled_session_harms_nobody_and_memory_stays_bounded() -> None:
    prices = channel(
        history_events=10, history_bytes=100_000, backlog_bytes=1_000_000,
        sessions=quick_map(write_timeout_s=60),
    )  # fmt: skip
    async with serving(prices.respond) as port, Dialer(port) as dial:
        stalled = await dial(receive_bytes=4096)
        quick = await dial()
        await settle(lambda: len(prices.sessions) == 2)
        most = 0
        for n in range(300):
            prices.broadcast(str(n) + "x" * 50_000)
            assert int((await quick.events(1))[0][0]) == n + 1
            quick.chunks.clear()
            most = max(most, prices._log.memory_bytes)
        assert most <= 1_100_000 + 60_000
        [behind, _] = prices.sessions.views("c")
        assert behind.lag > 100, "15 MB do not fit into the buffers of a connection"
        # It gets what is kept, and a gap for the rest.
        prices.close()
        found = await stalled.rest()
        expected = 1
        gaps = 0
        for number, kind, data in found:
            if kind == "gap":
                gap = json.loads(data)
                assert (gap["from"], gap["to"]) == (expected, int(number))
                gaps += 1
            else:
                assert int(number) == expected
            expected = int(number) + 1
        assert (expected, gaps) == (301, 1)


async def test_a_stalled_session_is_cut_in_time() -> None:
    prices = channel(sessions=quick_map(write_timeout_s=0.2), backlog_bytes=50_000_000)
    async with serving(prices.respond) as port, Dialer(port) as dial:
        await dial(receive_bytes=4096)
        await settle(lambda: len(prices.sessions) == 1)
        for _ in range(100):
            prices.broadcast("x" * 100_000)
        await settle(lambda: len(prices.sessions) == 0)


async def test_channels_share_a_map_that_is_still_empty() -> None:
    shared = quick_map()
    one, two = channel("one", sessions=shared), channel("two", sessions=shared)
    assert one.sessions is two.sessions is shared
    async with serving(one.respond) as port, Dialer(port) as dial:
        await dial()
        await settle(lambda: len(shared) == 1)
        assert [len(shared.of(name)) for name in ("one", "two")] == [1, 0]


def merging(*channels: Channel, **options: Any) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await respond_merged(request, channels, **options)

    return handle


async def test_several_channels_come_in_one_stream_that_resumes_all() -> None:
    a, b = channel("a"), channel("b", history_events=2)
    async with serving(merging(a, b)) as port, Dialer(port) as dial:
        peer = await dial()
        await settle(lambda: len(a.sessions) == 1)
        a.broadcast(1, "x")
        assert await peer.events(1) == [("1.0", "x", '{"channel":"a","data":1}')]
        b.broadcast(2, "y")
        assert await peer.events(1) == [("1.1", "y", '{"channel":"b","data":2}')]
        for n in range(3, 6):
            b.broadcast(n)
        a.broadcast(6, to=lambda state: False)
        back = await dial(headers={"Last-Event-ID": "1.1"})
        found = await back.events(3)
        assert [json.loads(data) for _, _, data in found] == [
            {"channel": "b", "data": {"from": 2, "to": 2, "reason": "retention"}},
            {"channel": "b", "data": 4},
            {"channel": "b", "data": 5},
        ]
        assert [kind for _, kind, _ in found] == ["gap", "message", "message"]
        other = await dial(headers={"Last-Event-ID": "1"})  # of a stream of one channel
        assert len(await other.events(4)) == 4
        a.close()
        b.close()
        assert await back.rest() == []
        assert (await dial(headers={"Last-Event-ID": "2.4"})).status == 204


async def test_channels_in_one_stream_have_names_of_their_own() -> None:
    async with serving(merging(channel("a"), channel("a"))) as port, Dialer(port) as dial:
        assert (await dial()).status == 500


async def test_a_listener_that_raises_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    prices = channel()
    heard: list[str] = []

    def broken(*_: object) -> None:
        raise LookupError

    prices.sessions.listen(broken)
    prices.sessions.listen(lambda session, change: heard.append(f"{session.keys} {change}"))
    with caplog.at_level(logging.CRITICAL):
        async with serving(prices.respond) as port, Dialer(port) as dial:
            [peer] = await readers(dial, prices, 1)
            prices.broadcast(1)
            prices.close()
            assert values(await peer.rest()) == [1]
    assert heard == ["('c',) opened", "('c',) closed"]
