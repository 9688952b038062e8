"""What the small distribution must be able to do, as a program: run with an address, it prints "ok".

It runs in an environment of its own, so it imports nothing of the project. With a second argument the
service is installed there too, and both must work side by side.
"""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import streamer_client  # type: ignore[import-not-found, unused-ignore]
from streamer_client.events import Complete  # type: ignore[import-not-found, unused-ignore]

CODE = "open('left.txt', 'w').write('left'); print('hello')"


async def asynchronous(url: str) -> Any:
    async with streamer_client.Client(url) as client:
        run = client.run(language="python", code=CODE, artifacts=["*.txt"])
        events = [event async for event in run]
        assert isinstance(events[-1].data, Complete)
        with tempfile.TemporaryDirectory() as folder:
            await client.download(run.job_id, folder)
            assert Path(folder, "left.txt").read_text() == "left"
        return [event.kind for event in events]


def blocking(url: str) -> Any:
    with streamer_client.SyncClient(url) as client, client.session(idle_s=60) as session:
        session.write("a.txt", "kept")
        job_id = session.submit(streamer_client.JobSpec(language="bash", code="cat a.txt"))
        return client.wait(job_id)["result"]["stdout"]


def main(url: str, *, beside: bool) -> None:
    for module in pkgutil.walk_packages(streamer_client.__path__, "streamer_client."):
        importlib.import_module(module.name)
    parts = [name for name in sys.modules if name.split(".")[0] in ("streamer", "sandboxes")]
    assert parts == [], parts
    kinds = asyncio.run(asynchronous(url))
    assert kinds[0] == "status"
    assert kinds[-2:] == ["artifact", "complete"], kinds
    assert blocking(url) == "kept"
    try:
        streamer = importlib.import_module("streamer")
    except ModuleNotFoundError:
        assert not beside
    else:
        assert beside
        with streamer.SyncClient(url) as client:
            assert client.ready()
        assert streamer.SyncClient is not streamer_client.SyncClient
    sys.stdout.write("ok\n")


if __name__ == "__main__":
    main(sys.argv[1], beside=len(sys.argv) > 2)
