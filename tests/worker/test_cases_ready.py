"""The program of the next case waits for its turn, where that is possible."""

from __future__ import annotations

import pytest

from streamer.errors import SandboxFailure
from streamer.model.job import Case
from streamer.sandbox.running import Running
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import Run
from tests.conftest import OpenService
from tests.running import run_job

CASES = (Case(stdin=b"one"), Case(args=("-",), stdin=b"two"), Case())


async def test_each_case_finds_its_program_waiting(
    open_service: OpenService, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited, run = list[bool](), Sandbox.run

    async def noted(sandbox: Sandbox, given: Run) -> Running:
        if given.argv[0] == "cat":
            waited.append(sandbox.waits)
        return await run(sandbox, given)

    monkeypatch.setattr(Sandbox, "run", noted)
    service = await open_service(backend)
    ran = await run_job(service, command=("cat",), cases=CASES)
    assert (ran.verdict, ran.text()) == ("exited 0", "onetwo")
    assert waited == [True] * len(CASES)


@pytest.mark.parametrize("failure", [SandboxFailure("none is held"), OSError("no descriptor")])
async def test_a_case_whose_program_does_not_wait_is_run_all_the_same(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    async def refused(sandbox: Sandbox, run: Run) -> None:
        run.stdio.close()
        raise failure

    monkeypatch.setattr(Sandbox, "make_ready", refused)
    service = await open_service("plain")
    ran = await run_job(service, command=("cat",), cases=CASES)
    assert (ran.verdict, ran.text()) == ("exited 0", "onetwo")
