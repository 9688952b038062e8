"""We reap our child processes, but the host application may have been faster."""

from __future__ import annotations

import os

from streamer.sandbox.drivers.spawn import spawn
from tests.running import descriptors


async def test_a_child_that_somebody_else_has_reaped_has_ended_all_the_same() -> None:
    before = descriptors()
    null = os.open(os.devnull, os.O_RDWR)
    child = spawn(("/bin/true",), env={}, cwd="/", stdin=null, stdout=null, stderr=null)
    os.close(null)
    os.waitpid(child.pid, 0)  # noqa: ASYNC222 - before the loop hears of it
    assert await child.wait() == 255
    child.signal_group(9)
    child.kill()
    child.reap()
    assert descriptors() == before
