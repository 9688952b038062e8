"""All bodies in progress share one bound, by their size in memory."""

from __future__ import annotations

import asyncio
import hashlib
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from streamer.config.schema import Config
from streamer.errors import ConfigError
from tests.conftest import Start
from tests.support import AnyClient, run, submit, text
from tests.web import SLEEPER, problem, python
from tests.web.raw import Streams, connection

SIZE = 100_000


async def answer(streams: Streams) -> tuple[int, str]:
    """Return the status and the whole answer of a connection that is closed after it."""
    reader, _ = streams
    raw = (await asyncio.wait_for(reader.read(), 30)).decode()
    return int(raw.split(" ", 2)[1]), raw


async def held(client: AnyClient, token: str = "") -> int:
    """Return the present size of all bodies in memory."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with client.get("/metrics", headers=headers) as response:
        lines = (await response.text()).splitlines()
    (line,) = [line for line in lines if line.startswith("streamer_body_bytes ")]
    return int(line.split()[1])


def head(size: int, *headers: str) -> bytes:
    lines = ("POST /api/execute HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {size}")
    return "\r\n".join([*lines, "Connection: close", *headers, "", ""]).encode()


@pytest.fixture
async def crowd(start: Start) -> AsyncIterator[tuple[AnyClient, list[Streams]]]:
    """Yield a client of a service with room for four bodies, and connections to it."""
    client = await start(server={"max_body_bytes": SIZE, "bodies_bytes": 4 * SIZE})
    async with AsyncExitStack() as stack:
        yield client, [await stack.enter_async_context(connection(client)) for _ in range(12)]


def submission(size: int) -> bytes:
    body = json.dumps(python("print(1)")).encode()
    return body + b" " * (size - len(body))


async def refusals(streams: list[Streams]) -> int:
    """Wait until no further connection is refused; return how many were."""
    waiting = [asyncio.create_task(answer(one)) for one in streams]
    refused = 0
    for done in asyncio.as_completed(waiting):
        status, raw = await done
        assert status == 429, raw
        assert '"code":"rate_limited"' in raw
        assert "Retry-After: " in raw
        assert "server.bodies_bytes" in raw
        refused += 1
    return refused


@pytest.mark.parametrize("compressed", ["identity", "deflate"])
async def test_bodies_beyond_the_bound_are_refused_and_the_others_taken(
    crowd: tuple[AnyClient, list[Streams]], compressed: str
) -> None:
    client, connections = crowd
    body = submission(SIZE)
    if compressed == "deflate":
        body = zlib.compress(body)
        assert len(body) < SIZE / 100
    # All but the last byte: it is held in memory until the rest arrives.
    for _, writer in connections[:4]:
        writer.write(head(len(body), f"Content-Encoding: {compressed}") + body[:-1])
    while await held(client) < 4 * (SIZE - 1):
        pass
    for _, writer in connections[4:]:
        writer.write(head(len(body), f"Content-Encoding: {compressed}") + body)
    assert await refusals(connections[4:]) == 8
    for _, writer in connections[:4]:
        writer.write(body[-1:])
    for one in connections[:4]:
        status, raw = await answer(one)
        assert status == 202, raw
    assert await held(client) == 0


async def test_a_body_that_is_cut_gives_its_room_back(
    crowd: tuple[AnyClient, list[Streams]],
) -> None:
    client, connections = crowd
    body = submission(SIZE)
    for _, writer in connections[:4]:
        writer.write(head(len(body)) + body[:-1])
    while await held(client) < 4 * (SIZE - 1):
        pass
    async with client.post("/api/execute", data=body) as response:
        await problem(response, 429, "rate_limited")
    for _, writer in connections[:4]:
        writer.close()
    while await held(client):
        pass
    assert text(await run(client, **python("print(1)"))) == "1\n"


async def test_what_is_refused_gives_its_room_back(start: Start) -> None:
    client = await start(server={"max_body_bytes": SIZE, "bodies_bytes": SIZE})
    job_id = await submit(client, **SLEEPER, interactive=True)
    for address, body, status in (
        ("execute", submission(SIZE)[:-1] + b"!", 400),
        ("execute", submission(SIZE + 1), 413),
        (f"jobs/{job_id}/signal", b"x" * SIZE, 400),
        (f"jobs/{job_id}/stdin", b"x" * SIZE, 202),
    ) * 3:
        async with client.post(f"/api/{address}", data=body) as response:
            assert response.status == status, await response.text()
        assert await held(client) == 0


async def test_one_tenant_cannot_take_the_room_of_the_others(start: Start) -> None:
    tokens = [
        {
            "tenant": name,
            "sha256": hashlib.sha256(name.encode()).hexdigest(),
            "scopes": ["run", "metrics"],
        }
        for name in "ab"
    ]
    client = await start(
        server={"max_body_bytes": SIZE, "bodies_bytes": 4 * SIZE}, auth={"tokens": tokens}
    )
    body = submission(SIZE)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            _, writer = await stack.enter_async_context(connection(client))
            writer.write(head(len(body), "Authorization: Bearer a") + body[:-1])
        while await held(client, "a") < 2 * (SIZE - 1):
            pass
        for name, status in (("a", 429), ("b", 202)):
            headers = {"Authorization": f"Bearer {name}"}
            async with client.post("/api/execute", data=body, headers=headers) as response:
                assert response.status == status, name


def test_a_bound_without_room_for_one_body_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"server\.bodies_bytes"):
        Config.from_mapping({"server": {"max_body_bytes": 10**9}})


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_is_not_compressed_as_it_says_is_refused(
    start: Start, encoding: str
) -> None:
    client = await start()
    headers = {"Content-Encoding": encoding}
    async with client.post("/api/execute", data=b"\xff" * 1000, headers=headers) as response:
        assert response.status == 400, await response.text()
    assert text(await run(client, **python("print(1)"))) == "1\n"


async def test_the_rest_of_a_compressed_body_is_not_unpacked_after_the_answer(start: Start) -> None:
    """8 MB of gzip would block the loop for as long as it takes to decompress 8 GB."""
    token = {"tenant": "a", "sha256": hashlib.sha256(b"a").hexdigest()}
    client = await start(auth={"tokens": [token]})
    body = zlib.compress(submission(SIZE))
    for token_sent, missing, status in (("", 1, 401), ("Authorization: Bearer a", 0, 202)):
        fields = filter(None, ("Content-Encoding: deflate", token_sent))
        asked = head(len(body), *fields).replace(b"Connection: close\r\n", b"")
        async with connection(client) as (reader, writer):
            writer.write(asked + body[: len(body) - missing])
            said = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).decode().lower()
        assert said.startswith(f"http/1.1 {status} ")
        assert ("connection: close" in said) is bool(missing)
