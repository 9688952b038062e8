"""Dify's routes on a real service: what its workflows send, and what its sandbox's tests ask for."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

import streamer
from tests.support import AnyClient
from tests.tools import tool

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY: Final = "dify-sandbox"
INPUTS: Final = base64.b64encode(b'{"a": "a"}').decode()
PYTHON: Final = f"""
def main(a):
    return {{"b": a}}

import json
from base64 import b64decode

inputs_obj = json.loads(b64decode("{INPUTS}").decode("utf-8"))
print(f"<<RESULT>>{{json.dumps(main(**inputs_obj))}}<<RESULT>>")
"""
NODE: Final = f"""
function main({{a}}) {{ return {{b: a}} }}
var inputs_obj = JSON.parse(Buffer.from('{INPUTS}', 'base64').toString('utf-8'))
console.log(`<<RESULT>>${{JSON.stringify(main(inputs_obj))}}<<RESULT>>`)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[AnyClient]:
    token = {"tenant": "dify", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}
    config = {
        "sandbox": {"backend": "bwrap"},
        "server": {"drain_s": 0},
        "limits": {"default": {"wall_time_s": 5}},
        "auth": {"tokens": [token]},
        "compat": {"enabled": ["dify"]},
    }
    headers = {"X-Api-Key": KEY}
    async with TestClient(TestServer(streamer.create_app(config)), headers=headers) as client:
        yield client


async def run(client: AnyClient, **body: Any) -> tuple[int, dict[str, Any]]:
    asked = {"language": "python3", "preload": "", "enable_network": True, **body}
    async with client.post("/dify/v1/sandbox/run", json=asked) as response:
        return response.status, await response.json()


@pytest.mark.parametrize(("language", "code"), [("python3", PYTHON), ("nodejs", NODE)])
async def test_the_program_of_a_code_node_is_run(
    service: AnyClient, language: str, code: str
) -> None:
    tool("node")
    status, answer = await run(service, language=language, code=code)
    assert (status, answer["code"], answer["message"]) == (200, 0, "success")
    assert answer["data"]["error"] == ""
    found = re.search("<<RESULT>>(.*)<<RESULT>>", answer["data"]["stdout"], re.DOTALL)
    assert found is not None
    assert json.loads(found[1]) == {"b": "a"}


async def test_what_a_program_logs_is_no_error(service: AnyClient) -> None:
    _, answer = await run(service, code="import sys\nprint('log', file=sys.stderr)")
    data = {"stdout": "", "stderr": "log\n", "error": "", "exit_code": 0}
    assert answer == {"code": 0, "message": "success", "data": data}


async def test_a_program_that_fails_is_a_success_with_an_error(service: AnyClient) -> None:
    status, answer = await run(service, code="raise ValueError('bad input')")
    assert (status, answer["code"], answer["data"]["exit_code"]) == (200, 0, 1)
    assert answer["data"]["error"].startswith("process exited with code 1\nTraceback")
    assert "bad input" in answer["data"]["error"]


async def test_the_preload_is_not_run(service: AnyClient) -> None:
    _, answer = await run(service, code="print(1)", preload="raise SystemExit(3)")
    assert answer["data"]["stdout"] == "1\n"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"language": "ruby", "code": ""}, 400, -400),
        ({"code": 3}, 200, -400),
        ({}, 200, -400),
    ],
)
async def test_a_refusal_has_a_negative_code(
    service: AnyClient, body: dict[str, Any], status: int, code: int
) -> None:
    found, answer = await run(service, **body)
    assert (found, answer["code"], answer["data"]) == (status, code, None)


async def test_without_its_key_nobody_runs_anything(service: AnyClient) -> None:
    headers = {"X-Api-Key": "wrong"}
    body = {"language": "python3", "code": "print(1)"}
    async with service.post("/dify/v1/sandbox/run", json=body, headers=headers) as response:
        assert response.status == 401
        assert (await response.json())["code"] == -401


async def test_dependencies_are_the_packages_of_an_environment(service: AnyClient) -> None:
    path = "/dify/v1/sandbox/dependencies"
    async with service.get(path, params={"language": "python3"}) as response:
        assert (await response.json())["data"] == {"dependencies": []}
    async with service.get(path, params={"language": "nodejs"}) as response:
        assert response.status == 400


async def test_it_is_alive(service: AnyClient) -> None:
    async with service.get("/dify/health", headers={"X-Api-Key": ""}) as response:
        assert await response.json() == "ok"
