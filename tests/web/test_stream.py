"""GET /api/stream/{jobId}: the bytes, where a reader starts, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket

import pytest
from aiohttp import ClientSession

from streamer.web.app import SESSIONS
from tests.conftest import Start
from tests.support import AnyClient, follow, received, run, submit, text, verdict
from tests.web import SLEEPER, problem, python, until_output, until_state
from tests.web.raw import ask, chunks, connection

ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
"""A program that continues when a test writes to it."""

BLOCK = re.compile(
    rb"(retry: \d+\n)?(:\n)*event: ([a-z]+)\ndata: (\{[^\r\n]*\})\nid: ([1-9][0-9]*)\n\n"
)


async def write(client: AnyClient, job_id: str, data: str = "", *, close: bool = False) -> None:
    query = "?close=1" if close else ""
    async with client.post(f"/api/jobs/{job_id}/stdin{query}", data=data.encode()) as response:
        assert response.status == 202, await response.text()


async def body_of(client: AnyClient, target: str, **headers: str) -> bytes:
    async with client.get(target, headers=headers) as response:
        assert response.status == 200
        return await response.read()


async def sessions_of(client: AnyClient, count: int) -> None:
    """Wait until the service has this many readers: it notices a lost one a little later."""
    async with asyncio.timeout(20):
        while True:
            async with client.get("/healthz") as response:
                if (await response.json())["streams"] == count:
                    return


async def test_the_bytes_are_frames_and_nothing_else(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python("for i in range(100): print(i, flush=True)"))
    body = await body_of(client, f"/api/stream/{job_id}")
    blocks = list(BLOCK.finditer(body))
    assert b"".join(block.group(0) for block in blocks) == body
    # Events are numbered densely from 1, so a reader can tell that it has all of them.
    assert [int(block.group(5)) for block in blocks] == list(range(1, len(blocks) + 1))
    # retry comes once, first, and never alone in a block.
    assert [bool(block.group(1)) for block in blocks] == [True] + [False] * (len(blocks) - 1)
    retry = int((blocks[0].group(1) or b"").split()[1])
    assert 1000 <= retry <= 3000
    assert [block.group(3) for block in blocks][-1] == b"complete"
    states = [json.loads(b.group(4))["state"] for b in blocks if b.group(3) == b"status"]
    assert states == ["queued", "preparing", "running"]


async def test_headers_keep_proxies_from_storing_and_buffering(start: Start) -> None:
    client = await start()
    job_id = await submit(client, command=["true"])
    async with client.get(f"/api/stream/{job_id}") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-cache, no-transform"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert response.headers["X-Job-Id"] == job_id
        assert "Content-Encoding" not in response.headers


async def test_the_heartbeat_is_a_bare_comment_and_only_when_idle(start: Start) -> None:
    client = await start(streams={"heartbeat_s": 0.05})
    job_id = await submit(client, **python(ECHO, interactive=True))
    async with connection(client) as streams:
        assert (await ask(streams, f"/api/stream/{job_id}")).status == 200
        body, beats = b"", 0
        async for chunk in chunks(streams[0]):
            body += chunk
            beats += chunk == b":\n"
            if beats == 3:
                await write(client, job_id, close=True)
                beats += 1
    # Without them the frames are the same: none is inside a frame, and
    # none brings a blank line that a client would take for an empty message.
    assert re.sub(rb"^:\n", b"", body, flags=re.MULTILINE) == b"".join(
        re.sub(rb"^:\n", b"", block.group(0), flags=re.MULTILINE) for block in BLOCK.finditer(body)
    )
    assert b":\n\n" not in body


async def test_a_late_reader_gets_everything(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python("print('early')"))
    await until_state(client, job_id, "complete")
    events = await follow(client, job_id)
    assert text(events) == "early\n"
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert await follow(client, job_id) == events


@pytest.mark.parametrize("how", ["header", "query", "header beside an older query"])
async def test_resumes_exactly_after_an_event(start: Start, how: str) -> None:
    client = await start()
    job_id = await submit(client, **python("for i in range(5): print(i, flush=True)"))
    events = await follow(client, job_id)
    for after in range(len(events)):
        target, headers = f"/api/stream/{job_id}", {}
        if how == "query":
            target += f"?lastEventId={after}"
        elif how == "header":
            headers = {"Last-Event-ID": str(after)}
        else:
            headers = {"Last-Event-ID": str(after)}
            target += f"?lastEventId={max(after - 1, 0)}"
        async with client.get(target, headers=headers) as response:
            assert [event async for event in received(response)] == events[after:]


async def test_after_the_terminal_event_there_is_nothing(start: Start) -> None:
    client = await start()
    job_id = await submit(client, command=["true"])
    last = (await follow(client, job_id))[-1].id
    for target, headers in (
        (f"/api/stream/{job_id}", {"Last-Event-ID": str(last)}),
        (f"/api/stream/{job_id}?lastEventId={last}", {}),
        (f"/api/stream/{job_id}?lastEventId=1", {"Last-Event-ID": str(last)}),
    ):
        async with client.get(target, headers=headers) as response:
            assert response.status == 204
            assert await response.read() == b""


NO_IDS = [
    "",
    "x",
    "-1",
    "+1",
    "1.0",
    "1_0",
    " ",
    "0x1",
    "99",
    "9" * 5000,
    "٣",
    "१",
    "1,2",
    "None",
    "1 2",
]


async def test_an_id_that_is_none_asks_for_everything(start: Start) -> None:
    client = await start()
    job_id = await submit(client, command=["true"])
    events = await follow(client, job_id)
    for value in NO_IDS:
        async with client.get(f"/api/stream/{job_id}", params={"lastEventId": value}) as response:
            assert response.status == 200, value
            assert [event async for event in received(response)] == events, value
        async with connection(client) as streams:
            # By hand: a client library would not send all of these headers.
            head = {"Last-Event-ID": value, "Connection": "close"}
            answer = await ask(streams, f"/api/stream/{job_id}", headers=head)
            assert answer.status == 200, value
            body = b"".join([chunk async for chunk in chunks(streams[0])])
            assert len(BLOCK.findall(body)) == len(events), value


async def test_an_expired_job_is_404(start: Start) -> None:
    client = await start(streams={"retention_s": 0.1})
    job_id = await submit(client, command=["true"])
    await follow(client, job_id)
    async with asyncio.timeout(20):
        status = 0
        while status != 404:
            async with client.get(f"/api/stream/{job_id}") as response:
                status = response.status
                if status == 404:
                    await problem(response, 404, "not_found")
    async with client.get(f"/api/jobs/{job_id}") as response:
        await problem(response, 404, "not_found")


@pytest.mark.parametrize("keep", [{}, {"Connection": "keep-alive"}])
async def test_an_http_1_0_client_sees_the_end(start: Start, keep: dict[str, str]) -> None:
    # An HTTP/1.0 client may be a proxy, through which nobody is known to be local.
    client = await start(auth={"anonymous": True})
    job_id = await submit(client, **python("print('old')"))
    async with connection(client) as streams:
        answer = await ask(streams, f"/api/stream/{job_id}", version="1.0", headers=keep)
        body = await streams[0].read()  # to the end of the connection, the only mark of the end
    assert "transfer-encoding" not in answer.headers
    assert answer.headers.get("connection", "close") == "close"
    assert b"".join(block.group(0) for block in BLOCK.finditer(body)) == body
    outputs = re.findall(rb'^data: (.*"stream":"stdout".*)$', body, re.MULTILINE)
    # On a busy machine the line may come in two events.
    assert "".join(json.loads(data)["data"] for data in outputs) == "old\n"


async def test_two_readers_of_one_job_and_one_leaves(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python(ECHO, interactive=True))
    async with client.get(f"/api/stream/{job_id}") as stays:
        events = received(stays)
        async with client.get(f"/api/stream/{job_id}") as leaves:
            await write(client, job_id, "one\n")
            await until_output(received(leaves), "one")
            leaves.close()
        await sessions_of(client, 1)
        await write(client, job_id, "two\n", close=True)
        rest = [event async for event in events]
    assert text(rest) == "one\ntwo\n"
    assert verdict(rest)["exitCode"] == 0
    assert await follow(client, job_id) == rest


async def test_a_job_has_a_bounded_number_of_readers(start: Start) -> None:
    client = await start(streams={"max_readers_per_job": 2})
    job_id = await submit(client, **SLEEPER)
    other = await submit(client, **SLEEPER)
    target = f"/api/stream/{job_id}"
    async with client.get(target) as first, client.get(target):
        async with client.get(target) as third:
            await problem(third, 429, "rate_limited")
            assert int(third.headers["Retry-After"]) >= 1
        async with client.get(f"/api/stream/{other}") as response:
            assert response.status == 200
        first.close()
        await sessions_of(client, 1)
        async with client.get(target) as response:
            assert response.status == 200


async def test_the_session_map_shows_who_reads_what(start: Start) -> None:
    client = await start()
    sessions = client.app[SESSIONS]
    jobs = [await submit(client, **python(ECHO, interactive=True)) for _ in range(2)]
    async with (
        client.get(f"/api/stream/{jobs[0]}") as first,
        client.get(f"/api/stream/{jobs[0]}") as second,
        client.get(f"/api/stream/{jobs[1]}") as third,
    ):
        for job_id, response in zip(
            (jobs[0], jobs[0], jobs[1]), (first, second, third), strict=True
        ):
            await write(client, job_id, "x\n")
            await until_output(received(response), "x")
        await sessions_of(client, 3)
        view = sessions.snapshot()
        assert {job_id: len(readers) for job_id, readers in view.items()} == {
            jobs[0]: 2,
            jobs[1]: 1,
        }
        document = await until_state(client, jobs[1], "running")
        (reader,) = view[jobs[1]]
        assert reader.key == jobs[1]
        assert reader.peer == "127.0.0.1"
        assert reader.position >= 4  # queued, preparing, running, the line
        assert document["startedAt"]
        assert abs(reader.since - view[jobs[0]][0].since) < 60
    await sessions_of(client, 0)
    assert sessions.snapshot() == {}
    assert len(sessions) == 0
    for job_id in jobs:
        await write(client, job_id, close=True)
        await follow(client, job_id)
    await sessions_of(client, 0)


async def test_a_client_that_leaves_before_the_answer_leaves_nothing(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **SLEEPER)
    opened: list[int] = []
    sessions = client.app[SESSIONS]
    unlisten = sessions.listen(
        lambda session, change: opened.append(session.number) if change == "opened" else None
    )
    for number in range(1, 21):
        async with connection(client) as (_, writer):
            writer.write(f"GET /api/stream/{job_id} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            await writer.drain()
            # Nothing of the answer is read; without this the service might never see the request.
            async with asyncio.timeout(20):
                while len(opened) < number:
                    await asyncio.sleep(0)
    unlisten()
    await sessions_of(client, 0)


async def test_a_reader_that_never_reads_disturbs_nobody(start: Start) -> None:
    size = 8_000_000
    client = await start(streams={"write_timeout_s": 0.5})
    code = f"import sys\nsys.stdin.read()\nsys.stdout.write('x' * {size})"
    job_id = await submit(client, **python(code, interactive=True))
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with stalled:
        stalled.connect((client.host, client.port))
        stalled.sendall(f"GET /api/stream/{job_id} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        await sessions_of(client, 1)
        await write(client, job_id, close=True)
        events = await follow(client, job_id)
        assert len(text(events)) == size
        assert verdict(events)["exitCode"] == 0
        assert text(await run(client, **python("print('other')"))) == "other\n"
        # It is cut off within the timeout, and its events were not buffered meanwhile.
        await sessions_of(client, 0)
        stalled.settimeout(20)
        taken = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while part := stalled.recv(1 << 20):
                taken += part
        assert len(taken) < size
        assert not taken.endswith(b"0\r\n\r\n")  # cut off, not ended: the client will reconnect


async def test_the_stream_stays_open_for_the_grace_period_only(start: Start) -> None:
    client = await start(streams={"grace_s": 0.3})
    job_id = await submit(client, command=["true"])
    loop = asyncio.get_running_loop()
    async with client.get(f"/api/stream/{job_id}") as response:
        ended = 0.0
        async for event in received(response):
            if event.kind == "complete":
                ended = loop.time()
        assert loop.time() - ended >= 0.25
    await sessions_of(client, 0)


async def test_a_reader_may_come_before_the_job_starts(start: Start) -> None:
    client = await start(queue={"concurrency": 1})
    blocker = await submit(client, **SLEEPER)
    job_id = await submit(client, **python("print('late')"))
    async with client.get(f"/api/stream/{job_id}") as response:
        events = received(response)
        assert (await anext(events)).data["state"] == "queued"
        async with client.delete(f"/api/jobs/{blocker}") as answer:
            assert answer.status == 202
        assert text([event async for event in events]) == "late\n"


async def test_more_streams_than_a_browser_may_open(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python(ECHO, interactive=True))

    async def one(session: ClientSession) -> str:
        async with session.get(client.make_url(f"/api/stream/{job_id}")) as response:
            return text([event async for event in received(response)])

    async with ClientSession() as session:
        readers = [asyncio.create_task(one(session)) for _ in range(50)]
        await sessions_of(client, 50)
        await write(client, job_id, "all\n", close=True)
        assert await asyncio.gather(*readers) == ["all\n"] * 50
