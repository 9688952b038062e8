"""Reading a file of a session in threads, also when nobody waits for them any more."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from streamer.worker.sessionfiles import THREADS, _pieces


async def test_a_file_that_no_thread_has_read_is_closed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    go_on = threading.Event()
    busy = [THREADS.submit(go_on.wait) for _ in range(THREADS._max_workers)]
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        reading = asyncio.ensure_future(anext(_pieces(fd, 0, 7)))
        before = set(os.listdir("/proc/self/fd"))
        while not (copies := set(os.listdir("/proc/self/fd")) - before):
            await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert not copies & set(os.listdir("/proc/self/fd"))
    finally:
        go_on.set()
        os.close(fd)
    for one in busy:
        await asyncio.wrap_future(one)
