"""Stored files are read in threads, and closed only behind them."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from streamer.jobs.filedownloads import FileSource, read_at


async def test_a_read_that_is_cancelled_lasts_as_long_as_its_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its descriptor is closed next, and the number is soon that of another file."""
    file = tmp_path / "file"
    file.write_bytes(b"content")
    begun, go_on = threading.Event(), threading.Event()
    real = os.pread

    def slow(fd: int, most: int, at: int) -> bytes:
        begun.set()
        go_on.wait()
        return real(fd, most, at)

    monkeypatch.setattr(os, "pread", slow)
    with file.open("rb") as opened:
        reading = asyncio.create_task(read_at(opened.fileno(), 10, 0))
        await asyncio.to_thread(begun.wait)
        for _ in range(2):
            reading.cancel()
            for _ in range(10):
                await asyncio.sleep(0)
            assert not reading.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await reading


async def test_a_file_that_has_become_shorter_is_no_end(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    with file.open("rb") as opened:
        source = FileSource(opened.fileno(), 3, 9)
        assert await source.read() == b"tent"
        source.sent()
        assert not source.ended
        with pytest.raises(OSError, match="shorter"):
            await source.read()
