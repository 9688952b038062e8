"""What a killed firejail leaves in /run is removed when a root service starts."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sandboxes.firejail import NOTE_AGE_S, NOTES, sweep_notes
from streamer.model.job import JobSpec
from tests.conftest import OpenService
from tests.running import descendants

ROOT = os.geteuid() == 0


@pytest.mark.skipif(not ROOT, reason="only root may remove firejail's notes")
async def test_notes_of_a_killed_sandbox_are_swept(
    open_service: OpenService, need: Callable[[str], str]
) -> None:
    service = await open_service(need("firejail"))
    job = await service.jobs.submit(JobSpec(command=("sh", "-c", "echo up; sleep 60")))
    async for event in job.events():
        if event.kind == "output":
            break
    wrapper, *_ = sorted(pid for pid, name in descendants().items() if name == "firejail")
    note = NOTES / "sandbox" / str(wrapper)
    assert note.exists()
    os.kill(wrapper, signal.SIGKILL)
    await job.result()
    assert note.exists()

    await open_service("firejail")
    assert note.exists()  # too new to be certainly abandoned
    old = time.time() - 2 * NOTE_AGE_S
    os.utime(note, (old, old))
    await open_service("firejail")
    assert not note.exists()


@pytest.mark.skipif(not ROOT, reason="only root's notes are firejail's")
def test_only_old_notes_of_dead_processes_are_swept(tmp_path: Path) -> None:
    old = time.time() - 2 * NOTE_AGE_S
    nobody = 2**22 + 1  # above the greatest process id there can be
    names = [str(os.getpid()), str(nobody), f"{nobody}-netmap", f"{nobody}.txt", "firejail.lock"]
    for folder in ("sandbox", "network", "elsewhere"):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
            os.utime(tmp_path / folder / name, (old, old))
    foreign = tmp_path / "sandbox" / f"{nobody}-user"
    foreign.touch()
    os.chown(foreign, 1000, 1000)
    os.utime(foreign, (old, old))
    (tmp_path / "network" / str(nobody)).touch()

    sweep_notes(tmp_path)

    left = {folder: sorted(os.listdir(tmp_path / folder)) for folder in ("sandbox", "network")}
    kept = [names[0], f"{nobody}.txt", "firejail.lock"]
    assert left["sandbox"] == sorted([*kept, foreign.name])
    assert left["network"] == sorted([*kept, str(nobody)])
    assert sorted(os.listdir(tmp_path / "elsewhere")) == sorted(names)
