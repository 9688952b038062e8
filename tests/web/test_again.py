"""Downloads and replays of a run: raw output, a recording, the events at their pace."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator

import pytest

from streamer.eventlog.frames import split_frames
from streamer.eventlog.joblog import JobLog
from streamer.jobs.replay import PacedSource
from streamer.model.events import Output, encode
from tests.conftest import Start
from tests.support import Received, follow, received, submit, text, verdict
from tests.web import SLEEPER, problem, python, until_output

JUNK = bytes(range(256)) * 40 + "é€😀".encode()


def printing(data: bytes, stream: str = "stdout") -> str:
    return f"import sys\nsys.{stream}.buffer.write({data!r})"


async def test_the_raw_output_of_a_base64_job_is_its_very_bytes(start: Start) -> None:
    client = await start()
    for stream, other in (("stdout", "stderr"), ("stderr", "stdout")):
        job_id = await submit(client, **python(printing(JUNK, stream), outputEncoding="base64"))
        async with client.get(f"/api/jobs/{job_id}/output/{stream}") as response:
            assert response.status == 200
            assert await response.read() == JUNK
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Content-Disposition"].startswith("attachment")
        async with client.get(f"/api/jobs/{job_id}/output/{other}") as response:
            assert await response.read() == b""


async def test_the_raw_output_of_a_text_job_is_its_text(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python(printing(JUNK)))
    async with client.get(f"/api/jobs/{job_id}/output/stdout") as response:
        assert await response.read() == JUNK.decode(errors="replace").encode()


async def test_it_can_be_read_while_the_job_runs(start: Start) -> None:
    client = await start()
    echo = "import sys\nprint('up', flush=True)\nfor line in sys.stdin: print(line, end='', flush=True)"
    job_id = await submit(client, **python(echo, interactive=True))
    async with client.get(f"/api/jobs/{job_id}/output/stdout") as response:
        assert await response.content.readline() == b"up\n"
        async with client.get(f"/api/jobs/{job_id}/output/stdout?follow=0") as now:
            assert await now.read() == b"up\n"
        async with client.post(f"/api/jobs/{job_id}/stdin?close=1", data=b"more\n"):
            pass
        assert await response.read() == b"more\n"


async def test_what_is_gone_of_it_is_said(start: Start) -> None:
    client = await start(
        streams={"log_bytes": 100_000, "disk_bytes": 0}, limits={"default": {"output_bytes": 10**7}}
    )
    job_id = await submit(client, **python("print('x' * 1_000_000)"))
    events = await follow(client, job_id)
    assert verdict(events)["outputBytes"] == 1_000_001
    for target in ("output/stdout", "output/stderr", "cast"):
        async with client.get(f"/api/jobs/{job_id}/{target}") as response:
            await problem(response, 410, "gone")
    (first, *_) = await follow(client, job_id)
    assert first.kind == "gap"
    async with client.get(f"/api/jobs/{job_id}") as response:
        document = (await response.json())["result"]
    assert document["stdoutTruncated"] is True
    assert 0 < len(document["stdout"]) < 1_000_000, "what is left of it"


async def test_a_recording_can_be_played(start: Start) -> None:
    client = await start()
    code = "import sys\nprint('\\x1b[31mred\\x1b[0m')\nprint('é', file=sys.stderr)"
    job_id = await submit(client, **python(code))
    events = await follow(client, job_id)
    async with client.get(f"/api/jobs/{job_id}/cast") as response:
        assert response.content_type == "application/x-asciicast"
        header, *lines = [json.loads(line) for line in (await response.text()).splitlines()]
    assert (header["version"], header["width"], header["height"]) == (2, 80, 24)
    assert {kind for _, kind, _ in lines} == {"o"}
    times = [when for when, _, _ in lines]
    assert times == sorted(times)
    played = "".join(data for _, _, data in lines)
    written = text(events, "stdout") + text(events, "stderr")
    assert sorted(played) == sorted(written.replace("\n", "\r\n"))


async def test_a_character_that_two_events_share_is_whole_in_a_recording(start: Start) -> None:
    client = await start()
    code = (
        'import os, sys\nfor byte in "é€😀".encode():\n'
        "    os.write(1, bytes([byte]))\n    sys.stdin.buffer.read(1)"
    )
    job_id = await submit(client, **python(code, outputEncoding="base64", interactive=True))
    async with client.get(f"/api/stream/{job_id}") as response:
        async for event in received(response):
            if event.kind == "output":  # each byte is an event of its own
                async with client.post(f"/api/jobs/{job_id}/stdin", data=b"x"):
                    pass
    async with client.get(f"/api/jobs/{job_id}/cast") as response:
        _, *lines = [json.loads(line) for line in (await response.text()).splitlines()]
    assert "".join(data for _, _, data in lines) == "é€😀"


async def test_a_run_is_told_again_at_its_pace(start: Start) -> None:
    client = await start()
    code = "import time\nfor n in range(4):\n    print(n, flush=True)\n    time.sleep(0.1)"
    job_id = await submit(client, **python(code))
    events = await follow(client, job_id)
    spans = {}
    for speed in ("0", "1", "4"):
        began = time.monotonic()
        async with client.get(f"/api/stream/{job_id}?speed={speed}") as response:
            assert [event async for event in received(response)] == events
        spans[speed] = time.monotonic() - began
    lasted = (events[-2].data["t"] - events[0].data["t"]) / 1000
    # Never faster than requested; how much slower depends on the machine.
    assert spans["1"] >= lasted
    assert spans["4"] >= lasted / 4


async def test_who_goes_on_waits_for_what_is_between_events_only() -> None:
    log = JobLog()
    log.append([encode(Output("stdout", "x", t, "run")) for t in (0, 3_600_000, 7_200_000)])
    with log.cursor(1) as cursor:
        source = PacedSource(cursor, speed=1.0, end_ms=None, heartbeat_s=3600)
        # The first event of the log is an hour into the run.
        assert [number for number, *_ in split_frames(await source.read())] == [2]
        assert await source.read() == b""


async def test_a_speed_is_kept_in_both_directions() -> None:
    """An hour between two events: waiting for it would mean that the speed was ignored."""
    log = JobLog()
    times = [0, 3_600_000]
    log.append([encode(Output("stdout", "x", t, "run")) for t in times], end=True)

    async def told(speed: float) -> AsyncGenerator[bytes, None]:
        with log.cursor() as cursor:
            source = PacedSource(cursor, speed=speed, end_ms=times[-1], heartbeat_s=3600)
            while not source.ended:
                if data := await source.read():
                    yield data
                source.sent()

    async with asyncio.timeout(20):
        fast = b"".join([data async for data in told(1e9)])
    assert [number for number, *_ in split_frames(fast)] == [1, 2]
    for speed in (1.0, 100.0):
        async with contextlib.aclosing(told(speed)) as slow:
            first = await anext(slow)
            assert [number for number, *_ in split_frames(first)] == [1]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await anext(slow)


async def test_a_speed_that_is_asked_for_reaches_the_stream(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python("import time; print(1, flush=True); time.sleep(3)"))
    await follow(client, job_id)
    began = time.monotonic()
    async with client.get(f"/api/stream/{job_id}?speed=1000") as response:
        *_, last = [event async for event in received(response)]
    # At its own pace the replay takes at least as long as the run.
    assert time.monotonic() - began < verdict([last])["durationMs"] / 1000


async def test_a_paced_stream_resumes_where_it_was_cut(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python("for n in range(20): print(n, flush=True)"))
    events = await follow(client, job_id)
    seen: list[Received] = []
    while True:
        headers = {"Last-Event-ID": str(seen[-1].id)} if seen else {}
        async with client.get(f"/api/stream/{job_id}?speed=50", headers=headers) as response:
            if response.status == 204:
                break
            seen.append(await anext(received(response)))
            response.close()
    assert seen == events


async def test_what_follows_a_gap_is_told_at_its_pace_too(start: Start) -> None:
    client = await start(
        streams={"log_bytes": 100_000, "disk_bytes": 0}, limits={"default": {"output_bytes": 10**7}}
    )
    code = (
        "import time\nprint('x' * 1_000_000, flush=True)\n"
        "for n in range(3): print('tick', flush=True); time.sleep(0.4)"
    )
    job_id = await submit(client, **python(code))
    await follow(client, job_id)
    async with client.get(f"/api/stream/{job_id}?speed=1") as response:
        seen = [(time.monotonic(), event) async for event in received(response)]
    assert seen[0][1].kind == "gap"
    first, last = (
        when for when, event in (seen[0], [pair for pair in seen if pair[1].kind == "output"][-1])
    )
    assert last - first > 0.7, "two pauses of 0.4 s"
    assert seen[-1][0] - last > 0.3, "and the one before the end"


async def test_a_paced_stream_of_a_running_job_goes_on_live(start: Start) -> None:
    client = await start()
    echo = "import sys\nprint('up', flush=True)\nfor line in sys.stdin: print(line, end='', flush=True)"
    job_id = await submit(client, **python(echo, interactive=True))
    async with client.get(f"/api/stream/{job_id}?speed=10") as response:
        events = received(response)
        await until_output(events, "up\n")
        async with client.post(f"/api/jobs/{job_id}/stdin?close=1", data=b"more\n"):
            pass
        rest = [event async for event in events]
    assert text(rest) == "more\n"
    assert verdict(rest)["exitCode"] == 0


async def test_silence_in_a_paced_stream_has_heartbeats(start: Start) -> None:
    client = await start(streams={"heartbeat_s": 0.05})
    job_id = await submit(client, **python("import time\ntime.sleep(0.5)\nprint(1)"))
    await follow(client, job_id)
    async with client.get(f"/api/stream/{job_id}?speed=1") as response:
        body = await response.read()
    assert body.count(b"\n:\n") >= 1


@pytest.mark.parametrize("speed", ["-1", "x", "nan", "inf", "1001", ""])
async def test_a_speed_that_is_none_is_refused(start: Start, speed: str) -> None:
    client = await start()
    job_id = await submit(client, command=["true"])
    await follow(client, job_id)
    async with client.get(f"/api/stream/{job_id}", params={"speed": speed}) as response:
        assert (await problem(response, 400, "invalid_request"))["path"] == "?speed"


async def test_nobody_elses_job_is_told_again(start: Start) -> None:
    client = await start()
    for target in ("output/stdout", "output/stderr", "cast", "sessions"):
        async with client.get(f"/api/jobs/{'a' * 26}/{target}") as response:
            await problem(response, 404, "not_found")
    job_id = await submit(client, **SLEEPER)
    async with client.get(f"/api/jobs/{job_id}/output/stdin") as response:
        await problem(response, 404, "not_found")
    leaving = asyncio.create_task(client.get(f"/api/jobs/{job_id}/output/stdout").__aenter__())
    response = await leaving
    response.close()  # while it waits for output
