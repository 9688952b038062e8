"""What callers and programs write is in no line of the log and in no metric."""

from __future__ import annotations

import ast
import asyncio
import hashlib
import io
import json
import secrets
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support import open_to_all
from tests.test_process import Server, serving

ROOT = Path(__file__).parents[1]
SCOPES = '["run", "read", "upload", "metrics"]'


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return a folder that every user may pass through, as jobs do on their way."""
    folder = tmp_path / "state"
    folder.mkdir()
    return open_to_all(folder)


class Caller:
    """Asks a service for everything with one mark in all that it says."""

    def __init__(self, server: Server, mark: str) -> None:
        self.mark = mark
        self.jobs: list[str] = []
        self._http = server.session
        self._headers = {"Authorization": f"Bearer {mark}"}

    async def ask(self, method: str, path: str, status: int, **sent: Any) -> bytes:
        headers = {**self._headers, **sent.pop("headers", {})}
        async with self._http.request(method, path, headers=headers, **sent) as response:
            body = await response.read()
            assert response.status == status, (path, body)
            return body

    async def run(self, wanted: str, **job: Any) -> bytes:
        """Run a job to its end, which must be as it is wanted; return its stream."""
        headers = {"Idempotency-Key": f"{self.mark}{len(self.jobs)}"}
        job = {"metadata": {self.mark: self.mark}, "env": {self.mark: self.mark}, **job}
        body = await self.ask("POST", "/api/execute", 202, json=job, headers=headers)
        job_id = json.loads(body)["jobId"]
        self.jobs.append(job_id)
        said = await self.ask("GET", f"/api/stream/{job_id}?access_token={self.mark}", 200)
        assert f'"{wanted}"'.encode() in said, said
        return said


async def everything(caller: Caller, sandbox: str) -> None:
    mark = caller.mark
    own = {"sandbox": sandbox, "args": [mark], "stdin": mark}
    shown = f"import os, sys\nprint('{mark}', *sys.argv, sys.stdin.read())\n"
    left = f"os.makedirs('{mark}', exist_ok=True)\nopen('{mark}/{mark}.txt', 'w').write('{mark}')\n"
    said = await caller.run(
        "exited", language="python", code=shown + left, artifacts=[f"{mark}/*", f"{mark}.no"], **own
    )
    assert said.count(mark.encode()) > 3, "the program has said it"
    await caller.ask("GET", f"/api/jobs/{caller.jobs[-1]}/files/{mark}/{mark}.txt", 200)
    await caller.ask("GET", f"/api/jobs/{caller.jobs[-1]}/files/{mark}.no", 404)
    await caller.run("exited", language="python", code=f"raise ValueError('{mark}')", **own)
    await caller.run("exited", language="c", code=f"int main(void) {{ return {mark}; }}", **own)
    await caller.run("exited", language="c", code=f"/* {mark} */ int main(void) {{}}", **own)
    cases = [{"name": mark, "stdin": mark, "args": [mark], "env": {mark: mark}}]
    await caller.run("exited", language="python", code=shown, cases=cases, sandbox=sandbox)
    await caller.run(
        "wall_time",
        language="python",
        code=f"print('{mark}', flush=True)\nwhile True: pass",
        limits={"wallTimeS": 0.2},
        **own,
    )
    await caller.run(
        "output_limit",
        language="python",
        code=f"while True: print('{mark}' * 1000)",
        limits={"outputBytes": 10_000},
        **own,
    )
    await caller.run("exited", command=[mark], sandbox=sandbox)
    await caller.run("exited", command=["sh", "-c", f"echo {mark} >&2; exit 3"], sandbox=sandbox)
    files = [{"name": f"{mark}/{mark}.py", "content": f"print('{mark}')"}]
    await caller.run(
        "exited", language="python", files=files, entry=f"{mark}/{mark}.py", sandbox=sandbox
    )


async def refusals(caller: Caller) -> None:
    mark = caller.mark
    for body in (
        mark.encode(),
        json.dumps({"language": mark, "code": mark}).encode(),
        json.dumps({"language": "python", mark: mark}).encode(),
        json.dumps({"language": "python", "code": [mark]}).encode(),
        json.dumps(
            {"language": "python", "files": [{"name": f"../{mark}", "content": ""}]}
        ).encode(),
        json.dumps({"language": "python", "code": "", "env": {"": mark}}).encode(),
        json.dumps({"language": "python", "code": "", "sandbox": mark}).encode(),
        json.dumps({"language": "python", "code": "", "projectId": mark}).encode(),
    ):
        answer = await caller.ask("POST", "/api/execute", 400, data=body)
        assert b"problem" in answer or b"detail" in answer
    await caller.ask("POST", f"/api/execute?{mark}={mark}", 400, json={})
    await caller.ask("GET", f"/api/jobs?cursor={mark}", 400)
    await caller.ask("POST", "/api/execute/batch", 200, json=[{"language": mark}, {"code": mark}])


async def projects(caller: Caller) -> None:
    mark = caller.mark
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(f"{mark}/main.py", f"print('{mark}')")
    body = await caller.ask(
        *("POST", "/api/projects", 201),
        data=packed.getvalue(),
        headers={"Content-Type": "application/zip"},
    )
    project = json.loads(body)["projectId"]
    await caller.run("exited", language="python", projectId=project, entry=f"{mark}/main.py")
    broken = packed.getvalue().replace(b"main.py", b"../x.py")
    await caller.ask(
        *("POST", "/api/projects", 400), data=broken, headers={"Content-Type": "application/zip"}
    )


async def sessions(caller: Caller, sandbox: str) -> None:
    mark = caller.mark
    body = await caller.ask("POST", "/api/sessions", 201, json={"sandbox": sandbox})
    session = json.loads(body)["sessionId"]
    path = f"/api/sessions/{session}/files/{mark}.txt"
    await caller.ask("PUT", path, 200, data=mark.encode())
    await caller.ask("GET", path, 200)
    await caller.run("exited", command=["mkdir", f"{mark}.d"], sessionId=session)
    files = [{"name": f"{mark}.d", "content": mark}]  # what the job before has left is in the way
    await caller.run("sandbox_error", command=["true"], files=files, sessionId=session)
    await caller.ask("DELETE", f"/api/sessions/{session}", 204)


@pytest.mark.parametrize("sandbox", ["bwrap", "plain"])
async def test_what_callers_and_programs_write_is_in_no_line_and_no_metric(
    state: Path, need: Callable[[str], str], sandbox: str
) -> None:
    need(sandbox)
    mark = f"canary{secrets.token_hex(6)}"
    digest = hashlib.sha256(mark.encode()).hexdigest()
    options = {
        "logging.level": "debug",
        "logging.format": "json",
        "logging.access": "true",
        "sandbox.allow_command": "true",
        "sandbox.backend": sandbox,
        "auth.tokens": f'[{{tenant = "ann", sha256 = "{digest}", scopes = {SCOPES}}}]',
    }
    given = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
    async with serving(state, *given) as server:
        caller = Caller(server, mark)
        await everything(caller, sandbox)
        await sessions(caller, sandbox)
        await refusals(caller)
        await projects(caller)
        metrics = await caller.ask("GET", f"/metrics?access_token={mark}", 200)
        server.process.terminate()
        assert await asyncio.wait_for(server.process.wait(), 45) == 0
        log = await server.log
    assert mark.encode() not in metrics
    assert b'tenant="ann"' in metrics
    lines: list[Mapping[str, Any]] = [json.loads(line) for line in log.decode().splitlines()]
    found = [line for line in lines if mark in json.dumps(line)]
    assert found == []
    assert {line["level"] for line in lines} >= {"debug", "info"}
    assert all(line["node"].endswith(f":{server.process.pid}") for line in lines)
    over = {line["job_id"]: line for line in lines if line["logger"] == "streamer.jobs"}
    assert over.keys() >= {*caller.jobs}
    for job_id in caller.jobs:
        about = [line for line in lines if job_id in json.dumps(line)]
        assert len(about) > 2
        assert {(line["job_id"], line["tenant"]) for line in about} == {(job_id, "ann")}


def test_each_line_about_a_job_names_it_in_a_field() -> None:
    missing = []
    for path in sorted((ROOT / "streamer").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            first = call.args[0] if call.args else None
            if isinstance(first, ast.Starred) and isinstance(first.value, ast.Tuple):
                first = first.value.elts[0]
            if not isinstance(first, ast.Constant) or not isinstance(first.value, str):
                continue
            of_a_log = call.func.attr in ("debug", "info", "warning", "error", "exception")
            about_a_job = of_a_log and first.value.startswith(("job %s", "job_id=%s"))
            if about_a_job and not any(keyword.arg == "extra" for keyword in call.keywords):
                missing.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert missing == []
