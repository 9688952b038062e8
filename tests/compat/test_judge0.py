"""Judge0's interface: what its documentation promises, in its words."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient

from streamer.errors import ConfigError
from tests.compat.serving import served

Client = TestClient[Any, Any]
PYTHON = 71
C = 50
IN_C = '#include <stdio.h>\nint main(void) { char name[10]; scanf("%s", name); printf("hello, %s\\n", name); }'

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def judge() -> AsyncIterator[Client]:
    async with served("judge0") as client:
        yield client


def asked(code: str, language: int = PYTHON, **more: Any) -> dict[str, Any]:
    return {"source_code": code, "language_id": language, **more}


async def judged(
    client: Client, body: dict[str, Any], status: int = 201, **query: str
) -> dict[str, Any]:
    params = {"wait": "true", **query}
    async with client.post("/judge0/submissions", json=body, params=params) as response:
        found: dict[str, Any] = await response.json()
        assert response.status == status, found
        return found


async def got(client: Client, path: str, status: int = 200) -> Any:
    async with client.get(f"/judge0{path}") as response:
        found = await response.json()
        assert response.status == status, found
        return found


async def test_a_submission_that_is_waited_for(judge: Client) -> None:
    found = await judged(judge, asked(IN_C, C, stdin="Judge0", expected_output="hello, Judge0"))
    assert [*found] == [
        "token",
        "time",
        "memory",
        "stdout",
        "stderr",
        "compile_output",
        "message",
        "status",
    ]
    assert found["status"] == {"id": 3, "description": "Accepted"}
    assert (found["stdout"], found["stderr"], found["compile_output"]) == (
        "hello, Judge0\n",
        None,
        None,
    )
    assert float(found["time"]) >= 0
    assert str(uuid.UUID(found["token"])) == found["token"]
    assert 0 < found["memory"] < 100_000, "that of the program, and not of its compiler"


async def test_a_submission_that_is_asked_for_later(judge: Client) -> None:
    body = asked("print(input())", stdin="typed", command_line_arguments="", cpu_time_limit="2")
    token = (await judged(judge, body, wait="false"))["token"]
    path = f"/submissions/{token}"
    async with asyncio.timeout(20):
        while (found := await got(judge, path))["status"]["id"] in (1, 2):
            assert found["stdout"] is None
    assert (found["status"]["id"], found["stdout"]) == (3, "typed\n")
    whole = await got(judge, f"{path}?fields=*")
    assert (whole["source_code"], whole["stdin"]) == ("print(input())", "typed")
    assert (whole["language"]["id"], whole["cpu_time_limit"], whole["exit_code"]) == (71, 2, 0)
    assert whole["language"]["name"].startswith("Python")
    assert whole["created_at"] <= whole["finished_at"]
    some = await got(judge, f"{path}?fields=status_id,stdout&base64_encoded=true")
    assert some == {"status_id": 3, "stdout": "dHlwZWQK\n"}
    said = await got(judge, f"{path}?fields=status,nothing", 400)
    assert said == {"error": "invalid fields: [nothing]"}


@pytest.mark.parametrize(
    ("code", "more", "status", "message"),
    [
        ("print(1)", {"expected_output": "1  \n\n"}, 3, None),
        ("print(1)", {"expected_output": "2"}, 4, None),
        ("while True: pass", {"cpu_time_limit": 0.3}, 5, "Time limit exceeded"),
        (
            "import time; time.sleep(9)",
            {"wall_time_limit": 1},
            5,
            "Time limit exceeded (wall clock)",
        ),
        ("import os; os.kill(os.getpid(), 11)", {}, 7, "Caught fatal signal 11"),
        (
            "import signal; signal.signal(25, signal.SIG_DFL); signal.raise_signal(25)",
            {},
            8,
            "Caught fatal signal 25",
        ),
        ("import os; os.kill(os.getpid(), 8)", {}, 9, "Caught fatal signal 8"),
        ("import os; os.abort()", {}, 10, "Caught fatal signal 6"),
        ("raise SystemExit(3)", {}, 11, "Exited with error status 3"),
        ("import os; os.kill(os.getpid(), 9)", {}, 12, "Caught fatal signal 9"),
        ("x = bytearray(10**9)", {"memory_limit": 50_000}, 12, "Memory limit exceeded"),
        ("print('x' * 3_000_000)", {}, 8, "Output limit exceeded"),
    ],
)
async def test_how_a_submission_ends(
    judge: Client, code: str, more: dict[str, Any], status: int, message: str | None
) -> None:
    found = await judged(judge, asked(code, **more))
    assert (found["status"]["id"], found["message"]) == (status, message)


async def test_a_program_that_does_not_compile(judge: Client) -> None:
    found = await judged(judge, asked("int main(void) { return x; }", C), fields="*")
    assert found["status"] == {"id": 6, "description": "Compilation Error"}
    assert "undeclared" in found["compile_output"]
    empty = ("stdout", "stderr", "time", "wall_time", "memory", "exit_code", "message")
    assert [found[name] for name in empty] == [None] * len(empty)


async def test_bytes_are_exact_in_base64_and_refused_as_text(judge: Client) -> None:
    code = "import sys; sys.stdout.buffer.write(bytes(range(256)) + sys.stdin.buffer.read())"
    encoded = {
        "source_code": base64.b64encode(code.encode()).decode(),
        "stdin": base64.encodebytes(b"\xff\x00").decode(),
        "expected_output": base64.b64encode(bytes(range(256)) + b"\xff\x00").decode(),
    }
    found = await judged(judge, {**asked(""), **encoded}, base64_encoded="true")
    assert base64.b64decode(found["stdout"]) == bytes(range(256)) + b"\xff\x00"
    assert found["status"]["id"] == 3
    assert max(map(len, found["stdout"].splitlines())) == 60
    said = "some attributes for this submission cannot be converted to UTF-8, use base64_encoded=true query parameter"
    assert await got(judge, f"/submissions/{found['token']}", 400) == {"error": said}
    plain = await judged(judge, asked("import sys; sys.stdout.buffer.write(b'\\xff')"))
    assert (plain["error"], "token" in plain) == (said, True)
    refused = await judged(judge, asked("A"), 400, base64_encoded="true")
    assert refused == {"error": "source_code is not valid base64"}


async def test_arguments_several_runs_and_one_stream(judge: Client) -> None:
    code = "import sys; print(sys.argv[1:], flush=True); print('e', file=sys.stderr)"
    more = {
        "command_line_arguments": "a 'b c' $(d)",
        "number_of_runs": 3,
        "redirect_stderr_to_stdout": True,
        "expected_output": "['a', 'b c', '(d)']\ne",
    }
    found = await judged(judge, {**asked(code), **more})
    assert (found["status"]["id"], found["stderr"]) == (3, None)
    assert found["stdout"] == "['a', 'b c', '(d)']\ne\n"


@pytest.mark.parametrize(
    ("changes", "errors"),
    [
        ({"source_code": " "}, {"source_code": ["can't be blank"]}),
        (
            {"language_id": None},
            {"language_id": ["can't be blank", "language with id  doesn't exist"]},
        ),
        ({"language_id": 150000}, {"language_id": ["language with id 150000 doesn't exist"]}),
        (
            {"wall_time_limit": 100000, "memory_limit": 1, "stack_limit": "x"},
            {
                "wall_time_limit": ["must be less than or equal to 600"],
                "memory_limit": ["must be greater than or equal to 4096"],
                "stack_limit": ["is not a number"],
            },
        ),
        ({"number_of_runs": 21}, {"number_of_runs": ["must be less than or equal to 20"]}),
        ({"cpu_time_limit": "nan"}, {"cpu_time_limit": ["is not a number"]}),
        (
            {"callback_url": "https://example.org"},
            {"callback_url": ["setting callback is not allowed"]},
        ),
        ({"enable_network": True}, {"enable_network": ["enabling network is not allowed"]}),
        (
            {"compiler_options": "-O2", "additional_files": "UEsF"},
            {
                "compiler_options": ["setting compiler options is not allowed"],
                "additional_files": ["setting additional files is not allowed"],
            },
        ),
        (
            {"command_line_arguments": "x" * 513},
            {"command_line_arguments": ["is too long (maximum is 512 characters)"]},
        ),
        ({"stdin": 5}, {"stdin": ["is not a text"]}),
    ],
)
async def test_an_invalid_submission_is_refused_by_field(
    judge: Client, changes: dict[str, Any], errors: dict[str, list[str]]
) -> None:
    assert await judged(judge, {**asked("print(1)"), **changes}, 422) == errors


async def test_a_batch(judge: Client) -> None:
    path = "/judge0/submissions/batch"
    batch = [asked("print(1)"), asked("", 1), asked(IN_C, C, stdin="x")]
    async with judge.post(path, json={"submissions": batch}) as response:
        assert response.status == 201
        first, wrong, third = await response.json()
    assert [*wrong] == ["source_code", "language_id"]
    tokens = ",".join((first["token"], str(uuid.uuid4()), third["token"]))
    async with asyncio.timeout(20):
        while True:
            found = (await got(judge, f"/submissions/batch?tokens={tokens}"))["submissions"]
            if all(one is None or one["status"]["id"] > 2 for one in found):
                break
    assert [one and one["stdout"] for one in found] == ["1\n", None, "hello, x\n"]
    refusals: tuple[tuple[list[dict[str, Any]], str], ...] = (
        ([], "there should be at least one submission in a batch"),
        ([{}] * 21, "number of submissions in a batch should be less than or equal to 20"),
    )
    for many, said in refusals:
        async with judge.post(path, json={"submissions": many}) as response:
            assert (response.status, await response.json()) == (400, {"error": said})


async def test_a_submission_can_be_deleted_once_it_is_over(judge: Client) -> None:
    token = (await judged(judge, asked("import time; time.sleep(60)"), wait="false"))["token"]
    path = f"/judge0/submissions/{token}"
    async with judge.delete(path) as response:
        said = (await response.json())["error"]
        assert response.status == 400
        assert said.startswith("submission cannot be deleted because its status is ")
    done = await judged(judge, asked("print(1)"))
    async with judge.delete(f"/judge0/submissions/{done['token']}") as response:
        assert (response.status, (await response.json())["stdout"]) == (200, "MQo=\n")
    await got(judge, f"/submissions/{done['token']}", 404)


async def test_what_is_no_submission_is_unknown(judge: Client) -> None:
    async with judge.post("/api/execute", json={"language": "bash", "code": ""}) as response:
        job_id = (await response.json())["jobId"]
    token = uuid.UUID(bytes=base64.b32decode(f"{job_id.upper()}======"))
    for one in (token, uuid.uuid4(), "nonsense"):
        assert [*await got(judge, f"/submissions/{one}", 404)] == ["error"]


async def test_what_it_tells_of_itself(judge: Client) -> None:
    languages = await got(judge, "/languages")
    names = {one["id"]: one["name"] for one in languages}
    assert names[PYTHON].startswith("Python")
    assert {C, 54, 62, 63, 113} <= names.keys()
    one = await got(judge, f"/languages/{C}")
    assert (one["id"], one["source_file"], one["is_archived"]) == (C, "main.c", False)
    await got(judge, "/languages/1", 404)
    assert len(await got(judge, "/languages/all")) == len(languages)
    statuses = await got(judge, "/statuses")
    assert [one["id"] for one in statuses] == [*range(1, 15)]
    config = await got(judge, "/config_info")
    assert (config["max_wall_time_limit"], config["memory_limit"]) == (600, 262_144)
    assert (await got(judge, "/about"))["version"] == "1.13.1"


async def test_languages_may_be_mapped() -> None:
    mapping = {"languages": {"1000": "bash", "71": ""}}
    async with served("judge0", compat={"judge0": mapping}) as client:
        assert (await judged(client, asked("echo hi", 1000)))["stdout"] == "hi\n"
        await judged(client, asked("print(1)"), 422)
    with pytest.raises(ConfigError, match=r"compat.judge0.languages.py: write the number"):
        async with served("judge0", compat={"judge0": {"languages": {"py": "python"}}}):
            pass


async def test_tokens_of_callers_and_a_full_queue() -> None:
    tokens = [
        {"tenant": name, "sha256": hashlib.sha256(name.encode()).hexdigest()}
        for name in ("ann", "bob")
    ]
    queue = {"concurrency": 1, "max_waiting": 1, "max_per_client": 1}
    async with served("judge0", auth={"tokens": tokens}, queue=queue) as client:
        ann, bob = ({"X-Auth-Token": name} for name in ("ann", "bob"))
        path = "/judge0/submissions"
        sleeping = asked("import time; time.sleep(60)")
        async with client.post(path, json=sleeping) as response:
            assert (response.status, [*await response.json()]) == (401, ["error"])
        async with client.post(path, json=sleeping, headers=ann) as response:
            token = (await response.json())["token"]
        for headers, status in ((ann, 200), (bob, 404)):
            async with client.get(f"{path}/{token}", headers=headers) as response:
                assert response.status == status
        statuses = set()
        for headers in (ann, bob, ann, bob):
            async with client.post(path, json=sleeping, headers=headers) as response:
                statuses.add(response.status)
                said = await response.json()
        assert statuses & {429, 503}
        assert "error" in said
