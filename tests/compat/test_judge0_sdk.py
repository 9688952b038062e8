"""Judge0's own SDK for Python, which gets nothing but the address and a token."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import judge0
from judge0 import LanguageAlias, Status, Submission

from tests.compat.serving import served

TOKEN = "a-token"
ADDS = "print(sum(map(int, input().split())))"


def used(address: str) -> None:
    """Use the SDK as its documentation does; it waits by sleeping, so it has a thread."""
    client = judge0.Client(
        address, {"X-Auth-Token": TOKEN}, retry_strategy=judge0.RegularPeriodRetry(0.05)
    )
    assert client.version == "1.13.1"

    hello = judge0.run(client=client, source_code="print('hello')", language=LanguageAlias.PYTHON)
    assert (hello.stdout, hello.status, hello.source_code) == (
        "hello\n",
        Status.ACCEPTED,
        "print('hello')",
    )
    assert hello.time is not None

    adds = Submission(source_code=ADDS, language=LanguageAlias.PYTHON)
    cases = [judge0.TestCase("1 2", "3"), judge0.TestCase("2 2", "5"), ("20 22", "42")]
    results = judge0.run(client=client, submissions=adds, test_cases=cases)
    found = [(one.stdin, one.stdout, one.status) for one in results]
    assert found == [
        ("1 2", "3\n", Status.ACCEPTED),
        ("2 2", "4\n", Status.WRONG_ANSWER),
        ("20 22", "42\n", Status.ACCEPTED),
    ]

    endless = Submission(source_code="while True: pass", language=71, cpu_time_limit=0.3)
    assert judge0.run(client=client, submissions=endless).status is Status.TIME_LIMIT_EXCEEDED
    broken = judge0.run(
        client=client, source_code="int main() { return x; }", language=LanguageAlias.CPP
    )
    assert broken.status is Status.COMPILATION_ERROR
    assert "was not declared" in broken.compile_output


async def test_the_sdk_runs_programs_here() -> None:
    token: dict[str, Any] = {"tenant": "ann", "sha256": hashlib.sha256(TOKEN.encode()).hexdigest()}
    async with served("judge0", auth={"tokens": [token]}) as client:
        await asyncio.to_thread(used, str(client.make_url("/judge0")))
