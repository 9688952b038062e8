"""Run other jobs of the same service beside an attack, which hold the secret too."""

from __future__ import annotations

import contextlib
import json
import random
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from streamer.compose import Parts
from streamer.doctor.lures import Lures, marked_processes
from streamer.model.job import JobSpec
from streamer.testing.attack import NoProof
from streamer.testing.programs import NEIGHBOUR
from streamer.testing.running import ended, script

__all__ = ["Neighbour", "keep_build"]

ANOTHER: Final = "another"
"""A tenant whose jobs are not attacks."""

TRIES: Final = 5
"""Nothing is kept if that takes too long, as it may on a busy machine."""

NAME_ON_HOST: Final = re.compile(r"(?:/jobs|:.*/streamer-[^/\n]*)/([0-9a-f]{16})\b")
"""The name of a job's folder, or of its control group."""


class Neighbour:
    def __init__(self, service: Parts, lures: Lures) -> None:
        self._service = service
        self._lures = lures

    @asynccontextmanager
    async def running(self, noticed: list[str]) -> AsyncIterator[dict[str, Any]]:
        """Run it during a block, and add to `noticed` what it noticed."""
        secret = self._lures.secret
        mark = secrets.token_hex(8)
        hint = {"mark": mark, "secret": [secret], "ipc_key": random.randrange(1, 2**31)}
        job = await self._service.jobs.submit(
            JobSpec(
                command=("python3", "-I", "neighbour.py", secret),
                files=(script("neighbour.py", NEIGHBOUR),),
                env={"ESCAPE_HINT": json.dumps(hint), "NEIGHBOUR_SECRET": secret},
                interactive=True,
            )
        )
        said = ""
        async for event in job.events():
            said = getattr(event.data, "data", "")
            if said or event.kind in ("complete", "error"):
                break
        try:
            place = json.loads(said)
        except ValueError:
            raise NoProof(f"the other job did not come up: {said[:500]}") from None
        try:
            yield {**place, "ipc_key": hint["ipc_key"], "names": _names(mark)}
        finally:
            await job.end_input()
            ran = await ended(job)
        told = ran.text().partition("NOTICED: ")[2].strip()
        if told != "nothing":
            noticed.append(f"the other job noticed: {told or ran.verdict}")


async def keep_build(service: Parts, language: str, lures: Lures) -> None:
    """Let another tenant compile a program that has the secret, and see that it is kept.

    The language's compiler runs ``attack.py``. Raises `NoProof`.
    """
    file = script("attack.py", f"open('program', 'w').write({lures.secret!r})")
    spec = JobSpec(language=language, files=(file,))
    for _ in range(TRIES):
        if (await ended(await service.jobs.submit(spec, tenant=ANOTHER))).complete.cached:
            return
    raise NoProof("the compiled program of another tenant is not kept")


def _names(mark: str) -> list[str]:
    """Return the names of the job with this mark on the host: its folder or control group."""
    names: set[str] = set()
    for pid in marked_processes(mark):
        with contextlib.suppress(OSError):
            place = Path("/proc", str(pid))
            tables = (place / "cgroup").read_text() + (place / "mountinfo").read_text()
            names |= {*NAME_ON_HOST.findall(f"{tables}{(place / 'cwd').readlink()}")}
    return sorted(names)
