"""Jobs end properly even if the engine fails or does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, ClassVar

import pytest

from streamer.compose import Parts
from streamer.engine.interface import Lease
from streamer.jobs.job import Job
from streamer.model.events import Error, Output
from streamer.model.job import JobSpec, Limits, Phase, ResolvedJob, Step
from streamer.worker.execution import Execution
from tests.conftest import OpenService
from tests.running import ended, run_job


async def until_output(job: Job) -> None:
    """Wait for the first output of a job."""
    async for event in job.events():
        if isinstance(event.data, Output):
            return


class Faulty:
    """A lease whose methods fail or hang a given number of times, as of an engine elsewhere."""

    append_now = finish_now = None

    def __init__(self, lease: Lease, faults: dict[str, int]) -> None:
        self._lease = lease
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        return self._fail if self._fails(name) else getattr(self._lease, name)

    def _fails(self, name: str) -> bool:
        self._faults[name] = self._faults.get(name, 0) - 1
        return self._faults[name] >= 0

    async def _fail(self, *_: object) -> None:
        raise ConnectionError("the engine is away")

    async def control(self) -> AsyncIterator[object]:
        async for item in self._lease.control():
            if self._fails("control"):
                raise ConnectionError("the engine is away")
            yield item

    async def inputs(self) -> AsyncIterator[object]:
        if self._fails("inputs"):
            raise ConnectionError("the engine is away")
        async for item in self._lease.inputs():
            yield item

    @property
    def full(self) -> bool:
        return self._lease.full


def make_faulty(
    service: Parts, monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Lease], object]
) -> None:
    real = service.engine.claim

    async def claim(*asked: Any) -> list[object]:
        return [wrap(lease) for lease in await real(*asked)]

    monkeypatch.setattr(service.engine, "claim", claim)


@pytest.mark.slow
async def test_an_engine_that_fails_for_a_while_gets_the_end_all_the_same(
    open_service: OpenService, need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await open_service(need("plain"))
    make_faulty(service, monkeypatch, lambda lease: Faulty(lease, {"finish": 3}))
    await run_job(service, command=("true",))  # the claim that was under way
    assert (await run_job(service, command=("sh", "-c", "exit 3"))).verdict == "exited 3"


async def test_a_connection_that_is_lost_costs_no_output(
    open_service: OpenService, need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await open_service(need("plain"))
    make_faulty(service, monkeypatch, lambda lease: Faulty(lease, {"append": 3, "state": 2}))
    await run_job(service, command=("true",))  # the claim that was under way
    ran = await run_job(service, command=("echo", "whole"))
    assert (ran.verdict, ran.out) == ("exited 0", "whole\n")


IN_TURNS = """
import array, fcntl, os, termios, time

def read(fd):
    waiting = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, waiting)
    return not waiting[0]

for turn in range(5):
    for fd in 1, 2:
        os.write(fd, b"%d\\n" % turn)
        while not read(fd):
            time.sleep(0.001)
"""


async def test_the_order_of_two_streams_is_kept_while_a_call_is_repeated(
    open_service: OpenService, need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await open_service(need("plain"))
    begun: list[Execution] = []
    service.worker.on_start = begun.append

    class Away(Faulty):
        """Accepts output only when the program has ended."""

        def _fails(self, name: str) -> bool:
            return name == "append" and not begun[-1]._writer.program_ended.is_set()

    make_faulty(service, monkeypatch, lambda lease: Away(lease, {}))
    await run_job(service, command=("true",))  # the claim that was under way
    job = await service.jobs.submit(JobSpec(language="python", code=IN_TURNS))
    ran = await ended(job)
    written = [
        (event.data.stream, event.data.data)
        async for event in job.events()
        if isinstance(event.data, Output)
    ]
    assert ran.verdict == "exited 0"
    assert written == [
        (stream, f"{turn}\n") for turn in range(5) for stream in ("stdout", "stderr")
    ]


async def test_output_is_appended_without_a_wait_where_the_engine_can(
    open_service: OpenService, need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Prompt(Faulty):
        def __init__(self, lease: Lease) -> None:
            super().__init__(lease, {"append": 10**9, "finish": 10**9})  # whenever it is awaited
            self.append_now = lease.append_now  # type: ignore[attr-defined]
            self.finish_now = lease.finish_now  # type: ignore[attr-defined]

    service = await open_service(need("plain"))
    make_faulty(service, monkeypatch, Prompt)
    await run_job(service, command=("true",))  # the claim that was under way
    ran = await run_job(service, command=("echo", "whole"))
    assert (ran.verdict, ran.out) == ("exited 0", "whole\n")


async def test_a_lease_around_another_is_not_passed_by(
    open_service: OpenService, need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[bytes] = []

    class Recording:
        """Passes on what it does not know itself, as wrappers do."""

        def __init__(self, lease: Lease) -> None:
            self._lease = lease

        def __getattr__(self, name: str) -> Any:
            return getattr(self._lease, name)

        async def append(self, events: Sequence[tuple[str, bytes]]) -> None:
            recorded.extend(data for _, data in events)
            await self._lease.append(events)

        async def finish(self, events: Sequence[tuple[str, bytes]]) -> bool:
            recorded.extend(data for _, data in events)
            return await self._lease.finish(events)

    service = await open_service(need("plain"))
    make_faulty(service, monkeypatch, Recording)
    await run_job(service, command=("true",))  # the claim that was under way
    ran = await run_job(service, command=("echo", "whole"))
    assert ran.out == "whole\n"
    assert any(b"whole" in data for data in recorded)
    assert any(b"exitCode" in data for data in recorded)


async def test_a_channel_that_breaks_is_opened_again_and_told(
    open_service: OpenService,
    need: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("streamer.worker.requests.PAUSE_S", 0.01)
    service = await open_service(need("plain"))
    make_faulty(service, monkeypatch, lambda lease: Faulty(lease, {"control": 1, "inputs": 2}))
    await run_job(service, command=("true",))  # the claim that was under way
    job = await service.jobs.submit(JobSpec(command=("cat",), interactive=True))
    await job.write(b"heard\n")
    await until_output(job)
    await job.cancel()
    ran = await ended(job)
    assert (ran.complete.reason, ran.text()) == ("cancelled", "heard\n")
    assert "a channel of the engine broke" in caplog.text


class Hanging(Faulty):
    async def _fail(self, *_: object) -> None:
        await asyncio.Event().wait()


async def test_a_job_that_is_cut_off_has_its_end_though_the_engine_does_not_answer_at_first(
    open_service: OpenService, need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.worker.writer.ENGINE_TIMEOUT_S", 0.2)
    service = await open_service(need("plain"))
    make_faulty(service, monkeypatch, lambda lease: Hanging(lease, {"finish": 1}))
    begun: list[Execution] = []
    service.worker.on_start = begun.append
    await run_job(service, command=("true",))  # the claim that was under way
    job = await service.jobs.submit(JobSpec(command=("sh", "-c", "echo up; sleep 600")))
    await until_output(job)
    (task,) = (one for one, running in service.worker._running.items() if running is begun[-1])
    task.cancel()
    assert (await ended(job)).verdict == "error shutting_down"
    await asyncio.wait_for(begun[-1].over.wait(), 30)


async def test_nothing_is_on_its_way_to_the_log_when_its_end_is_written(
    open_service: OpenService, need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    appending = asyncio.Event()

    class Slow(Faulty):
        """Does not answer an append for long."""

        async def append(self, _: Sequence[tuple[str, bytes]]) -> None:
            appending.set()
            try:
                await asyncio.Event().wait()
            finally:
                calls.append("append ended")

        async def finish(self, events: Sequence[tuple[str, bytes]]) -> bool:
            calls.append("finish")
            return await self._lease.finish(events)

    service = await open_service(need("plain"))
    make_faulty(service, monkeypatch, lambda lease: Slow(lease, {}))
    begun: list[Execution] = []
    service.worker.on_start = begun.append
    await run_job(service, command=("true",))  # the claim that was under way
    calls.clear()
    job = await service.jobs.submit(JobSpec(command=("sh", "-c", "echo up; sleep 600")))
    await asyncio.wait_for(appending.wait(), 30)
    (task,) = (one for one, running in service.worker._running.items() if running is begun[-1])
    task.cancel()
    assert (await ended(job)).verdict == "error shutting_down"
    assert calls == ["append ended", "finish"]


@pytest.mark.parametrize("method", ["append", "state"])
async def test_an_engine_that_does_not_answer_keeps_no_job_waiting(
    open_service: OpenService,
    need: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    for module in ("program", "writer", "execution"):
        monkeypatch.setattr(f"streamer.worker.{module}.ENGINE_TIMEOUT_S", 0.2)
    service = await open_service(need("plain"))
    make_faulty(service, monkeypatch, lambda lease: Hanging(lease, {method: 1}))
    await run_job(service, command=("true",))
    assert (await run_job(service, command=("echo", "x"))).verdict == "error internal"


async def test_a_job_that_cannot_be_placed_ends_and_the_next_ones_run(
    open_service: OpenService, need: Callable[[str], str]
) -> None:
    service = await open_service(need("plain"))
    step = Step(Phase.RUN, ("true",), Limits())
    lost = ResolvedJob(job_id="lost", language=None, backend="microvm", steps=(step,))
    await service.engine.submit(lost)
    ran = await ended(service.jobs.job("lost"))
    assert ran.verdict == "error sandbox_error"
    assert (await run_job(service, command=("echo", "next"))).out == "next\n"
    assert service.worker.ready


class Late(Faulty):
    """A lease of an engine that needs long to end a job."""

    ending: ClassVar[set[str]] = set()

    async def finish(self, *arguments: Any) -> object:
        self.ending.add(self._lease.job.job_id)
        for _ in range(100):
            await asyncio.sleep(0)
        return await self._lease.finish(*arguments)


async def test_a_drain_waits_for_the_end_of_a_job_that_cannot_be_placed(
    open_service: OpenService, need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await open_service(need("plain"))
    make_faulty(service, monkeypatch, lambda lease: Late(lease, {}))
    await run_job(service, command=("true",))  # the claim that was under way
    step = Step(Phase.RUN, ("true",), Limits())
    await service.engine.submit(
        ResolvedJob(job_id="lost", language=None, backend="microvm", steps=(step,))
    )
    while "lost" not in Late.ending:
        await asyncio.sleep(0)
    await service.drain(0)
    end = (await service.jobs.job("lost").view()).result
    assert isinstance(end, Error)
    assert end.code == "sandbox_error"


async def test_a_service_whose_claims_ended_is_not_ready(
    open_service: OpenService, need: Callable[[str], str]
) -> None:
    service = await open_service(need("plain"))
    assert service.worker.ready

    claiming = service.worker._tasks["streamer-claim"]
    claiming.cancel()
    await asyncio.wait({claiming})
    assert not service.worker.ready
