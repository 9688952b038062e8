"""Running jobs: cancellation, input, signals."""

from __future__ import annotations

import hashlib

import pytest

from tests.conftest import Start
from tests.support import AnyClient, follow, received, submit, text, verdict
from tests.web import SLEEPER, problem, python, until_output, until_state

INTERACTIVE = (
    "import sys\nfor line in sys.stdin: print('got', line, end='', flush=True)\nprint('end')"
)


async def cancel(client: AnyClient, job_id: str, status: int, query: str = "") -> None:
    async with client.delete(f"/api/jobs/{job_id}{query}") as response:
        assert response.status == status, await response.text()


async def test_a_running_job_is_cancelled(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python("import time; print('up', flush=True); time.sleep(60)"))
    async with client.get(f"/api/stream/{job_id}") as response:
        events = received(response)
        await until_output(events, "up")
        await cancel(client, job_id, 202)
        rest = [event async for event in events]
    end = verdict(rest)
    assert (rest[-1].kind, end["reason"], end["timedOut"]) == ("complete", "cancelled", False)
    await cancel(client, job_id, 409)


async def test_a_program_that_ignores_sigterm_is_cancelled_too(start: Start) -> None:
    client = await start()
    code = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)"
    job_id = await submit(client, **python(code))
    async with client.get(f"/api/stream/{job_id}") as response:
        events = received(response)
        await until_output(events, "up")
        await cancel(client, job_id, 202)
        end = verdict([event async for event in events])
    assert (end["reason"], end["signal"]) == ("cancelled", "SIGKILL")


async def test_a_program_has_a_moment_to_tidy_up(start: Start) -> None:
    client = await start(sandbox={"kill_grace_s": 10})
    # `print` within a handler fails if the signal comes before the first `print` has returned.
    code = """
import os, signal, sys, time
def stop(*_):
    os.write(1, b"tidied\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("up", flush=True)
time.sleep(60)
"""
    job_id = await submit(client, **python(code))
    async with client.get(f"/api/stream/{job_id}") as response:
        events = received(response)
        await until_output(events, "up\n")
        await cancel(client, job_id, 202)
        rest = [event async for event in events]
    assert text(rest) == "tidied\n"
    assert (verdict(rest)["reason"], verdict(rest)["exitCode"]) == ("cancelled", 0)


async def test_a_queued_job_is_cancelled_at_once(start: Start) -> None:
    client = await start(queue={"concurrency": 1})
    await until_state(client, await submit(client, **SLEEPER), "running")
    job_id = await submit(client, **SLEEPER)
    await cancel(client, job_id, 202)
    events = await follow(client, job_id)
    assert [event.kind for event in events] == ["status", "complete"]
    assert verdict(events)["reason"] == "cancelled"
    async with client.get("/api/queue") as response:
        assert (await response.json())["waiting"] == 0


async def test_cancelling_again_and_again_gives_one_end(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **SLEEPER)
    for _ in range(5):
        async with client.delete(f"/api/jobs/{job_id}") as response:
            assert response.status in (202, 409)
    events = await follow(client, job_id)
    assert verdict(events)["reason"] == "cancelled"


async def test_a_finished_job_can_be_purged_and_nothing_else(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python("print(1)"))
    await follow(client, job_id)
    async with client.delete(f"/api/jobs/{job_id}") as response:
        assert "purge" in (await problem(response, 409, "conflict"))["detail"]
    await cancel(client, job_id, 204, "?purge=1")
    for method, target in (
        ("GET", f"/api/jobs/{job_id}"),
        ("GET", f"/api/stream/{job_id}"),
        ("DELETE", f"/api/jobs/{job_id}"),
        ("DELETE", f"/api/jobs/{job_id}?purge=1"),
    ):
        async with client.request(method, target) as response:
            await problem(response, 404, "not_found")
    running = await submit(client, **SLEEPER)
    async with client.delete(f"/api/jobs/{running}?purge=1") as response:
        await problem(response, 409, "conflict")


async def test_input_reaches_the_program_as_it_is_sent(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python(INTERACTIVE, interactive=True, stdin="first\n"))
    async with client.get(f"/api/stream/{job_id}") as response:
        events = received(response)
        await until_output(events, "got first")
        async with client.post(f"/api/jobs/{job_id}/stdin", data="zweite ✓\n".encode()) as answer:
            assert answer.status == 202
            assert (await answer.json()) == {"jobId": job_id, "bytes": 11, "closed": False}
        await until_output(events, "got zweite ✓")
        async with client.post(f"/api/jobs/{job_id}/stdin?close=1", data=b"last") as answer:
            assert (await answer.json())["closed"]
        rest = [event async for event in events]
    assert text(rest) == "got lastend\n"
    async with client.post(f"/api/jobs/{job_id}/stdin", data=b"more") as answer:
        await problem(answer, 409, "conflict")


async def test_bytes_of_input_are_passed_as_they_are(start: Start) -> None:
    client = await start()
    code = "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
    job_id = await submit(client, **python(code, interactive=True))
    digest = hashlib.sha256()
    for turn in range(8):
        piece = bytes(range(256)) * 1000 + bytes([turn])
        digest.update(piece)
        while True:
            async with client.post(f"/api/jobs/{job_id}/stdin", data=piece) as answer:
                assert answer.status in (202, 429)
                if answer.status == 202:
                    break
    async with client.post(f"/api/jobs/{job_id}/stdin?close=1") as answer:
        assert answer.status == 202
    assert text(await follow(client, job_id)).strip() == digest.hexdigest()


async def test_input_to_a_program_that_reads_none_is_bounded(start: Start) -> None:
    client = await start()
    job_id = await submit(client, command=["sleep", "60"], interactive=True)
    await until_state(client, job_id, "running")
    statuses = []
    for _ in range(20):
        async with client.post(f"/api/jobs/{job_id}/stdin", data=b"x" * 500_000) as answer:
            statuses.append(answer.status)
            if answer.status != 202:
                await problem(answer, 429, "rate_limited")
    assert statuses[0] == 202
    assert statuses[-1] == 429
    # And a full input buffer does not delay the cancellation.
    await cancel(client, job_id, 202)
    assert verdict(await follow(client, job_id))["reason"] == "cancelled"


async def test_a_program_may_close_its_input_early(start: Start) -> None:
    client = await start()
    code = "import os, sys\nsys.stdin.close()\nos.system('true')\nprint('closed', flush=True)\nimport time; time.sleep(0.2)"
    job_id = await submit(client, **python(code, interactive=True))
    async with client.get(f"/api/stream/{job_id}") as response:
        events = received(response)
        await until_output(events, "closed")
        for _ in range(3):
            async with client.post(f"/api/jobs/{job_id}/stdin", data=b"x" * 100_000) as answer:
                assert answer.status in (202, 409)
        assert verdict([event async for event in events])["exitCode"] == 0


async def test_a_job_without_interactive_takes_no_input(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **SLEEPER)
    async with client.post(f"/api/jobs/{job_id}/stdin", data=b"x") as answer:
        assert "interactive" in (await problem(answer, 409, "conflict"))["detail"]


async def test_without_input_the_program_reads_its_end(start: Start) -> None:
    client = await start()
    code = "import sys; print(repr(sys.stdin.read()))"
    for fields, read in (({}, "''"), ({"stdin": ""}, "''"), ({"stdin": "a\n"}, "'a\\n'")):
        job_id = await submit(client, **python(code, **fields))
        assert text(await follow(client, job_id)).strip() == read


async def test_a_signal_reaches_the_program(start: Start) -> None:
    client = await start()
    # Output is read before the program has returned from writing it: a handler would run within that `print`.
    # So the program waits for its signals instead, and one that comes early stays pending.
    code = """
import signal
wanted = {signal.SIGUSR1, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
print("up", flush=True)
for _ in wanted:
    print(signal.Signals(signal.sigwait(wanted)).name, flush=True)
"""
    job_id = await submit(client, **python(code))
    async with client.get(f"/api/stream/{job_id}") as response:
        events = received(response)
        await until_output(events, "up\n")
        for name, shown in (("SIGUSR1", "SIGUSR1\n"), ("SIGINT", "SIGINT\n")):
            async with client.post(f"/api/jobs/{job_id}/signal", json={"signal": name}) as answer:
                assert answer.status == 202
                assert (await answer.json()) == {"jobId": job_id, "signal": name}
            await until_output(events, shown)
        end = verdict([event async for event in events])
    assert (end["reason"], end["exitCode"]) == ("exited", 0)
    async with client.post(f"/api/jobs/{job_id}/signal", json={"signal": "SIGINT"}) as answer:
        await problem(answer, 409, "conflict")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGRTMIN+3"])
async def test_a_deadly_signal_is_the_verdict(start: Start, name: str) -> None:
    client = await start()
    job_id = await submit(client, **SLEEPER)
    await until_state(client, job_id, "running")
    async with client.post(f"/api/jobs/{job_id}/signal", json={"signal": name}) as answer:
        assert answer.status == 202
    end = verdict(await follow(client, job_id))
    assert (end["reason"], end["signal"]) == ("signaled", name)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"signal": "SIGNOPE"}, "$.signal"),
        ({"signal": "int"}, "$.signal"),
        ({"signal": ""}, "$.signal"),
        ({"signal": "SIG_IGN"}, "$.signal"),
        ({"signal": "SIG32"}, "$.signal"),
        ({"signal": 2}, "$.signal"),
        ({"sig": "SIGINT"}, "$.sig"),
        ({}, "$"),
        ([], "$"),
        ({"signal": "SIGINT", "to": 1}, "$.to"),
    ],
)
async def test_a_bad_signal_is_refused(start: Start, body: object, path: str) -> None:
    client = await start()
    job_id = await submit(client, **SLEEPER)
    async with client.post(f"/api/jobs/{job_id}/signal", json=body) as answer:
        assert (await problem(answer, 400, "invalid_request"))["path"] == path
    async with client.get(f"/api/jobs/{job_id}") as response:
        assert (await response.json())["status"] not in ("complete", "error")
