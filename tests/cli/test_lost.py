"""What `streamer run` says when the output, or the whole job, is not kept any more."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from streamer.cli.run import run_job
from streamer.client.problem import UnknownRemoteJob
from streamer.model.events import Event, Gap, Output, decode
from tests.engine import complete


async def followed(*events: Event, then: Exception | None = None) -> AsyncGenerator[Event, None]:
    for event in events:
        yield event
    if then is not None:
        raise then


async def nothing() -> None:
    pass


async def test_lost_output_is_told_and_no_success(capfd: pytest.CaptureFixture[str]) -> None:
    events = followed(
        Event(3, "gap", Gap(1, 3)),
        Event(4, "output", Output("stdout", "the rest\n", t=1, phase="run")),
        Event(5, "complete", decode(*complete())),
    )
    assert await run_job(events, None, nothing, raw=False) == 125
    told = capfd.readouterr()
    assert told.out == "the rest\n"
    assert told.err == "streamer: events 1 to 3 are no longer kept: output may be missing\n"


@pytest.mark.parametrize("events", [(), (Event(1, "gap", Gap(1, None, "expired")),)])
async def test_a_job_that_the_service_has_lost_is_no_fault_of_the_command(
    events: tuple[Event, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    unknown = UnknownRemoteJob(404, {"detail": "there is no job 'x'"})
    lost = followed(*events, then=unknown)
    assert await run_job(lost, None, nothing, raw=False) == 125
    assert capfd.readouterr().err == "streamer: the service has lost the job: there is no job 'x'\n"
