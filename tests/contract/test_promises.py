"""Promises beyond names: each is tested, and its mark tells whether it is kept yet."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from streamer.spi import hookimpl
from tests.conftest import Start
from tests.contract import KEPT, Mark
from tests.support import AnyClient, follow, received, submit
from tests.web import SLEEPER, python, until_state

Try = Callable[[Start, Path], Awaitable[bool]]
PROMISES: Final[dict[str, tuple[Mark, Try]]] = {}


def promise(text: str, mark: Mark) -> Callable[[Try], Try]:
    """Register a function that tells whether a promise is kept."""

    def enter(attempt: Try) -> Try:
        PROMISES[text] = (mark, attempt)
        return attempt

    return enter


async def status_of(client: AnyClient, method: str, path: str, **options: Any) -> int:
    async with client.request(method, path, **options) as response:
        await response.read()
        return response.status


async def submitting(client: AnyClient, job: object) -> int:
    return await status_of(client, "POST", "/api/execute", json=job)


@promise("null for an optional field is not given", KEPT)
async def null(start: Start, _: Path) -> bool:
    client = await start()
    names = ("files", "args", "env", "stdin", "interactive", "limits", "network", "metadata")
    answers = [await submitting(client, python("print(1)", **{name: None})) for name in names]
    return answers == [202] * len(names)


@promise("a size in a request may have a unit", KEPT)
async def units(start: Start, _: Path) -> bool:
    client = await start()
    sizes = {"memoryBytes": "64MiB", "outputBytes": "1MiB"}
    return await submitting(client, python("print(1)", limits=sizes)) == 202


@promise("a limit out of its range is refused, not clamped", KEPT)
async def ranges(start: Start, _: Path) -> bool:
    client = await start()
    answers = []
    for value in ("0", "-1", "1e999", "NaN", "99999999"):
        body = f'{{"language":"python","code":"1","limits":{{"wallTimeS":{value}}}}}'
        answers.append(await status_of(client, "POST", "/api/execute", data=body))
    return answers == [400] * 5


@promise("an unknown field is refused", KEPT)
async def unknown(start: Start, _: Path) -> bool:
    return await submitting(await start(), python("1", cod="2")) == 400


@promise("a repeated POST tells the true status of the first job", KEPT)
async def true_status(start: Start, _: Path) -> bool:
    client = await start()
    answers = []
    for _turn in range(2):
        headers = {"Idempotency-Key": "k"}
        async with client.post("/api/execute", json=python("1"), headers=headers) as response:
            document = await response.json()
            answers.append((response.status, document["status"]))
        await follow(client, document["jobId"])
    return answers == [(202, "queued"), (202, "complete")]


@promise("a repeated streaming POST resumes by Last-Event-ID, and 204 is its end", KEPT)
async def resumed_post(start: Start, _: Path) -> bool:
    client = await start()
    headers = {"Idempotency-Key": "k", "Accept": "text/event-stream"}
    job = python("print(1)")
    async with client.post("/api/execute", json=job, headers=headers) as response:
        whole = [event async for event in received(response)]
    headers["Last-Event-ID"] = str(whole[1].id)
    async with client.post("/api/execute", json=job, headers=headers) as response:
        rest = [event async for event in received(response)]
    headers["Last-Event-ID"] = str(whole[-1].id)
    end = await status_of(client, "POST", "/api/execute", json=job, headers=headers)
    return rest == whole[2:] and end == 204


@promise("a job is cancelled, then 409, then purged, then gone", KEPT)
async def ended(start: Start, _: Path) -> bool:
    client = await start()
    job = f"/api/jobs/{await submit(client, **SLEEPER)}"
    answers = [await status_of(client, "DELETE", job)]
    await until_state(client, job.rpartition("/")[2], "complete")
    answers += [await status_of(client, "DELETE", job + end) for end in ("", "?purge=1", "")]
    return answers == [202, 409, 204, 404]


@promise("Prefer: wait answers 202 where the job takes longer", KEPT)
async def waits(start: Start, _: Path) -> bool:
    client = await start()
    prefer = {"Prefer": "wait=0"}
    return await status_of(client, "POST", "/api/execute", json=SLEEPER, headers=prefer) == 202


@promise("a full queue does not make the service unready", KEPT)
async def ready(start: Start, _: Path) -> bool:
    client = await start(queue={"concurrency": 1, "max_waiting": 1})
    await until_state(client, await submit(client, **SLEEPER), "running")
    await submit(client, **SLEEPER)
    full = await submitting(client, SLEEPER)
    return (full, await status_of(client, "GET", "/readyz")) == (429, 200)


@promise("a page of another site is refused", KEPT)
async def other_site(start: Start, _: Path) -> bool:
    client = await start()
    headers = {"Origin": "https://example.org"}
    return await status_of(client, "POST", "/api/execute", json=SLEEPER, headers=headers) == 403


class Hook:
    """A host's plugin whose hook returns or raises this answer."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    @hookimpl
    def streamer_authorize(self) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@promise("a hook's answer that is no name and not True refuses", KEPT)
async def hooks(start: Start, _: Path) -> bool:
    answers = []
    refusals: list[object] = [None, False, "", 0, [], RuntimeError("no database")]
    for answer in refusals:
        client = await start(plugins=(Hook(answer),))
        answers.append(await submitting(client, python("1")) in (401, 403))
    for allowed in ("alice", True):
        client = await start(plugins=(Hook(allowed),))
        answers.append(await submitting(client, python("1")) == 202)
    return all(answers)


@promise("a name that is not loopback's gets 401 where nobody is known", KEPT)
async def foreign_host(start: Start, _: Path) -> bool:
    client = await start()
    headers = {"Host": "www.example.org"}
    return await status_of(client, "POST", "/api/execute", json=SLEEPER, headers=headers) == 401


@promise("with tokens any name is served", KEPT)
async def named_host(start: Start, _: Path) -> bool:
    digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
    client = await start(auth={"tokens": [{"tenant": "a", "sha256": digest}]})
    headers = {"Host": "www.example.org", "Authorization": "Bearer secret"}
    return await status_of(client, "POST", "/api/execute", json=SLEEPER, headers=headers) == 202


def command(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    line = [sys.executable, "-m", "streamer", *words]
    return subprocess.run(
        line, cwd=cwd, env=environ, capture_output=True, text=True, check=False, timeout=60
    )


@promise("run takes no config.toml of the folder it stands in, and says so", KEPT)
async def no_config(_: Start, folder: Path) -> bool:
    (folder / "config.toml").write_text('[sandbox]\nbackend = "plain"\npath = "/nowhere"\n')
    (folder / "a.py").write_text("print(6 * 7)")
    ran = command("run", "a.py", cwd=folder)
    return (ran.returncode, ran.stdout) == (0, "42\n") and "config.toml" in ran.stderr


@promise("run ends with the program's code, 124 on a time limit, 125 where it cannot run", KEPT)
async def exit_codes(_: Start, folder: Path) -> bool:
    (folder / "a.py").write_text("import sys, time; time.sleep(float(sys.argv[1])); sys.exit(7)")
    (folder / "a.c").write_text("int main(void) { return 0; }")
    lines = (
        ["a.py", "--", "0"],
        ["--limit", "wall_time_s=0.3", "a.py", "--", "60"],
        ["--set", "sandbox.bwrap.path=/nowhere/bwrap", "--sandbox", "bwrap", "a.py", "--", "0"],
    )
    return [command("run", *line, cwd=folder).returncode for line in lines] == [7, 124, 125]


@promise("--workers is how many processes share the port", KEPT)
async def workers(_: Start, folder: Path) -> bool:
    text = command("serve", "--help", cwd=folder).stdout
    (about,) = re.findall(r"--workers N\s+(.*)", text)
    return "process" in about.lower()


@pytest.mark.parametrize("text", PROMISES)
async def test_a_promise_is_as_its_mark_says(start: Start, tmp_path: Path, text: str) -> None:
    mark, attempt = PROMISES[text]
    assert await attempt(start, tmp_path) == (mark == KEPT), mark
