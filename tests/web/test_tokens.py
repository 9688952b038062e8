"""Tokens of a file: created, revoked and expired while the service runs; and what each is good for."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from streamer.config.tokens import TokensFile, changed_tokens, new_token, read_tokens
from streamer.errors import ConfigError
from streamer.model.scopes import SCOPES, Scope
from streamer.web.operations.operation import Operation
from streamer.web.operations.table import OPERATIONS
from tests.conftest import Start
from tests.support import AnyClient
from tests.web import SLEEPER, job_of, problem, python


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def add(file: Path, tenant: str = "alice", **fields: Any) -> tuple[dict[str, str], str]:
    """Create a token; return the header for it, and its id."""
    token, stored = new_token(tenant, **fields)
    with changed_tokens(file) as tokens:
        tokens.append(stored)
    return bearer(token), stored.id


def revoke(file: Path, token_id: str) -> None:
    with changed_tokens(file) as tokens:
        tokens[:] = [one for one in tokens if one.id != token_id]


async def status_of(client: AnyClient, headers: dict[str, str]) -> int:
    async with client.get("/api/jobs", headers=headers) as response:
        return response.status


async def refusal(client: AnyClient, headers: dict[str, str]) -> str:
    async with client.get("/api/jobs", headers=headers) as response:
        return str((await problem(response, 401, "unauthorized"))["detail"])


async def test_a_token_is_valid_from_its_creation_until_it_is_revoked(
    start: Start, file: Path
) -> None:
    client = await start(auth={"tokens_file": str(file)})
    assert await refusal(client, {}), "a service with a file of tokens admits nobody without"
    first, first_id = add(file)
    second, _ = add(file)
    job_id = await job_of(client, first)
    async with client.get(f"/api/jobs/{job_id}", headers=second) as response:
        assert response.status == 200, "both are of one tenant"
    revoke(file, first_id)
    assert await refusal(client, first) == "unknown token"
    assert await status_of(client, second) == 200


async def test_a_token_expires(start: Start, file: Path) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    over, _ = add(file, expires=past)
    later, _ = add(file, expires=datetime.now(UTC) + timedelta(hours=1))
    fixed = {"tenant": "a", "sha256": hashlib.sha256(b"fixed").hexdigest()}
    client = await start(auth={"tokens_file": str(file), "tokens": [{**fixed, "expires": past}]})
    assert "expired" in await refusal(client, over)
    assert "expired" in await refusal(client, bearer("fixed"))
    assert await status_of(client, later) == 200


async def test_tokens_of_the_configuration_and_of_the_file_are_beside_each_other(
    start: Start, file: Path
) -> None:
    stored, _ = add(file, "alice")
    fixed = {"tenant": "bob", "sha256": hashlib.sha256(b"fixed").hexdigest().upper()}
    client = await start(auth={"tokens_file": str(file), "tokens": [fixed]})
    job_id = await job_of(client, stored)
    async with client.get(f"/api/jobs/{job_id}", headers=bearer("fixed")) as response:
        await problem(response, 404, "not_found")


@pytest.mark.parametrize("broken", ["{", "mode", "pipe"])
async def test_a_file_that_breaks_lets_nobody_in_and_shuts_nobody_out(
    start: Start, file: Path, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    revoked, revoked_id = add(file)
    known, _ = add(file)
    client = await start(auth={"tokens_file": str(file)})
    revoke(file, revoked_id)
    assert await status_of(client, revoked) == 401
    good = file.read_text()
    token, unknown = new_token("mallory")
    caplog.clear()
    if broken == "mode":
        with changed_tokens(file) as tokens:
            tokens.append(unknown)
        file.chmod(0o666)
    elif broken == "pipe":
        file.unlink()
        os.mkfifo(file, 0o600)
    else:
        file.write_text(broken)
    for _ in range(3):
        assert await status_of(client, known) == 200
        assert await status_of(client, revoked) == 401
        assert await status_of(client, bearer(token)) == 401
    (line,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert str(file) in line
    assert "still valid" in line
    file.unlink()
    file.write_text(good)
    file.chmod(0o600)
    new, _ = add(file)
    assert await status_of(client, new) == 200


async def test_a_file_that_cannot_be_read_for_a_moment_is_read_as_soon_as_it_can(
    start: Start, file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    revoked, revoked_id = add(file)
    client = await start(auth={"tokens_file": str(file)})
    revoke(file, revoked_id)
    opened = os.open

    def no_descriptor(path: Any, *how: int, **more: Any) -> int:
        if path == file:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opened(path, *how, **more)

    with monkeypatch.context() as without:
        without.setattr("streamer.config.tokens.os.open", no_descriptor)
        assert await status_of(client, revoked) == 200
    assert "Too many open files; the tokens that it had before are still valid" in caplog.text
    assert await status_of(client, revoked) == 401


async def test_a_file_is_read_beside_other_requests_and_before_those_with_tokens(
    start: Start, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it is written again while it is read."""
    (first, first_id), (second, second_id), (last, _) = (add(file) for _ in range(3))
    client = await start(auth={"tokens_file": str(file)})
    reading, go_on = threading.Event(), threading.Event()

    def slowly(path: Path) -> TokensFile:
        found = read_tokens(path)
        reading.set()
        assert go_on.wait(30), "other requests wait for it"
        return found

    monkeypatch.setattr("streamer.web.callers.tokens.read_tokens", slowly)
    revoke(file, first_id)
    async with asyncio.TaskGroup() as tasks:
        one = tasks.create_task(status_of(client, first))
        assert await asyncio.to_thread(reading.wait, 30)
        async with client.get("/healthz") as response:
            assert response.status == 200
        revoke(file, second_id)
        late = [tasks.create_task(status_of(client, headers)) for headers in (second, last)]
        async with client.get("/healthz") as response:
            assert response.status == 200
        go_on.set()
    assert [task.result() for task in (one, *late)] == [401, 401, 200]


async def test_who_leaves_while_a_file_is_read_has_it_read_once(
    start: Start, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revoked, revoked_id = add(file)
    client = await start(auth={"tokens_file": str(file)})
    reading, go_on, times = threading.Event(), threading.Event(), 0

    def slowly(path: Path) -> TokensFile:
        nonlocal times
        times += 1
        reading.set()
        assert go_on.wait(30)
        return read_tokens(path)

    monkeypatch.setattr("streamer.web.callers.tokens.read_tokens", slowly)
    revoke(file, revoked_id)
    for _ in range(3):
        leaving = asyncio.create_task(status_of(client, revoked))
        assert await asyncio.to_thread(reading.wait, 30)
        leaving.cancel()
        await asyncio.wait({leaving})
    last = asyncio.create_task(status_of(client, revoked))
    async with client.get("/healthz") as response:
        assert response.status == 200
    go_on.set()
    assert await last == 401
    assert times == 1


async def test_a_file_that_is_gone_admits_nobody(
    start: Start, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known, _ = add(file)
    client = await start(auth={"tokens_file": str(file)})
    assert await status_of(client, known) == 200
    file.unlink()
    assert await status_of(client, known) == 401
    assert "is gone, so it admits nobody" in caplog.text


async def test_with_a_broken_file_the_service_does_not_start(start: Start, file: Path) -> None:
    file.write_text("{")
    file.chmod(0o600)
    with pytest.raises(ConfigError, match=r"auth\.tokens_file"):
        await start(auth={"tokens_file": str(file)})


async def test_a_file_that_others_may_read_is_told(
    start: Start, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known, _ = add(file)
    file.chmod(0o644)
    client = await start(auth={"tokens_file": str(file)})
    assert await status_of(client, known) == 200
    assert f"other accounts may read {file}" in caplog.text


NEEDS: dict[str, Scope | None] = {
    "execute": "run",
    "executeBatch": "run",
    "listJobs": "read",
    "showJob": "read",
    "cancelJob": "run",
    "writeInput": "run",
    "sendSignal": "run",
    "resizeTerminal": "run",
    "createGrant": "run",
    "listFiles": "read",
    "readFile": "read",
    "followJob": "read",
    "followJobs": "read",
    "readOutput": "read",
    "readRecording": "read",
    "listReaders": "read",
    "uploadProject": "upload",
    "showProject": "read",
    "deleteProject": "upload",
    "openSession": "run",
    "listSessions": "read",
    "showSession": "read",
    "endSession": "run",
    "listSessionFiles": "read",
    "readSessionFile": "read",
    "writeSessionFile": "run",
    "removeSessionFile": "run",
    "listRuntimes": "read",
    "listSandboxes": "read",
    "showQueue": "read",
    "checkHealth": None,
    "checkReadiness": None,
    "readMetrics": "metrics",
    "showOpenApi": None,
    "showDocs": None,
    "showPlayground": None,
}
"""What each route needs; None for those that are open to everybody."""


def address(operation: Operation) -> str:
    path = re.sub(r"{\w+_id}", "a" * 26, operation.path)
    path = path.replace("{stream}", "stdout").replace("{path}", "a.txt")
    return f"{path}?job={'a' * 26}" if operation.id == "followJobs" else path


@pytest.fixture
async def each_scope(start: Start, file: Path) -> tuple[AnyClient, dict[Scope, dict[str, str]]]:
    tokens = {scope: add(file, scopes=(scope,))[0] for scope in SCOPES}
    return await start(auth={"tokens_file": str(file)}), tokens


async def test_each_route_needs_its_scope_and_no_other(
    each_scope: tuple[AnyClient, dict[Scope, dict[str, str]]],
) -> None:
    client, tokens = each_scope
    assert [operation.id for operation in OPERATIONS] == [*NEEDS]
    for operation in OPERATIONS:
        needed = NEEDS[operation.id]
        methods = [operation.method]
        if operation.method == "GET" and operation.head:
            methods.append("HEAD")
        for method in methods:
            for scope, headers in tokens.items():
                async with client.request(method, address(operation), headers=headers) as response:
                    refused = response.status == 403
                    assert response.status != 401
                    assert refused == (needed not in (None, scope)), (operation.id, scope)
                    if refused and method != "HEAD":
                        document = await problem(response, 403, "forbidden")
                        assert f"scope {needed}" in document["detail"]


async def test_a_scope_is_not_widened_by_the_way_it_is_asked(
    each_scope: tuple[AnyClient, dict[Scope, dict[str, str]]],
) -> None:
    client, tokens = each_scope
    job_id = await job_of(client, tokens["run"])
    reader = tokens["read"]["Authorization"].removeprefix("Bearer ")
    override = {"X-HTTP-Method-Override": "DELETE", "X-HTTP-Method": "DELETE"}
    attempts: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/api/execute", {"headers": tokens["read"], "json": SLEEPER}),
        ("POST", "/api/execute/batch", {"headers": tokens["read"], "json": [SLEEPER]}),
        ("POST", f"/api/execute?access_token={reader}", {"json": SLEEPER}),
        ("POST", "/api/execute", {"headers": tokens["upload"], "json": SLEEPER}),
        ("POST", "/api/sessions", {"headers": tokens["upload"], "json": {}}),
        ("DELETE", f"/api/jobs/{job_id}", {"headers": tokens["read"]}),
        ("DELETE", f"/api/jobs/{job_id}?purge=1", {"headers": tokens["read"]}),
        ("DELETE", f"/api/jobs/{job_id}?access_token={reader}", {}),
        ("POST", f"/api/jobs/{job_id}/stdin", {"headers": tokens["read"], "data": b"x"}),
        ("GET", f"/api/jobs/{job_id}", {"headers": tokens["run"]}),
        ("GET", f"/api/stream/{job_id}", {"headers": tokens["run"]}),
        ("GET", f"/api/jobs/{job_id}", {"headers": {**tokens["metrics"], **override}}),
        ("GET", "/metrics", {"headers": tokens["read"]}),
    ]
    for method, path, options in attempts:
        async with client.request(method, path, **options) as response:
            assert response.status in (401, 403), (method, path)
    async with client.get(
        f"/api/jobs/{job_id}", headers={**tokens["read"], **override}
    ) as response:
        assert (await response.json())["status"] in ("queued", "preparing", "running")


async def test_only_who_may_read_a_job_lets_others_read_it(
    each_scope: tuple[AnyClient, dict[Scope, dict[str, str]]], file: Path
) -> None:
    client, tokens = each_scope
    job_id = await job_of(client, tokens["run"])
    both, _ = add(file, scopes=("run", "read"))
    for headers, missing in ((tokens["run"], "read"), (tokens["read"], "run"), (both, None)):
        async with client.post(f"/api/jobs/{job_id}/grants", headers=headers) as response:
            if missing is None:
                assert response.status == 201
            else:
                document = await problem(response, 403, "forbidden")
                assert f"scope {missing}" in document["detail"]


async def test_the_addresses_of_other_readers_need_the_scope_to_run(
    each_scope: tuple[AnyClient, dict[Scope, dict[str, str]]], file: Path
) -> None:
    client, tokens = each_scope
    job_id = await job_of(client, tokens["run"])
    both, _ = add(file, scopes=("run", "read"))
    async with client.get(f"/api/stream/{job_id}", headers=both) as stream:
        await stream.content.readline()
        for headers, told in ((both, "127.0.0.1"), (tokens["read"], None)):
            async with client.get(f"/api/jobs/{job_id}/sessions", headers=headers) as response:
                assert [one["peer"] for one in (await response.json())["sessions"]] == [told]


async def test_a_token_in_an_address_is_logged_nowhere(
    start: Start, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    headers, _ = add(file)
    token = headers["Authorization"].removeprefix("Bearer ")
    client = await start(
        auth={"tokens_file": str(file)}, logging={"level": "debug", "access": True}
    )
    caplog.set_level(logging.DEBUG)
    for path in ("/api/jobs", "/api/nothing", f"/api/jobs/{'a' * 26}", "/api/stream?job=!"):
        for sent in (token, f"{token[:-1]}x"):
            joined = "&" if "?" in path else "?"
            async with client.get(f"{path}{joined}access_token={sent}") as response:
                assert response.headers["Referrer-Policy"] == "no-referrer"
                assert token[:-1] not in await response.text()
            async with client.get(path, headers=bearer(sent)) as response:
                assert token[:-1] not in await response.text()
    # But for the log of the test's own server; `tests/test_process.py` has that of `streamer serve`.
    said = [r.getMessage() for r in caplog.records if r.name != "aiohttp.access"]
    assert token[:-1] not in "\n".join(said)


ODD = [
    "a/b",
    "../a",
    "a b",
    "A",
    "a",
    "ü",
    "u\u0308",
    "a\u200b",
    "true",
    "''; DROP",
    "{a}",
    "x" * 200,
]


async def test_tenants_with_odd_names_are_told_apart(start: Start, file: Path) -> None:
    callers = {name: add(file, name)[0] for name in ODD}
    client = await start(auth={"tokens_file": str(file)})
    jobs = {name: await job_of(client, headers, **python("1")) for name, headers in callers.items()}
    for headers in callers.values():
        async with client.get("/api/jobs", headers=headers) as response:
            (listed,) = (await response.json())["jobs"]
        statuses = []
        for job_id in jobs.values():
            async with client.get(f"/api/jobs/{job_id}", headers=headers) as response:
                statuses.append((job_id == listed["jobId"], response.status))
        assert sorted(statuses) == [*[(False, 404)] * (len(ODD) - 1), (True, 200)]
