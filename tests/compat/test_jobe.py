"""Runs of Jobe on a real service: what its own `testsubmit.py` asks for, and its refusals."""

from __future__ import annotations

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

import streamer
from tests.conftest import Start
from tests.support import AnyClient
from tests.tools import tool

API: Final = "/jobe/index.php/restapi"
TOKEN: Final = "2AAA7A5415B4A9B394B54BF1D2E9D"
of_one_service = pytest.mark.asyncio(loop_scope="module")

HELLO_C: Final = '#include <stdio.h>\nint main() { printf("Hello world\\n"); }\n'
FORKS: Final = """\
#include <unistd.h>
#include <stdio.h>
int main() {
    int successes = 0;
    for (int i = 0; i < 1000; i++) {
        int pid = fork();
        if (pid == 0) pause();
        if (pid > 0) successes++;
    }
    printf("%s\\n", successes > 5 && successes <= 20 ? "OK" : "not so");
}
"""
ALLOCATES: Final = """\
#include <stdio.h>
#include <stdlib.h>
int main() { puts(malloc(2000000000) ? "it has the memory" : "Memory limit worked"); }
"""
RECURSES: Final = """\
#include <stdio.h>
void silly(int i, int more) { if (i == 0) puts(""); else silly(i + more, more); }
int main() { silly(3, 1); }
"""
JAVA: Final = """\
public class Test {
    public static void main(String[] args) { System.out.println("Un rôle délétère"); }
}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[AnyClient]:
    config = {
        "sandbox": {"backend": "bwrap"},
        "server": {"drain_s": 0},
        "compat": {"enabled": ["jobe"], "jobe": {"file_cache_bytes": 100_000}},
    }
    async with TestClient(TestServer(streamer.create_app(config))) as client:
        yield client


async def run(client: AnyClient, **spec: Any) -> tuple[int, Any]:
    async with client.post(f"{API}/runs/", json={"run_spec": spec}) as response:
        return response.status, await response.json()


@pytest.mark.parametrize(
    ("language", "source", "more", "outcome", "stdout"),
    [
        ("python3", "print(input())\nprint(input())", {"input": "a\nb\n"}, 15, "a\nb\n"),
        ("python3", 'print("Hello world!"', {}, 11, ""),
        ("python3", "print([1, 2][2])", {}, 12, ""),
        ("python3", "print('Un rôle délétère')", {}, 15, "Un rôle délétère\n"),
        (
            "python3",
            "",
            {"parameters": {"interpreterargs": [r'-c "print(\"Blah\")"']}},
            15,
            "Blah\n",
        ),
        (
            "python3",
            "import sys\nprint(sys.argv[1:])",
            {"parameters": {"runargs": ["A1", "A2"]}},
            15,
            "['A1', 'A2']\n",
        ),
        ("c", HELLO_C, {"sourcefilename": "prog.c"}, 15, "Hello world\n"),
        ("c", HELLO_C.replace(");", ")"), {"sourcefilename": "prog.c"}, 11, ""),
        ("c", "int main() { int unused; return 0; }", {}, 11, ""),
        (
            "c",
            "int main() { int unused; return 0; }",
            {"parameters": {"compileargs": ["-std=c99"]}},
            15,
            "",
        ),
        ("c", HELLO_C, {"parameters": {"compileargs": ["std=c89"]}}, 11, ""),
        ("c", "int main() { return *(int *)0; }", {}, 12, ""),
        ("c", "int main() { while (1) {} }", {"parameters": {"cputime": 1}}, 13, ""),
        (
            "c",
            '#include <stdio.h>\nint main() { while (1) printf("Hello"); }',
            {"parameters": {"streamsize": 0.001}},
            13,
            "Hello" * 204 + "Hell",
        ),
        ("c", ALLOCATES, {}, 15, "Memory limit worked\n"),
        ("c", RECURSES, {"parameters": {"compileargs": ["-O0"]}}, 12, ""),
        ("c", FORKS, {"parameters": {"numprocs": 20}}, 15, "OK\n"),
        (
            "c",
            '#include <stdio.h>\nint main() { printf("x\\01\\300\\311\\n"); }',
            {},
            15,
            "x\\x01\\xc0\\xc9\n",
        ),
        (
            "cpp",
            '#include <cstdio>\nint main() { std::puts("hello"); }',
            {"sourcefilename": "prog.cpp"},
            15,
            "hello\n",
        ),
    ],
)
@of_one_service
async def test_a_run_has_the_outcome_that_jobe_gives(
    service: AnyClient,
    language: str,
    source: str,
    more: dict[str, Any],
    outcome: int,
    stdout: str,
) -> None:
    status, result = await run(service, language_id=language, sourcecode=source, **more)
    assert status == 200, result
    assert (result["outcome"], result["stdout"]) == (outcome, stdout), result
    assert bool(result["cmpinfo"]) == (outcome == 11)


@pytest.mark.parametrize(
    ("needs", "language", "source", "outcome", "stdout"),
    [
        ("node", "nodejs", "console.log('Hello world!')", 15, "Hello world!\n"),
        ("node", "nodejs", "s = 'Hello world!", 12, ""),
        ("php", "php", '<h1><?php echo "A"; ?></h1>\n', 15, "<h1>A</h1>\n"),
        ("php", "php", "<?php echo \"A' ?>", 11, ""),
        ("javac", "java", JAVA, 15, "Un rôle délétère\n"),
        ("javac", "java", JAVA.replace(");", ")"), 11, ""),
    ],
)
@of_one_service
async def test_the_other_languages_of_jobe(
    service: AnyClient, needs: str, language: str, source: str, outcome: int, stdout: str
) -> None:
    tool(needs)
    more = {"parameters": {"cputime": 20, "memorylimit": 1_000_000}}
    _, result = await run(service, language_id=language, sourcecode=source, **more)
    assert (result["outcome"], result["stdout"]) == (outcome, stdout), result


@of_one_service
async def test_a_java_program_with_a_class_in_a_file(service: AnyClient) -> None:
    tool("javac")
    thing = 'public class Thing { void say() { System.out.println("Farewell"); } }'
    assert await put(service, "thingofjava", thing.encode()) == 204
    main = "public class A { public static void main(String[] a) { new Thing().say(); } }"
    listed = [["thingofjava", "Thing.java"]]
    more = {"parameters": {"cputime": 20}}
    _, result = await run(service, language_id="java", sourcecode=main, file_list=listed, **more)
    assert (result["outcome"], result["stdout"]) == (15, "Farewell\n"), result


async def put(client: AnyClient, file_id: str, content: bytes) -> int:
    body = {"file_contents": b64encode(content).decode()}
    async with client.put(f"{API}/files/{file_id}", json=body) as response:
        return response.status


@of_one_service
async def test_a_missing_file_is_put_and_the_run_repeated(service: AnyClient) -> None:
    spec = {
        "language_id": "python3",
        "sourcecode": "print(open('data.txt').read())",
        "file_list": [["d41d8cd98f00", "data.txt"]],
    }
    missing = "One or more of the specified files is missing/unavailable"
    assert await run(service, **spec) == (404, missing)
    assert (await service.head(f"{API}/files/d41d8cd98f00")).status == 404
    assert await put(service, "d41d8cd98f00", b"here") == 204
    assert (await service.head(f"{API}/files/d41d8cd98f00")).status == 204
    _, result = await run(service, **spec)
    assert result["stdout"] == "here\n"


@of_one_service
async def test_files_that_cannot_be_kept_are_refused(service: AnyClient) -> None:
    assert await put(service, "toolargeforit", bytes(100_000)) == 500
    wrong: list[Any] = [{}, {"file_contents": 3}, {"file_contents": "%"}, [], "x"]
    for body in wrong:
        async with service.put(f"{API}/files/abcdefgh", json=body) as response:
            assert response.status == 400, body
            assert isinstance(await response.json(), str)


@of_one_service
async def test_the_languages_are_listed_with_their_versions(service: AnyClient) -> None:
    async with service.get(f"{API}/languages") as response:
        listed = dict(await response.json())
    assert {"python3", "c", "cpp"} <= listed.keys()
    assert "nosuchlanguage" not in listed


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"run_spec": {"sourcecode": "", "language_id": "x"}}', "Language 'x' is not known"),
        ("{", "the body is not as expected"),
        ("[]", "the body is not as expected"),
    ],
)
@of_one_service
async def test_a_refusal_is_a_text_in_json(service: AnyClient, body: str, message: str) -> None:
    async with service.post(f"{API}/runs", data=body) as response:
        assert response.status == 400
        assert str(await response.json()).startswith(message)


@of_one_service
async def test_how_an_overloaded_server_answers_can_be_asked(service: AnyClient) -> None:
    asked = {"language_id": "python3", "sourcecode": "!** TESTING OVERLOAD EXCEPTION **!"}
    status, result = await run(service, **asked)
    assert (status, result["outcome"], result["stdout"]) == (200, 21, "")


async def test_a_full_queue_is_an_overloaded_server(start: Start) -> None:
    client = await start(compat={"enabled": ["jobe"]}, queue={"concurrency": 1, "max_waiting": 1})
    body = {"language": "bash", "code": "echo on; read x", "interactive": True}
    for _ in range(2):
        async with client.post("/api/execute", json=body) as response:
            assert response.status == 202
    status, result = await run(client, language_id="python3", sourcecode="print(1)")
    assert (status, result["outcome"]) == (200, 21)


async def test_the_token_comes_in_jobes_header_and_tenants_are_apart(start: Start) -> None:
    tokens = [
        {"tenant": name, "sha256": hashlib.sha256(token.encode()).hexdigest()}
        for name, token in (("ann", TOKEN), ("bob", "another"))
    ]
    client = await start(compat={"enabled": ["jobe"]}, auth={"tokens": tokens})
    for headers in ({}, {"X-API-KEY": "wrong"}):
        async with client.get(f"{API}/languages", headers=headers) as response:
            assert response.status == 403
            assert isinstance(await response.json(), str)
    body = {"file_contents": ""}
    ann, bob = ({"X-API-KEY": token} for token in (TOKEN, "another"))
    async with client.put(f"{API}/files/abcdefgh", json=body, headers=ann) as response:
        assert response.status == 204
    assert (await client.head(f"{API}/files/abcdefgh", headers=ann)).status == 204
    assert (await client.head(f"{API}/files/abcdefgh", headers=bob)).status == 404


async def test_a_run_is_cancelled_when_its_caller_leaves(start: Start) -> None:
    client = await start(compat={"enabled": ["jobe"]})
    spec = {"language_id": "python3", "sourcecode": "import time\ntime.sleep(60)"}
    asking = asyncio.create_task(
        client.post(f"{API}/runs", json={"run_spec": {**spec, "parameters": {"cputime": 50}}})
    )
    service = streamer.get_service(client.server.app)  # type: ignore[attr-defined]
    while not (jobs := await service.list()):
        await asyncio.sleep(0)
    asking.cancel()
    end = await service.job(jobs[0].job.job_id).result()
    assert getattr(end, "reason", None) == "cancelled"
