"""`streamer.Client`: every method, over connections that break."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import streamer
from streamer import JobSpec, ServiceProblem, SourceFile
from streamer.errors import ConfigError, InvalidJob, UnknownJob
from streamer.model.events import Complete, Event, Output
from streamer.sse import EventParser
from tests.conftest import Start
from tests.support import AnyClient
from tests.web import SLEEPER, python

LINES = "".join(f"{number} é€😀\n" for number in range(4000))
PACED = f"""
import sys, time
text = {LINES!r}
for at in range(0, len(text), 1500):
    sys.stdout.write(text[at:at + 1500])
    sys.stdout.flush()
    time.sleep(0.003)
"""


def address(client: AnyClient) -> str:
    return str(client.make_url("/"))


def printed(events: Sequence[Event]) -> str:
    return "".join(event.data.data for event in events if isinstance(event.data, Output))


@asynccontextmanager
async def cutting_proxy(
    client: AnyClient, seed: int, cutting: str = "GET /api/stream"
) -> AsyncIterator[tuple[str, list[int]]]:
    """Forward connections and cut each after some bytes of the answer; list those numbers.

    A submission and its answer get through: what is tried is the following of a job. Each connection
    may live a little longer than the one before: on a busy machine all output is one event, and that
    is as long as a read (64 KiB).
    """
    chance = random.Random(seed)
    cuts: list[int] = []
    running: set[asyncio.Task[None]] = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        up_reader, up_writer = await asyncio.open_connection(client.host, client.port)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            up_writer.write(head)
            if head.startswith(cutting.encode()):
                left = chance.randrange(1, 6_000 * (len(cuts) + 1))
                cuts.append(left)
                while left and (data := await up_reader.read(left)):
                    left -= len(data)
                    writer.write(data)
                    await writer.drain()
                return
            up_writer.write(await reader.readexactly(length_of(head)))
            answer = await up_reader.readuntil(b"\r\n\r\n")
            writer.write(answer + await up_reader.readexactly(length_of(answer)))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # either side may leave
        finally:
            running.discard(task)
            for each in (writer, up_writer):
                each.close()
                with contextlib.suppress(OSError):
                    await each.wait_closed()

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}", cuts
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def length_of(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


async def test_runs_a_job_and_yields_its_events(start: Start) -> None:
    server = await start()
    async with streamer.Client(address(server)) as client:
        events = [event async for event in client.run(**python("print('hi'); raise SystemExit(3)"))]
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert printed(events) == "hi\n"
    assert isinstance(events[-1].data, Complete)
    assert events[-1].data.exit_code == 3


async def test_resumes_by_itself_whenever_it_is_cut(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start()
    # Its pauses are meant for a network; here they would take most of the time.
    monkeypatch.setattr("streamer.client.connection.random.uniform", lambda low, high: 0.01)
    async with (
        cutting_proxy(server, 1) as (url, cuts),
        streamer.Client(url) as client,
    ):
        async with asyncio.timeout(60):
            events = [event async for event in client.run(**python(PACED))]
    assert len(cuts) >= 5
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert printed(events) == LINES
    assert isinstance(events[-1].data, Complete)


async def test_several_jobs_are_followed_over_one_connection_whenever_it_is_cut(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start()
    monkeypatch.setattr("streamer.client.connection.random.uniform", lambda low, high: 0.01)
    async with (
        cutting_proxy(server, 2) as (url, cuts),
        streamer.Client(url) as client,
        asyncio.timeout(60),
    ):
        jobs = [await client.submit(**python(PACED)) for _ in range(2)]
        seen: dict[str, list[Event]] = {job_id: [] for job_id in jobs}
        async for job_id, event in client.follow(jobs):
            seen[job_id].append(event)
    assert len(cuts) >= 5
    for events in seen.values():
        assert [event.id for event in events] == list(range(1, len(events) + 1))
        assert printed(events) == LINES
        assert isinstance(events[-1].data, Complete)


async def test_what_cannot_be_followed_together(start: Start) -> None:
    server = await start()
    async with streamer.Client(address(server)) as client:
        with pytest.raises(UnknownJob):
            _ = [one async for one in client.follow(["a"])]
        for count in (0, 101):
            with pytest.raises(ValueError, match=f"1 to 100 jobs, not {count}"):
                _ = [one async for one in client.follow(["a"] * count)]


async def test_output_goes_on_where_it_broke(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await start()
    monkeypatch.setattr("streamer.client.connection.random.uniform", lambda low, high: 0.01)
    async with (
        cutting_proxy(server, 3, "GET /api/jobs") as (url, cuts),
        # An attempt that breaks before what has come already brings nothing new.
        streamer.Client(url, retries=100) as client,
        asyncio.timeout(60),
    ):
        job_id = await client.submit(**python(PACED))
        pieces = [piece async for piece in client.output(job_id)]
        assert b"".join(pieces).decode() == LINES
    async with streamer.Client(address(server)) as client:
        assert [piece async for piece in client.output(job_id, "stderr", follow=False)] == []
        with pytest.raises(ValueError, match="stdout"):
            client.output(job_id, "stdin")  # type: ignore[arg-type]
    assert len(cuts) >= 3


async def test_takes_up_a_job_where_it_is_told(start: Start) -> None:
    server = await start()
    async with streamer.Client(address(server)) as client:
        job_id = await client.submit(**python("print('a')"))
        events = [event async for event in client.events(job_id)]
        for after in range(len(events)):
            assert [event async for event in client.events(job_id, after=after)] == events[after:]
        assert [event async for event in client.events(job_id, after=events[-1].id)] == []


async def test_a_refusal_is_an_error_that_says_what_and_where(start: Start) -> None:
    server = await start()
    async with streamer.Client(address(server)) as client:
        with pytest.raises(ServiceProblem, match="out of range") as refused:
            await client.submit(language="python", code="", limits={"wallTimeS": -1})
        assert refused.value.status == 400
        assert refused.value.code == "invalid_request"
        assert refused.value.path == "$.limits.wallTimeS"
        for call in (
            client.job("nothing"),
            client.cancel("nothing"),
            client.write("nothing", b""),
            client.signal("nothing", "SIGINT"),
            client.end_input("nothing"),
            client.purge("nothing"),
            client.job("../queue"),
            anext(aiter(client.events("nothing"))),
        ):
            with pytest.raises(ServiceProblem) as missing:
                await call
            assert isinstance(missing.value, UnknownJob)
            assert (missing.value.status, missing.value.code) == (404, "not_found")


async def test_has_all_the_verbs(start: Start) -> None:
    server = await start()
    code = "import sys\nfor line in sys.stdin: print('got', line, end='', flush=True)"
    async with streamer.Client(address(server)) as client:
        job_id = await client.submit(**python(code, interactive=True))
        seen = ""
        async for event in client.events(job_id):
            if (
                event.kind == "status"
                and not seen
                and getattr(event.data, "state", "") == "running"
            ):
                await client.write(job_id, b"one\n")
            if isinstance(event.data, Output):
                seen += event.data.data
                if seen == "got one\n":
                    await client.write(job_id, b"two\n", close=True)
        assert seen == "got one\ngot two\n"
        document = await client.job(job_id)
        assert (document["status"], document["result"]["stdout"]) == ("complete", seen)
        await client.cancel(job_id)  # over already: nothing to do
        job_id = await client.submit(**SLEEPER)
        async for event in client.events(job_id):
            if getattr(event.data, "state", "") == "running":
                await client.signal(job_id, "SIGTERM")
        assert isinstance(event.data, Complete)
        assert event.data.signal == "SIGTERM"
        job_id = await client.submit(**SLEEPER)
        await client.cancel(job_id)
        *_, last = [event async for event in client.events(job_id)]
        assert isinstance(last.data, Complete)
        assert last.data.reason == "cancelled"


async def test_lists_purges_and_tells_of_the_service(start: Start) -> None:
    server = await start(queue={"concurrency": 1})
    async with streamer.Client(address(server)) as client:
        first = await client.submit(**SLEEPER)
        waiting = await client.submit(**SLEEPER)
        async for event in client.events(first):
            if getattr(event.data, "state", "") == "running":
                break
        queue = await client.queue()
        assert (queue["running"], queue["waiting"], queue["capacity"]) == (1, 1, 1)
        assert [job["jobId"] async for job in client.jobs()] == [waiting, first]
        assert [job["jobId"] async for job in client.jobs(status="running")] == [first]
        with pytest.raises(ServiceProblem, match="not over") as early:
            await client.purge(first)
        assert early.value.status == 409
        for job_id in (waiting, first):
            await client.cancel(job_id)
            assert [event.kind async for event in client.events(job_id)][-1] == "complete"
        await client.purge(first)
        with pytest.raises(UnknownJob):
            await client.job(first)
        assert "python" in [one["name"] for one in await client.runtimes()]
        assert {"plain", "bwrap"} <= {one["name"] for one in await client.sandboxes()}


async def test_a_list_of_many_pages_is_whole(start: Start) -> None:
    server = await start(queue={"concurrency": 1})
    async with streamer.Client(address(server)) as client:
        ids = [await client.submit(**SLEEPER) for _ in range(230)]
        assert [job["jobId"] async for job in client.jobs()] == ids[::-1]


async def test_ends_the_input_of_a_program(start: Start) -> None:
    server = await start()
    async with streamer.Client(address(server)) as client:
        job_id = await client.submit(**python("print(input(), input())", interactive=True))
        await client.write(job_id, b"a\nb")
        await client.end_input(job_id)
        assert printed([event async for event in client.events(job_id)]) == "a b\n"


SPEC = JobSpec(
    language="python",
    files=(SourceFile("main.py", b"import sys; print(open('d').read(), sys.argv[1:], input())"),),
    args=("x",),
    env={"A": "b"},
    stdin="é".encode(),
    limits={"wall_time_s": 5, "memory_bytes": 100_000_000},
    output_encoding="base64",
    metadata={"k": "v"},
)


async def test_text_stands_for_bytes(start: Start) -> None:
    server = await start()
    files = [SourceFile("main.py", "print(input(), input())")]  # type: ignore[arg-type]
    spec = JobSpec(language="python", files=files, interactive=True)  # type: ignore[arg-type]
    async with streamer.Client(address(server)) as client:
        for job in (
            await client.submit(spec),
            await client.submit(language="python", files=files, interactive=True),
        ):
            await client.write(job, "ü\n")
            await client.write(job, b"1\n")
            told = [event.data async for event in client.events(job)]
            assert "".join(data.data for data in told if isinstance(data, Output)) == "ü 1\n"


@pytest.mark.parametrize("job", ["print(1)", {"language": "python"}, 5])
async def test_what_is_no_spec_is_refused_before_it_is_sent(job: Any) -> None:
    async with streamer.Client("http://127.0.0.1:9") as client:
        with pytest.raises(InvalidJob, match=r"expected a streamer\.JobSpec"):
            await client.submit(job)
        with pytest.raises(TypeError, match="expected bytes or str"):
            await client.write("id", 5)  # type: ignore[arg-type]


async def test_submits_a_spec_as_well_as_fields_by_either_name(start: Start) -> None:
    server = await start()
    data = SourceFile("d", bytes(range(48, 58)), 0o600)
    spec = replace(SPEC, files=(*SPEC.files, data))
    async with streamer.Client(address(server)) as client:
        by_spec = await client.submit(spec)
        by_names = await client.submit(
            language="python",
            files=[*SPEC.files, data],
            args=["x"],
            env={"A": "b"},
            stdin="é".encode(),
            limits={"wall_time_s": 5, "memory_bytes": 100_000_000},
            output_encoding="base64",
            metadata={"k": "v"},
        )
        for job_id in (by_spec, by_names):
            raw = b""
            async for event in client.events(job_id):
                if isinstance(event.data, Output):
                    assert event.data.encoding == "base64"
                    raw += base64.b64decode(event.data.data)
            assert raw.decode() == "0123456789 ['x'] é\n"
            assert (await client.job(job_id))["metadata"] == {"k": "v"}
        for limits in ({"wall_time_s": 0.3}, {"wallTimeS": 0.3}):
            events = [event async for event in client.run(**SLEEPER, limits=limits)]
            assert isinstance(events[-1].data, Complete)
            assert events[-1].data.reason == "wall_time"
        with pytest.raises(TypeError, match="not both: code"):
            await client.submit(spec, code="1")
        with pytest.raises(InvalidJob, match="not UTF-8"):
            await client.submit(replace(spec, stdin=b"\xff"))


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "localhost:8080", "ftp://a", "http://", ""])
def test_an_address_says_how_it_begins(url: str) -> None:
    with pytest.raises(ConfigError, match="begins with http://"):
        streamer.Client(url)


async def test_submits_what_is_large(start: Start) -> None:
    server = await start()
    files = [{"name": "big", "content": "x" * 3_000_000}]
    async with streamer.Client(address(server)) as client:
        job = python("print(len(open('big').read()))", files=files)
        assert printed([event async for event in client.run(**job)]) == "3000000\n"


async def test_works_with_a_token(start: Start) -> None:
    token = {"tenant": "a", "sha256": hashlib.sha256(b"secret").hexdigest()}
    server = await start(auth={"tokens": [token]})
    async with streamer.Client(address(server), token="secret") as client:
        assert printed([event async for event in client.run(**python("print(1)"))]) == "1\n"
    async with streamer.Client(address(server)) as client:
        with pytest.raises(ServiceProblem) as refused:
            await client.submit(**SLEEPER)
    assert refused.value.status == 401


@pytest.mark.parametrize("slash", ["", "/"])
async def test_works_below_a_prefix(slash: str) -> None:
    host = web.Application()
    streamer.setup(host, {"sandbox": {"backend": "bwrap"}}, prefix="/its/code")
    async with TestServer(host) as server:
        url = str(server.make_url("/its/code")) + slash
        async with streamer.Client(url) as client:
            assert printed([event async for event in client.run(**python("print(1)"))]) == "1\n"


def test_the_parser_does_not_care_where_the_bytes_are_cut() -> None:
    body = (
        "retry: 10\nevent: output\ndata: é\ndata: 2\nid: 1\n\n:\n:x\nid: 2\n\n"
        "data:no blank\nevent:\n\nevent: complete\ndata: {}\nid: 3\n\nevent: cut\ndata: x\n"
    ).encode()
    expected = [("1", "output", "é\n2"), ("2", "message", "no blank"), ("3", "complete", "{}")]
    for step in range(1, len(body) + 1):
        parser = EventParser()
        found = [
            event for at in range(0, len(body), step) for event in parser.feed(body[at : at + step])
        ]
        assert found == expected
