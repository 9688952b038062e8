"""A short run of `benchmarks/chaos.py`, with each kind of trouble once or more."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tools import tool

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(480)
async def test_no_promise_is_broken_by_lost_workers_nodes_and_servers(
    need: Callable[[str], str],
) -> None:
    need("bwrap")
    for name in ("redis-server", "ip", "unshare", "nsenter"):
        tool(name)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.chaos", "--jobs", "150", "--lease-s", "3"),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
