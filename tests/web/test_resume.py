"""However often a reader loses its connection, it gets every event exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import random

from tests.conftest import Start
from tests.support import AnyClient, Received, follow, received, submit, text, verdict
from tests.web import python
from tests.web.raw import ask, chunks, connection

LINES = "\n".join(f"{number} é€😀" for number in range(3000)) + "\n"
PACED = f"""
import sys, time
text = {LINES!r}
for at in range(0, len(text), 700):
    sys.stdout.write(text[at:at + 700])
    sys.stdout.flush()
    time.sleep(0.002)
"""


async def read_for(client: AnyClient, job_id: str, after: int, size: int) -> bytes | None:
    """Read about `size` bytes of the stream and disconnect; None after the last event."""
    body = b""
    async with connection(client) as streams:
        headers = {"Last-Event-ID": str(after)} if after else {}
        answer = await ask(streams, f"/api/stream/{job_id}", headers=headers)
        if answer.status == 204:
            return None
        assert answer.status == 200
        with contextlib.suppress(asyncio.IncompleteReadError):
            async for chunk in chunks(streams[0]):
                body += chunk
                if len(body) >= size:
                    break
    return body[:size]


def complete_frames(body: bytes) -> list[tuple[int, bytes]]:
    """Return the complete frames with their numbers, as a client keeps them."""
    whole = body[: body.rfind(b"\n\n") + 2] if b"\n\n" in body else b""
    frames = []
    for block in whole.split(b"\n\n")[:-1]:
        lines = [line for line in block.split(b"\n") if not line.startswith((b":", b"retry:"))]
        assert [line.split(b":")[0] for line in lines] == [b"event", b"data", b"id"]
        frames.append((int(lines[2][4:]), b"\n".join(lines)))
    return frames


async def test_random_disconnects_lose_and_double_nothing(start: Start) -> None:
    chance = random.Random(20_26)
    client = await start()
    job_id = await submit(client, **python(PACED))
    seen: list[tuple[int, bytes]] = []
    cuts = 0
    while True:
        # Cut anywhere: before the first byte, inside a frame, a number, a character.
        most = 1500 if cuts < 50 else 100_000
        body = await read_for(client, job_id, seen[-1][0] if seen else 0, chance.randrange(1, most))
        if body is None:
            break  # 204: the terminal event was seen
        cuts += 1
        seen += complete_frames(body)
    assert cuts >= 50
    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    events = await follow(client, job_id)
    assert len(events) == len(seen)
    assert text(events) == LINES
    async with client.get(f"/api/stream/{job_id}") as response:
        assert complete_frames(await response.read()) == seen


async def test_a_cut_after_every_single_event(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python(PACED.replace("3000", "300")))
    seen: list[Received] = []
    while not seen or seen[-1].kind != "complete":
        headers = {"Last-Event-ID": str(seen[-1].id)} if seen else {}
        async with client.get(f"/api/stream/{job_id}", headers=headers) as response:
            assert response.status == 200
            seen.append(await anext(received(response)))
            response.close()
    assert [event.id for event in seen] == list(range(1, len(seen) + 1))
    assert text(seen) == LINES
    assert verdict(seen)["exitCode"] == 0
    assert await follow(client, job_id) == seen
