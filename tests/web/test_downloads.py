"""Downloads are streams: they have the same bounds, and are cut off for the same reasons."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator

import pytest
from aiohttp import web

from streamer.sse.session import Session
from streamer.web.app import SESSIONS
from tests.conftest import Start
from tests.support import AnyClient, follow, received, submit, text, verdict
from tests.web import problem, python, until_output
from tests.web.test_shares import ALICE, BOB, TOKENS, job_of

ECHO = "import sys\nprint('up', flush=True)\nfor line in sys.stdin: print(line, end='', flush=True)"
FLOOD = "print('x' * 12_000_000)\ninput()"
DOWNLOADS = ("output/stdout", "output/stderr", "cast")

pytestmark = pytest.mark.slow


async def sessions_of(client: AnyClient, count: int) -> None:
    async with asyncio.timeout(20):
        while len(client.app[SESSIONS]) != count:
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def stalled(client: AnyClient, target: str) -> Iterator[socket.socket]:
    """Send a request and read nothing of the answer."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((client.host, client.port))
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        yield sock


@pytest.mark.parametrize("download", DOWNLOADS)
async def test_a_download_is_a_reader_of_its_job(start: Start, download: str) -> None:
    client = await start(streams={"max_readers": 3, "max_readers_per_job": 2})
    job_id = await submit(client, **python(ECHO, interactive=True))
    other = await submit(client, **python(ECHO, interactive=True))
    target = f"/api/jobs/{job_id}/{download}"
    async with client.get(target), client.get(target) as second:
        for refused in (target, f"/api/stream/{job_id}"):
            async with client.get(refused) as response:
                await problem(response, 429, "rate_limited")
                assert int(response.headers["Retry-After"]) >= 1
        async with client.get(f"/api/jobs/{job_id}/sessions") as response:
            assert len((await response.json())["sessions"]) == 2
        async with client.get(f"/api/stream/{other}"):
            async with client.get(f"/api/jobs/{other}/{download}") as response:
                await problem(response, 429, "rate_limited")
            await sessions_of(client, 3)
        second.close()
        async with client.post(f"/api/jobs/{job_id}/stdin?close=1", data=b"in\n"):
            pass
    await sessions_of(client, 0)


async def test_a_download_keeps_a_job_that_is_cancelled_without_readers(start: Start) -> None:
    client = await start(
        streams={"on_disconnect": "cancel", "disconnect_delay_s": 0.05, "heartbeat_s": 0.05}
    )
    job_id = await submit(client, **python(ECHO, interactive=True))
    async with client.get(f"/api/jobs/{job_id}/output/stdout") as download:
        assert await download.content.readline() == b"up\n"
        async with client.get(f"/api/stream/{job_id}") as response:
            await until_output(received(response), "up\n")
            response.close()
        await sessions_of(client, 1)
        await asyncio.sleep(0.3)  # longer than disconnect_delay_s
        async with client.post(f"/api/jobs/{job_id}/stdin?close=1", data=b"on\n") as response:
            assert response.status == 202
        assert await download.content.read() == b"on\n"
    assert verdict(await follow(client, job_id))["reason"] == "exited"


async def test_whoever_leaves_a_download_leaves_the_job_unread(start: Start) -> None:
    client = await start(
        streams={"on_disconnect": "cancel", "disconnect_delay_s": 0.05, "heartbeat_s": 0.05}
    )
    job_id = await submit(client, **python(ECHO, interactive=True))
    async with client.get(f"/api/jobs/{job_id}/output/stdout") as download:
        assert await download.content.readline() == b"up\n"
        download.close()
    async with client.post(f"/api/jobs/{job_id}/stdin", data=b"so that it is noticed\n"):
        pass
    # A client that requests its document is no reader, unlike one of its stream.
    result = None
    async with asyncio.timeout(20):
        while result is None:
            async with client.get(f"/api/jobs/{job_id}") as response:
                result = (await response.json()).get("result")
            await asyncio.sleep(0.02)
    assert result["reason"] == "cancelled"


async def test_whoever_comes_in_time_keeps_the_job(start: Start) -> None:
    client = await start(
        streams={"on_disconnect": "cancel", "disconnect_delay_s": 0.5, "heartbeat_s": 0.05}
    )
    job_id = await submit(client, **python(ECHO, interactive=True))
    async with client.get(f"/api/stream/{job_id}") as response:
        await until_output(received(response), "up\n")
        response.close()
    await sessions_of(client, 0)
    async with client.get(f"/api/stream/{job_id}") as response:
        await asyncio.sleep(1)
        async with client.post(f"/api/jobs/{job_id}/stdin?close=1", data=b"on\n"):
            pass
        events = [event async for event in received(response)]
    assert verdict(events)["reason"] == "exited"


async def test_a_silent_download_has_nothing_but_output_in_it(start: Start) -> None:
    client = await start(streams={"heartbeat_s": 0.02})
    code = "import time\nprint('a', flush=True)\ntime.sleep(0.5)\nprint('b')"
    job_id = await submit(client, **python(code))
    async with client.get(f"/api/jobs/{job_id}/output/stdout") as response:
        assert await response.read() == b"a\nb\n"
    async with client.get(f"/api/jobs/{job_id}/cast") as response:
        lines = (await response.text()).splitlines()
    assert "".join(json.loads(line)[2] for line in lines[1:]) == "a\r\nb\r\n"


@pytest.mark.parametrize("target", ["output/stdout", "cast"])
async def test_a_stalled_download_is_cut_in_time(start: Start, target: str) -> None:
    client = await start(streams={"write_timeout_s": 0.5, "heartbeat_s": 0.05})
    job_id = await submit(client, **python(FLOOD, interactive=True))
    async with client.get(f"/api/stream/{job_id}") as response:
        await until_output(received(response), "\n")
    await sessions_of(client, 0)  # of that stream, not the one that is awaited below
    with stalled(client, f"/api/jobs/{job_id}/{target}") as sock:
        await sessions_of(client, 1)
        await sessions_of(client, 0)
        sock.settimeout(20)
        taken = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while part := sock.recv(1 << 20):
                taken += part
        assert len(taken) < 12_000_000
        assert not taken.endswith(b"0\r\n\r\n")


def open_yet(session: Session) -> bool:
    """Whether it was not cut off; if it was, its coroutine lets go of what it writes very soon."""
    request: web.Request | None = session.response._req  # type: ignore[attr-defined]
    transport = None if request is None else request.transport
    return transport is not None and not transport.is_closing()


@pytest.mark.memory_engine("counts what clients have not taken, whatever it was read from")
async def test_stalled_readers_do_not_hold_more_than_they_all_may(start: Start) -> None:
    """Each may take minutes, but all of them together have a bound on their memory."""
    bound = 2_000_000
    client = await start(streams={"write_timeout_s": 600, "max_buffered_bytes": bound})
    sessions = client.app[SESSIONS]
    job_id = await submit(client, **python(FLOOD, interactive=True))
    targets = [f"/api/stream/{job_id}", f"/api/jobs/{job_id}/output/stdout"]
    targets += [f"/api/jobs/{job_id}/cast", f"/api/stream/{job_id}?speed=0.001"]
    cut = 0
    sessions.listen(lambda _, change: None if change == "opened" else count_cut())

    def count_cut() -> None:
        nonlocal cut
        cut += 1

    with contextlib.ExitStack() as stack:
        for number in range(40):
            stack.enter_context(stalled(client, targets[number % 4]))
        async with client.get(f"/api/stream/{job_id}") as response:
            # A client that reads is not cut off.
            events = received(response)
            await until_output(events, "\n")
            async with asyncio.timeout(60):
                while cut < 20:
                    held = sum(session.held_bytes for session in sessions._all if open_yet(session))
                    assert held <= bound
                    await asyncio.sleep(0.01)
            async with client.post(f"/api/jobs/{job_id}/stdin?close=1", data=b"\n"):
                pass
            rest = [event async for event in events]
        assert rest[-1].kind == "complete"
        assert sessions.outgoing.bytes <= bound
    sessions.close()
    await sessions_of(client, 0)
    assert sessions.outgoing.bytes == 0


async def test_what_a_slow_replay_holds_back_is_counted(start: Start) -> None:
    client = await start()
    outgoing = client.app[SESSIONS].outgoing
    job_id = await submit(client, **python("print('x' * 40_000)"))
    await follow(client, job_id)
    async with client.get(f"/api/stream/{job_id}?speed=0.001") as response:
        # A client that has the first event has read everything so far.
        assert (await anext(received(response))).kind == "status"
        assert outgoing.bytes > 40_000
        client.app[SESSIONS].close()
        await sessions_of(client, 0)
    assert outgoing.bytes == 0


async def test_documents_that_nobody_takes_are_bounded_too(start: Start) -> None:
    bound = 5_000_000
    client = await start(streams={"write_timeout_s": 600, "max_buffered_bytes": bound})
    outgoing = client.app[SESSIONS].outgoing
    job_id = await submit(client, command=["head", "-c", "1000000", "/dev/zero"])
    await follow(client, job_id)
    url = f"/api/jobs/{job_id}"
    async with client.get(url) as response:
        whole = await response.read()
    assert len(whole) > 5_000_000, "six characters for each NUL"
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(stalled(client, url))
        async with asyncio.timeout(60):
            while outgoing.cut < 10:
                await asyncio.sleep(0.01)
        assert len(outgoing) <= 1, "one alone may be as large as it is"
        async with client.get(url) as response:
            assert await response.read() == whole, "who takes it is given it"
            assert int(response.headers["Content-Length"]) == len(whole)
    async with asyncio.timeout(20):
        while outgoing.bytes:
            async with client.get("/healthz"):
                await asyncio.sleep(0.01)


async def test_a_tenant_leaves_streams_to_others(start: Start) -> None:
    """By default half of them; otherwise one client could take all 20,000."""
    client = await start(auth=TOKENS, streams={"max_readers": 4})
    mine = await job_of(client, ALICE, **python(ECHO, interactive=True))
    theirs = await job_of(client, BOB, **python("print('mine')"))
    target = f"/api/stream/{mine}"
    async with (
        client.get(target, headers=ALICE) as first,
        client.get(f"/api/jobs/{mine}/output/stdout", headers=ALICE),
    ):
        for refused in (target, f"/api/stream?job={mine}", f"/api/jobs/{mine}/cast"):
            async with client.get(refused, headers=ALICE) as response:
                document = await problem(response, 429, "rate_limited")
            assert "2 streams" in document["detail"]
        async with client.get(f"/api/stream/{theirs}", headers=BOB) as response:
            assert text([event async for event in received(response)]) == "mine\n"
        first.close()
        await sessions_of(client, 1)
        async with client.get(target, headers=ALICE) as response:
            assert response.status == 200
