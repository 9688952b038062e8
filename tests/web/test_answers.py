"""Every field of every answer is in docs/http.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conftest import Start
from tests.support import follow, submit
from tests.web import SLEEPER, python, until_state

HTTP = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
THEIRS = {"metadata", "enforces"}
"""Objects whose fields have names of the caller, or of limits."""


def names(value: Any) -> Iterator[str]:
    """Yield the name of every field, at any depth."""
    if isinstance(value, list):
        for item in value:
            yield from names(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            if name not in THEIRS:
                yield from names(item)


async def test_every_field_of_every_answer_is_documented(start: Start) -> None:
    client = await start(queue={"concurrency": 2})
    done = await submit(client, **python("print(1)"), metadata={"k": "v"})
    await follow(client, done)
    running = [await submit(client, **SLEEPER, interactive=True) for _ in range(2)]
    for job_id in running:
        await until_state(client, job_id, "running")
    waiting = await submit(client, **SLEEPER)
    answers = {}
    for method, target, data in (
        *(("GET", f"/api/jobs/{job_id}", None) for job_id in (done, running[0], waiting)),
        ("GET", "/api/jobs", None),
        *(("GET", f"/api/{name}", None) for name in ("runtimes", "sandboxes", "queue")),
        *(("GET", f"/{name}", None) for name in ("healthz", "readyz")),
        ("POST", "/api/execute", b'{"language": "bash", "code": ""}'),
        ("POST", f"/api/jobs/{running[0]}/stdin", b"x"),
        ("POST", f"/api/jobs/{running[0]}/signal", b'{"signal": "SIGTERM"}'),
        ("POST", f"/api/jobs/{running[0]}/signal", b"{}"),
        ("DELETE", f"/api/jobs/{running[1]}", None),
    ):
        async with client.request(method, target, data=data) as response:
            answers[method, target] = await response.json(content_type=None)
    async with client.get(f"/api/stream/{waiting}") as response:
        await response.content.readline()
        async with client.get(f"/api/jobs/{waiting}/sessions") as listed:
            answers["GET", "sessions"] = await listed.json()
    missing = {
        (*where, name)
        for where, answer in answers.items()
        for name in names(answer)
        if f"`{name}`" not in HTTP
    }
    assert missing == set()
    seen = {name for answer in answers.values() for name in names(answer)}
    assert {"nextCursor", "result", "position", "peer", "checks", "stdoutTruncated"} <= seen
