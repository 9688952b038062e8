"""Every field of every answer is in docs/http.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conftest import Start
from tests.jobs.archives import zip_of
from tests.support import AnyClient, follow, submit
from tests.web import SLEEPER, python, until_state

HTTP = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
THEIRS = {"metadata", "enforces", "limits"}
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
    answers |= await of_files(client)
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
    assert {"artifactsFailed", "projectId", "sha256", "keepProcesses", "kind", "complete"} <= seen


async def of_files(client: AnyClient) -> dict[tuple[str, str], Any]:
    """Return the answers about projects, sessions, and the files of jobs and sessions."""
    answers = {}

    async def ask(method: str, target: str, **how: Any) -> Any:
        async with client.request(method, target, **how) as response:
            assert response.status < 300, await response.text()
            answers[method, target] = await response.json()
        return answers[method, target]

    leaves = python("open('left', 'w').write('x')", artifacts=["left", "none"])
    job_id = await submit(client, **leaves)
    events = await follow(client, job_id)
    answers["GET", "artifact"] = [event.data for event in events if event.kind == "artifact"]
    await ask("GET", f"/api/jobs/{job_id}")
    await ask("GET", f"/api/jobs/{job_id}/files")
    project = await ask("POST", "/api/projects", data=zip_of([("main.py", b"")]))
    await ask("GET", f"/api/projects/{project['projectId']}")
    links = (await ask("POST", "/api/sessions", json={"metadata": {"k": "v"}}))["links"]
    await ask("PUT", f"{links['files']}/a/file", data=b"x")
    for target in (links["session"], links["files"], "/api/sessions"):
        await ask("GET", target)
    return answers
