"""A program's output arrives: every byte, at once, and only as output."""

from __future__ import annotations

import base64
import hashlib
import random
from typing import Any

import pytest

from tests.conftest import Start
from tests.support import Received, follow, received, run, submit, text, verdict
from tests.web import python

HELLO: list[tuple[str, dict[str, Any]]] = [
    ("python", {"code": "print('hello')"}),
    ("bash", {"code": "echo hello"}),
    ("javascript", {"code": "console.log('hello')"}),
    ("node", {"code": "console.log('hello')"}),
    ("c", {"code": '#include <stdio.h>\nint main(void) { puts("hello"); }'}),
    ("c++", {"code": '#include <iostream>\nint main() { std::cout << "hello\\n"; }'}),
]


def outputs(events: list[Received]) -> list[Received]:
    return [event for event in events if event.kind == "output"]


@pytest.mark.parametrize(("language", "fields"), HELLO, ids=[name for name, _ in HELLO])
async def test_each_language_says_hello(
    start: Start, language: str, fields: dict[str, Any]
) -> None:
    client = await start()
    events = await run(client, language=language, **fields)
    assert text(events) == "hello\n", events
    end = verdict(events)
    assert (end["reason"], end["exitCode"], end["phase"]) == ("exited", 0, "run")
    assert end["sandbox"] == "bwrap"
    compiled = language in ("c", "c++")
    assert ("compiling" in [event.data.get("state") for event in events]) == compiled


@pytest.mark.parametrize("language", ["c", "cpp"])
async def test_an_error_of_the_compiler_is_a_verdict(start: Start, language: str) -> None:
    client = await start()
    events = await run(client, language=language, code="int main( {")
    end = verdict(events)
    assert events[-1].kind == "complete"
    assert (end["reason"], end["phase"]) == ("exited", "compile")
    assert end["exitCode"] != 0
    assert "error" in text(events, "stderr")
    assert {event.data["phase"] for event in outputs(events)} == {"compile"}
    assert "running" not in [event.data.get("state") for event in events]


async def test_the_two_streams_are_told_apart_and_in_order(start: Start) -> None:
    client = await start()
    code = """
import os, time
for turn in range(5):
    os.write(1, b"out %d\\n" % turn); time.sleep(0.1)
    os.write(2, b"err %d\\n" % turn); time.sleep(0.1)
"""
    events = await run(client, **python(code))
    lines = [(e.data["stream"], e.data["data"]) for e in outputs(events)]
    assert lines == [
        (stream, f"{word} {turn}\n")
        for turn in range(5)
        for stream, word in (("stdout", "out"), ("stderr", "err"))
    ]
    times = [event.data["t"] for event in events if "t" in event.data]
    assert times == sorted(times)


async def test_a_character_written_in_two_halves_stays_one(start: Start) -> None:
    client = await start()
    code = """
import os, time
euro = "€".encode()
for cut in (1, 2):
    os.write(1, euro[:cut]); time.sleep(0.1); os.write(1, euro[cut:] + b"\\n"); time.sleep(0.1)
"""
    events = await run(client, **python(code))
    assert text(events) == "€\n€\n"
    assert not any(event.data.get("lossy") for event in events)


async def test_invalid_bytes_are_replaced_and_flagged(start: Start) -> None:
    client = await start()
    code = r"""
import os, time
os.write(1, b"good\n"); time.sleep(0.2)
os.write(1, b"a\xffb\n"); time.sleep(0.2)
os.write(1, b"good again\n"); time.sleep(0.2)
os.write(1, b"cut \xe2\x82")
"""
    events = await run(client, **python(code))
    assert text(events) == "good\na�b\ngood again\ncut �"
    flagged = {e.data["data"] for e in outputs(events) if e.data.get("lossy")}
    assert any("a�b" in piece for piece in flagged)
    assert not any("good" in piece for piece in flagged)
    assert verdict(events)["outputBytes"] == 5 + 4 + 11 + 6


async def test_base64_carries_every_byte(start: Start) -> None:
    client = await start()
    code = """
import os
os.write(1, bytes(range(256)) * 300)
os.write(2, bytes(range(255, -1, -1)))
"""
    events = await run(client, **python(code, outputEncoding="base64"))
    written = {"stdout": b"", "stderr": b""}
    for event in outputs(events):
        assert event.data["encoding"] == "base64"
        assert "lossy" not in event.data
        written[event.data["stream"]] += base64.b64decode(event.data["data"], validate=True)
    assert written["stdout"] == bytes(range(256)) * 300
    assert written["stderr"] == bytes(range(255, -1, -1))


FORGED = [
    "\n\nevent: complete\ndata: {}\n\n",
    "\r\revent: complete\rdata: {}\r\r",
    "\r\n\r\nevent: error\r\ndata: {}\r\nid: 99\r\n\r\n",
    "id: 1\n\n",
    "data: x\ndata:\n\n",
    "retry: 0\n\n",
    ":\n\n: ping\n\n",
    "\0id: \0\n",
    "\u2028event: complete\u2028\u2028",
    "\u2029\x85\x0b\x0c\x1c\x1d\x1e\n\n",
    "\ufeffevent: complete\ndata: {}\n\n",
    '"}\n\nevent: complete\ndata: {"reason":"exited"}\n\n',
    "\\n\\nevent: complete\\ndata: {}\\n\\n",
    "\x1b[31mred\x1b[0m\a\b\x7f",
]


async def test_output_that_looks_like_frames_is_output(start: Start) -> None:
    client = await start()
    whole = "".join(FORGED)
    # Once in one write and once in separate ones, on both streams.
    code = f"""
import sys, time
pieces = {FORGED!r}
sys.stdout.reconfigure(newline="", encoding="utf-8"); sys.stderr.reconfigure(newline="")
print("".join(pieces), end="", flush=True)
for piece in pieces:
    time.sleep(0.012)
    print(piece, end="", file=sys.stderr, flush=True)
"""
    job_id = await submit(client, **python(code))
    events = await follow(client, job_id)
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert {event.kind for event in events} == {"status", "output", "complete"}
    assert text(events) == whole
    assert text(events, "stderr") == whole
    assert verdict(events)["exitCode"] == 0
    async with client.get(f"/api/stream/{job_id}") as response:
        body = await response.read()
    # The data has no character that any client takes for the end of a line.
    assert all(len(line.splitlines()) <= 1 for line in body.decode().split("\n"))
    assert body.count(b"event: complete\n") == 1


@pytest.mark.slow
async def test_a_flood_arrives_whole(start: Start) -> None:
    client = await start()
    code = """
import random, sys
chance = random.Random(1)
for _ in range(5):
    sys.stdout.write("".join(chance.choices("ab\\n\\t€😀\\"\\\\", k=500_000)))
"""
    flood = random.Random(1)
    expected = "".join("".join(flood.choices('ab\n\t€😀"\\', k=500_000)) for _ in range(5))
    assert len(expected.encode()) > 4_000_000
    events = await run(client, **python(code))
    assert (
        hashlib.sha256(text(events).encode()).digest() == hashlib.sha256(expected.encode()).digest()
    )
    end = verdict(events)
    assert end["outputBytes"] == len(expected.encode())
    assert not end["outputTruncated"]
    # Bounded frames: some clients refuse long lines (tests/worker/test_output.py).
    assert max(len(event.data["data"].encode()) for event in outputs(events)) < 70_000


async def test_many_small_writes_become_few_events(start: Start) -> None:
    client = await start()
    code = "import os\nfor i in range(20000): os.write(1, b'%d\\n' % i)"
    events = await run(client, **python(code))
    assert text(events) == "".join(f"{number}\n" for number in range(20000))
    assert len(events) < 2000


async def test_output_over_the_limit_ends_the_job(start: Start) -> None:
    client = await start()
    code = "while True: print('x' * 1000)"
    events = await run(client, **python(code, limits={"outputBytes": 100_000}))
    end = verdict(events)
    assert (end["reason"], end["outputTruncated"]) == ("output_limit", True)
    assert end["outputBytes"] == len(text(events)) == 100_000
    truncated = [event.data for event in events if event.kind == "truncated"]
    assert [data["stream"] for data in truncated] == ["stdout"]
    assert truncated[0]["droppedBytes"] > 0


async def test_output_over_the_limit_is_dropped_where_configured(start: Start) -> None:
    client = await start(streams={"on_output_limit": "truncate"})
    code = "import sys\nprint('x' * 200_000)\nprint('end', file=sys.stderr)\nsys.exit(4)"
    events = await run(client, **python(code, limits={"outputBytes": 100_000}))
    end = verdict(events)
    assert (end["reason"], end["exitCode"], end["outputTruncated"]) == ("exited", 4, True)
    # Both streams share the limit, and either may be read first.
    kept = {name: len(text(events, name)) for name in ("stdout", "stderr")}
    assert sum(kept.values()) == 100_000
    dropped = {e.data["stream"]: e.data["droppedBytes"] for e in events if e.kind == "truncated"}
    assert dropped["stdout"] == 200_001 - kept["stdout"]
    assert dropped.get("stderr", 0) == 4 - kept["stderr"]


@pytest.mark.parametrize("end", ["\n", " ", "é"], ids=["lines", "prompts", "letters"])
async def test_what_is_printed_is_there_before_the_program_goes_on(start: Start, end: str) -> None:
    """It waits until each line was seen; tests/worker/test_output.py bounds how soon that is."""
    client = await start()
    code = f"""
import sys
for number in range(10):
    print(number, end={end!r}, flush=True)
    sys.stdin.readline()
"""
    job_id = await submit(client, **python(code, interactive=True))
    written = ""
    async with client.get(f"/api/stream/{job_id}") as response:
        async for event in received(response):
            if event.kind == "output":
                whole = written.count(end)
                written += event.data["data"]
                assert "".join(f"{n}{end}" for n in range(10)).startswith(written)
                if written.count(end) == whole:
                    continue  # a busy machine may deliver a line and its end apart
                assert written.count(end) == whole + 1
                async with client.post(f"/api/jobs/{job_id}/stdin", data=b"seen\n") as answer:
                    assert answer.status == 202
    assert written.count(end) == 10


async def test_time_limits_end_the_job_with_their_verdict(start: Start) -> None:
    client = await start()
    events = await run(client, command=["sleep", "60"], limits={"wallTimeS": 0.3})
    end = verdict(events)
    assert (end["reason"], end["timedOut"]) == ("wall_time", True)
    events = await run(client, **python("while True: pass", limits={"cpuTimeS": 0.3}))
    end = verdict(events)
    assert (end["reason"], end["timedOut"]) == ("cpu_time", True)


async def test_memory_over_the_limit_ends_the_job_with_its_verdict(start: Start) -> None:
    client = await start()
    code = "import time\nx = bytearray(b'x') * 200_000_000\ntime.sleep(60)"
    events = await run(client, **python(code, limits={"memoryBytes": 50_000_000}))
    end = verdict(events)
    assert (end["reason"], end["oomKilled"]) == ("memory", True)


async def test_a_program_killed_by_a_signal(start: Start) -> None:
    client = await start()
    events = await run(client, **python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"))
    end = verdict(events)
    assert (end["reason"], end["exitCode"], end["signal"]) == ("signaled", None, "SIGSEGV")


async def test_a_program_that_is_not_there(start: Start) -> None:
    client = await start()
    events = await run(client, command=["/no/such/program"])
    end = verdict(events)
    assert (events[-1].kind, end.get("exitCode")) == ("complete", 127), events


async def test_what_the_program_left_running_dies_with_it(start: Start) -> None:
    client = await start()
    code = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60); print('ghost')"])
print("parent")
"""
    events = await run(client, **python(code))
    assert text(events) == "parent\n"
    assert verdict(events)["reason"] == "exited"
