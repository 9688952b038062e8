"""Compare the table of events with what jobs really send."""

from __future__ import annotations

import json
from typing import Any, get_args, get_type_hints

import pytest

from streamer.model import events
from tests.conftest import Start
from tests.contract import KEPT, differences, table_events
from tests.support import AnyClient, Received, follow, received, run, submit, verdict
from tests.web import SLEEPER, lose_worker, python, until_output, until_state

MIB = 1024 * 1024
TEXT = r"""
import os
os.write(1, b"good\n")
os.write(2, b"bad \xff\n")
"""
ENDS: dict[str, dict[str, Any]] = {
    "exited": python("raise SystemExit(3)"),
    "signaled": python("import os; os.kill(os.getpid(), 11)"),
    "wall_time": {**SLEEPER, "limits": {"wallTimeS": 0.3}},
    "cpu_time": python("while True: pass", limits={"cpuTimeS": 0.3}),
    "memory": python(
        "kept = []\nwhile True: kept.append(b'x' * 4_000_000)", limits={"memoryBytes": 64 * MIB}
    ),
    "output_limit": python("while True: print('x' * 99)", limits={"outputBytes": 10_000}),
    "disk": python(
        "for n in range(9): open(f'f{n}', 'wb').write(bytes(4_000_000))\n"
        "import time; time.sleep(60)",
        limits={"diskBytes": 8 * MIB},
    ),
    "cancelled": SLEEPER,
}
"""A job for each reason to end; the last is cancelled by us."""


async def every_kind(start: Start) -> list[Received]:
    """Return the events of jobs that together have every kind, field and reason."""
    seen = []
    client = await start(
        queue={"concurrency": 1},
        streams={
            "on_output_limit": "truncate",
            "log_bytes": 70_000,
            "log_memory_bytes": 70_000,
            "disk_bytes": 0,
        },
    )
    first = await submit(client, **SLEEPER)
    await until_state(client, first, "running")
    waiting = await submit(client, language="c", code="int main(void) { return 0; }\nint x = y;")
    async with client.delete(f"/api/jobs/{first}") as response:
        assert response.status == 202
    seen += await follow(client, waiting)
    for _ in range(2):  # the second time from the cache
        seen += await run(client, language="cpp", code="int main() {}")
    seen += await run(client, **python(TEXT))
    seen += await run(client, **python("print(1)", outputEncoding="base64"))
    seen += await run(client, **python("print('x' * 5000)", limits={"outputBytes": 1000}))
    cases = [{"stdin": "1", "name": "first"}, {"stdin": "0"}]
    seen += await run(client, **python("print(1); exit(int(input()))", cases=cases))
    seen += await run(client, **python("open('a', 'w')", artifacts=["a", "none"]))
    loud = await submit(client, **python("for _ in range(3000): print('x' * 99)"))
    await until_state(client, loud, "complete")
    seen += await follow(client, loud)
    seen += await measured(client)
    seen += await run_again(client)
    return seen + await stopped(start)


async def measured(client: AnyClient) -> list[Received]:
    """Return the events of a job up to its first ``stats``, as one sees them who asks for these."""
    job = await submit(client, **SLEEPER)
    async with client.get(f"/api/stream/{job}?stats=1") as response:
        seen = []
        async for event in received(response):
            seen.append(event)
            if event.kind == "stats":
                break
        response.close()
    async with client.delete(f"/api/jobs/{job}") as response:
        assert response.status == 202
    return seen


async def run_again(client: AnyClient) -> list[Received]:
    """Return the events of a job whose worker was lost."""
    code = "print(1, flush=True); input()"
    job = await submit(client, **python(code, interactive=True, retry=1))
    async with client.get(f"/api/stream/{job}") as response:
        await until_output(received(response), "1\n")
        response.close()
    await lose_worker(client, job)
    async with client.post(f"/api/jobs/{job}/stdin?close=1", data=b"\n") as response:
        assert response.status == 202
    return await follow(client, job)


async def stopped(start: Start) -> list[Received]:
    """Return the events of a job that ran when its service stopped."""
    client = await start()
    job = await submit(client, **SLEEPER)
    async with client.get(f"/api/stream/{job}") as response:
        stream = received(response)
        seen = []
        async for event in stream:
            seen.append(event)
            if event.data.get("state") == "running":
                await client.app.shutdown()
    return seen


async def test_kinds_and_fields(start: Start) -> None:
    seen = await every_kind(start)
    kinds = {event.kind for event in seen}
    assert differences(table_events.KINDS, kinds) == []
    found = {f"{event.kind}.{name}" for event in seen for name in event.data}
    assert differences(table_events.FIELDS, found) == []
    for kind, fields in table_events.ALWAYS.items():
        assert [e for e in seen if e.kind == kind and not fields <= e.data.keys()] == []
    # A kind that no job sends yet may exist as a type, and only as that.
    described = {
        f"{kind}.{name}"
        for kind, struct in events.KINDS.items()
        for name in struct.__struct_encode_fields__
    }
    assert described - table_events.FIELDS.keys() == set()
    assert events.KINDS.keys() - table_events.KINDS.keys() == set()


@pytest.mark.parametrize("reason", ENDS)
async def test_a_reason_to_end(start: Start, reason: str) -> None:
    # A private file system is full before its limit is passed; a folder on the host is watched.
    client = await start(sandbox={"backend": "plain"} if reason == "disk" else {})
    assert table_events.VALUES[f"complete.reason {reason}"] == KEPT
    job = await submit(client, **ENDS[reason])
    if reason == "cancelled":
        await until_state(client, job, "running")
        async with client.delete(f"/api/jobs/{job}") as response:
            assert response.status == 202
    end = verdict(await follow(client, job))
    assert end["reason"] == reason
    assert end["timedOut"] == (reason in ("wall_time", "cpu_time"))
    assert end["oomKilled"] == (reason == "memory")
    assert (end["exitCode"] is None) == (reason != "exited")


def test_values() -> None:
    """What a field may hold is a closed list, and this is the whole of it."""
    lists = {
        "status.state": events.State,
        "status.reason": get_args(get_type_hints(events.Status)["reason"])[0],
        "output.stream": events.StreamName,
        "output.phase": events.PhaseName,
        "output.encoding": get_args(get_type_hints(events.Output)["encoding"])[0],
        "complete.reason": events.Reason,
        "error.code": events.ErrorCode,
    }
    found = {f"{field} {value}" for field, known in lists.items() for value in get_args(known)}
    assert differences(table_events.VALUES, found) == []
    assert {row.partition(" ")[0] for row in table_events.VALUES} == lists.keys()


async def test_a_stream_is_as_promised_on_the_wire(start: Start) -> None:
    client = await start()
    job = await submit(client, **python("print('a')"))
    await follow(client, job)
    async with client.get(f"/api/stream/{job}") as response:
        frames = (await response.text()).removesuffix("\n\n").split("\n\n")
    assert frames[0].startswith("retry: ")
    frames[0] = frames[0].partition("\n")[2].lstrip("\n")
    blocks = [frame.split("\n") for frame in frames if frame]
    for number, (kind, data, place) in enumerate(blocks, 1):
        assert kind.startswith("event: ")
        assert json.loads(data.removeprefix("data: ")).keys()
        assert place == f"id: {number}"
