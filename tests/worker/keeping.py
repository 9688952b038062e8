"""Sessions that keep what their jobs leave running, and jobs that leave something."""

from __future__ import annotations

import textwrap
from typing import Any, Final

import pytest

from streamer.compose import Parts
from streamer.model.session import SessionSpec
from streamer.testing.running import Ran, run_job
from tests.conftest import OpenService

__all__ = ["BEATS", "keeping", "kills_one_process", "opened", "python"]

START: Final = """
import os, subprocess, sys, time
def left(code, **how):
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    subprocess.Popen([sys.executable, "-c", code], **{**quiet, **how})
    while not os.path.exists("there"): time.sleep(0.001)
"""
BEATS: Final = "while True: open('there', 'a').write('x'); time.sleep(0.001)"


async def keeping(open_service: OpenService, backend: str, **sections: Any) -> Parts:
    """Open a service that keeps processes, or skip the test."""
    service = await open_service(backend, **sections)
    if service.worker.cgroup_level is None:
        pytest.skip("needs control groups")
    return service


def kills_one_process(service: Parts) -> bool:
    """Tell whether the kernel kills one process at the limit of memory, and not the whole group."""
    return service.worker.cgroup_level == "cgroup-v1"


async def opened(service: Parts, idle_s: float | None = None, **limits: Any) -> str:
    spec = SessionSpec(keep_processes=True, limits=limits, idle_s=idle_s)
    return (await service.jobs.sessions.open(spec)).session.session_id


async def python(service: Parts, session_id: str, code: str, **spec: Any) -> Ran:
    """Run a program that can call `left`: it starts another, and waits for the file ``there``."""
    code = START + textwrap.dedent(code)
    return await run_job(service, language="python", code=code, session_id=session_id, **spec)
