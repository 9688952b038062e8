"""``POST /run_code`` on a real service, as the client and the tests of SandboxFusion ask for it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

import streamer
from tests.support import AnyClient

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = base64.b64encode(b"hello, this is a test").decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[AnyClient]:
    config = {
        "sandbox": {"backend": "bwrap"},
        "server": {"drain_s": 0},
        "streams": {"result_text_bytes": 1000},
        "compat": {"enabled": ["sandboxfusion"], "sandboxfusion": {"prefix": "/fusion"}},
    }
    async with TestClient(TestServer(streamer.create_app(config))) as client:
        yield client


async def run(client: AnyClient, **body: Any) -> dict[str, Any]:
    asked = {"compile_timeout": 10, "run_timeout": 5, "memory_limit_MB": -1, **body}
    async with client.post("/fusion/run_code", json=asked) as response:
        answer: dict[str, Any] = await response.json()
        return {"http": response.status, **answer}


@pytest.mark.parametrize(
    ("body", "status", "ended"),
    [
        (
            {"code": "print('hi')"},
            "Success",
            {"status": "Finished", "return_code": 0, "stdout": "hi\n"},
        ),
        ({"code": "print(int(input()))", "stdin": "65535"}, "Success", {"stdout": "65535\n"}),
        (
            {"code": "print(open('a/b/flag').read())", "files": {"a/b/flag": SECRET}},
            "Success",
            {"stdout": "hello, this is a test\n"},
        ),
        ({"code": "int a = 1"}, "Failed", {"status": "Finished", "return_code": 1}),
        (
            {"code": "print(1, flush=True)\nwhile True: pass", "run_timeout": 0.5},
            "Failed",
            {"status": "TimeLimitExceeded", "return_code": None, "stdout": "1\n"},
        ),
        (
            {"code": "x = bytearray(2**28)", "memory_limit_MB": 64},
            "Failed",
            {"status": "Finished", "return_code": -9, "stderr": "killed: memory\n"},
        ),
        ({"code": "print('x' * 5000)"}, "Success", {"stdout": "x" * 1000}),
        ({"code": "echo $((6 * 7))", "language": "bash"}, "Success", {"stdout": "42\n"}),
    ],
)
async def test_a_program_is_run_and_its_end_is_told(
    service: AnyClient, body: dict[str, Any], status: str, ended: dict[str, Any]
) -> None:
    answer = await run(service, **{"language": "python", **body})
    assert (answer["status"], answer["compile_result"]) == (status, None), answer
    assert answer["run_result"].items() >= ended.items()
    assert answer["run_result"]["execution_time"] >= 0


@pytest.mark.parametrize(
    ("code", "status", "compiled", "ran"),
    [
        ('#include <cstdio>\nint main() { std::puts("x"); }', "Success", 0, 0),
        ("int main() { return 3; }", "Failed", 0, 3),
        ("int main() {", "Failed", 1, None),
    ],
)
async def test_a_compiler_has_a_result_of_its_own(
    service: AnyClient, code: str, status: str, compiled: int, ran: int | None
) -> None:
    answer = await run(service, language="cpp", code=code)
    assert answer["status"] == status
    assert answer["compile_result"]["return_code"] == compiled
    assert bool(answer["compile_result"]["stderr"]) == bool(compiled)
    found = answer["run_result"] and answer["run_result"]["return_code"]
    assert found == ran


async def test_files_are_fetched_that_are_there(service: AnyClient) -> None:
    code = "open('a.txt', 'w').write('secret')"
    answer = await run(service, language="python", code=code, fetch_files=["./a.txt", "none"])
    assert answer["files"] == {"./a.txt": base64.b64encode(b"secret").decode()}


async def test_more_than_an_answer_may_have_is_not_fetched(service: AnyClient) -> None:
    code = "open('a', 'w').write('x' * 1001)"
    answer = await run(service, language="python", code=code, fetch_files=["a"])
    assert answer["http"] == 413
    assert "result_text_bytes" in answer["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {"language": "cuda", "code": ""},
        {"language": "python"},
        {"language": "python", "code": 3},
        {"language": "python", "code": "", "files": {"../x": SECRET}},
        {"language": "python", "code": "", "fetch_files": ["*"]},
    ],
)
async def test_a_wrong_request_is_refused_as_fastapi_does(
    service: AnyClient, body: dict[str, Any]
) -> None:
    answer = await run(service, **body)
    assert answer["http"] == 422
    assert isinstance(answer["detail"], str)


async def test_it_can_be_asked_whether_it_is_there(service: AnyClient) -> None:
    async with service.get("/fusion/v1/ping") as response:
        assert await response.json() == "pong"
