"""Terminals over HTTP: sizes, and input that is numbered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import Start
from tests.support import follow, received, submit, text, verdict
from tests.web import problem, python, until_output

SIZE = {"cols": 80, "rows": 24}
ECHO = "import tty\ntty.setraw(0)\nprint('up', flush=True)\nwhile (key := open(0, 'rb', 0, closefd=False).read(1)) != b'.': print(key.decode(), end='', flush=True)"
"""It writes each key that it gets, up to a full stop."""


@pytest.mark.parametrize(
    ("terminal", "path"),
    [
        ({"cols": 0, "rows": 24}, "$.terminal.cols"),
        ({"cols": 80, "rows": 1001}, "$.terminal.rows"),
        ({"cols": 80}, "$.terminal"),
        ({"cols": 80, "rows": 24, "term": "vt100"}, "$.terminal.term"),
        ({"cols": 80.5, "rows": 24}, "$.terminal.cols"),
        (True, "$.terminal"),
    ],
)
async def test_what_is_no_terminal_is_refused(
    start: Start, terminal: dict[str, Any], path: str
) -> None:
    client = await start()
    request = python("print(1)", terminal=terminal)
    async with client.post("/api/execute", json=request) as response:
        assert (await problem(response, 400, "invalid_request"))["path"] == path


async def test_input_is_typed_once_however_often_it_is_sent(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python(ECHO, terminal=SIZE))
    stdin = f"/api/jobs/{job_id}/stdin"
    async with client.get(f"/api/stream/{job_id}") as response:
        events = received(response)
        await until_output(events, "up")
        for seq, keys in ((0, "ab"), (0, "ab"), (1, "bc"), (3, "d"), (0, "abcd")):
            async with client.post(f"{stdin}?seq={seq}", data=keys.encode()) as answer:
                assert answer.status == 202
                assert (await answer.json())["bytes"] == len(keys)
        async with client.post(f"{stdin}?seq=5", data=b"f") as answer:
            assert "byte 5" in (await problem(answer, 409, "conflict"))["detail"]
        async with client.post(f"{stdin}?seq=4", data=b"e.") as answer:
            assert answer.status == 202
        rest = [event async for event in events]
    assert text(rest).strip() == "abcde"
    assert verdict(rest)["exitCode"] == 0
    async with client.post(f"{stdin}?seq=4", data=b"e.") as answer:
        assert answer.status == 202, "a repetition after the end is one too"


@pytest.mark.parametrize("seq", ["", "-1", "1.5", "x", "9" * 16])
async def test_what_is_no_number_of_a_byte(start: Start, seq: str) -> None:
    client = await start()
    job_id = await submit(client, **python("input()", terminal=SIZE))
    async with client.post(f"/api/jobs/{job_id}/stdin?seq={seq}", data=b"x") as answer:
        assert (await problem(answer, 400, "invalid_request"))["path"] == "?seq"


async def test_the_end_of_numbered_input_may_be_sent_twice(start: Start) -> None:
    client = await start()
    code = "import sys; print(len(sys.stdin.read()))"
    job_id = await submit(client, **python(code, interactive=True))
    for _ in range(2):
        async with client.post(f"/api/jobs/{job_id}/stdin?close=1&seq=0", data=b"12345") as answer:
            assert await answer.json() == {"jobId": job_id, "bytes": 5, "closed": True}
    assert text(await follow(client, job_id)) == "5\n"


async def test_another_size(start: Start) -> None:
    client = await start()
    code = "import os\nwhile input() != 'q': print('%d x %d' % os.get_terminal_size())"
    job_id = await submit(client, **python(code, terminal=SIZE))
    resize = f"/api/jobs/{job_id}/resize"
    async with client.post(resize, json={"cols": 132, "rows": 43}) as answer:
        assert answer.status == 202
        assert await answer.json() == {"jobId": job_id, "cols": 132, "rows": 43}
    async with client.get(f"/api/stream/{job_id}") as response:
        events = received(response)
        async with client.post(f"/api/jobs/{job_id}/stdin", data=b"\r"):
            pass
        await until_output(events, "132 x 43")
        for body, path in (
            ({"cols": 0, "rows": 1}, "$.cols"),
            ({"cols": 1}, "$"),
            ({"cols": 1, "rows": 1, "x": 1}, "$.x"),
            ({"cols": "1", "rows": 1}, "$.cols"),
        ):
            async with client.post(resize, json=body) as answer:
                assert (await problem(answer, 400, "invalid_request"))["path"] == path
        async with client.post(f"/api/jobs/{job_id}/stdin", data=b"q\r"):
            pass
        assert verdict([event async for event in events])["exitCode"] == 0
    async with client.post(resize, json=SIZE) as answer:
        assert "over" in (await problem(answer, 409, "conflict"))["detail"]


async def test_a_job_without_a_terminal_has_no_size(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python("input()", interactive=True))
    async with client.post(f"/api/jobs/{job_id}/resize", json=SIZE) as answer:
        assert "no terminal" in (await problem(answer, 409, "conflict"))["detail"]


async def test_it_is_told_which_sandboxes_have_them(start: Start) -> None:
    client = await start(sandbox={"backend": "plain"})
    async with client.get("/api/sandboxes") as response:
        listed = {one["name"]: one["terminals"] for one in (await response.json())["sandboxes"]}
    assert listed["plain"]
    assert listed["bwrap"]


async def test_a_recording_has_its_size_and_its_own_ends_of_lines(start: Start) -> None:
    client = await start()
    code = "import tty\nprint('cooked')\ntty.setraw(0)\nprint('raw')"
    job_id = await submit(client, **python(code, terminal={"cols": 132, "rows": 43}))
    await follow(client, job_id)
    async with client.get(f"/api/jobs/{job_id}/cast") as response:
        header, *outputs = [json.loads(line) for line in (await response.text()).splitlines()]
    assert (header["width"], header["height"]) == (132, 43)
    assert "".join(output[2] for output in outputs) == "cooked\r\nraw\n"
