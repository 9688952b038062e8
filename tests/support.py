"""Read streams as a client does, and inspect the host as an operator does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient

from streamer.compose import Parts
from streamer.engine.blobs import Blobs
from streamer.sse import EventParser
from streamer.web.app import LIFETIME

AnyClient = TestClient[Any, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Received:
    """One event as it came over the wire; the id of one without is that of the one before."""

    id: int
    kind: str
    data: dict[str, Any]


async def received(response: ClientResponse) -> AsyncIterator[Received]:
    """Yield the events of an open stream until it ends."""
    parser = EventParser()
    async for chunk in response.content.iter_any():
        for number, kind, data in parser.feed(chunk):
            yield Received(int(number or 0), kind, json.loads(data))


async def in_cancelled_task(work: Callable[[], Awaitable[T]]) -> T:
    """Do something as the clean-up of a task that was cancelled, as `web.run_app` stops a service.

    Before Python 3.11.3 `asyncio.timeout` goes on with the cancellation there.
    """
    begun = asyncio.Event()
    done: list[T] = []

    async def clean_up() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            done.append(await work())

    task = asyncio.create_task(clean_up())
    await begun.wait()
    task.cancel()
    await asyncio.wait({task}, timeout=30)
    assert task.done(), "the clean-up has no end"
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert done, "the clean-up was cut off"
    return done[0]


async def until_stored(blobs: Blobs, size: int) -> None:
    """Wait until blobs take so many bytes: a file without readers is removed by a thread."""
    while await blobs.used_bytes() != size:
        await asyncio.sleep(0)


def parts_of(client: AnyClient) -> Parts:
    """Return the parts of the service to which a client is connected."""
    parts = client.app[LIFETIME]
    assert isinstance(parts, Parts)
    return parts


async def submit(client: AnyClient, **job: Any) -> str:
    """Submit a job and return its id."""
    async with client.post("/api/execute", json=job) as response:
        body = await response.json()
        assert response.status == 202, body
        return str(body["jobId"])


async def follow(client: AnyClient, job_id: str, after: int | None = None) -> list[Received]:
    """Return the events of a job after event `after`, to the end of the stream."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    async with client.get(f"/api/stream/{job_id}", headers=headers) as response:
        assert response.status == 200, await response.text()
        return [event async for event in received(response)]


async def run(client: AnyClient, **job: Any) -> list[Received]:
    """Submit a job and return all its events."""
    return await follow(client, await submit(client, **job))


def text(events: Iterable[Received], stream: str = "stdout") -> str:
    """Return what a program wrote."""
    return "".join(
        event.data["data"]
        for event in events
        if event.kind == "output" and event.data["stream"] == stream
    )


def verdict(events: list[Received]) -> dict[str, Any]:
    """Return the data of the one terminal event, which must be the last."""
    terminal = [event for event in events if event.kind in ("complete", "error")]
    assert terminal == events[-1:], events
    return terminal[0].data


def other_address() -> str:
    """Return an address of this machine that is not loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no address but loopback's")
        return str(probe.getsockname()[0])


def processes_with(mark: str) -> list[str]:
    """Return the command lines of all processes on this host whose environment or command
    line holds a mark.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if mark.encode() in line and state != "Z":
            found.append(line.replace(b"\0", b" ").decode(errors="replace"))
    return found


def open_to_all(folder: Path) -> Path:
    """Let every user pass through a folder of the tests, as jobs do on their way; return it."""
    for place in (folder, *folder.parents):
        if place.owner() == folder.owner() and place != Path("/tmp"):
            place.chmod(0o755)
    return folder
