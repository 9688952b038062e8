"""A worker whose engine fails, or which has other workers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import streamer
from streamer.compose import build
from streamer.config.schema import Role
from streamer.engine.interface import Cancel, JobView, Lease, Lost
from streamer.engine.limits import QueueLimits
from streamer.engine.memory.engine import MemoryEngine
from streamer.engine.memory.retention import RetentionLimits
from streamer.errors import ConfigError, Draining, NoWorker, ServiceError
from streamer.jobs.job import Job
from streamer.model.capabilities import Capabilities
from streamer.model.events import Error, Output
from streamer.model.job import JobSpec, Limits, Phase, ResolvedJob, Step
from streamer.web.app import SESSIONS
from streamer.worker.execution import Execution
from tests.conftest import OpenService, Start
from tests.running import adopt_orphans, descendants, ended, run_job
from tests.support import in_cancelled_task, parts_of, run, verdict


class Shared(MemoryEngine):
    """An engine that several processes could use, and that fails on request."""

    def __init__(self, lease_s: float = 15.0) -> None:
        super().__init__(
            queue=QueueLimits(),
            retention_s=600.0,
            retention=RetentionLimits(memory=2**26),
            lease_s=lease_s,
        )
        self.away = asyncio.Event()
        """From its workers."""
        self.mute = asyncio.Event()
        """It does not tell its workers' capabilities."""
        self.unreachable = asyncio.Event()
        """It does not even tell whether it is ready."""
        self.say: dict[str, Cancel | Lost] = {}

    @property
    def alone(self) -> bool:
        return False

    async def capabilities(self) -> Sequence[Capabilities]:
        if self.mute.is_set():
            raise ConnectionError("the engine is away")
        return await super().capabilities()

    async def ready(self) -> bool:
        if self.unreachable.is_set():
            raise ConnectionError("the engine is away")
        return await super().ready()

    async def claim(self, *asked: Any) -> Sequence[Lease]:
        self._look()
        return await super().claim(*asked)

    async def heartbeat(self, leases: Sequence[Lease]) -> Sequence[tuple[Lease, Cancel | Lost]]:
        self._look()
        told = list(await super().heartbeat(leases))
        return [*told, *((one, self.say[one.job.job_id]) for one in leases if self.say)]

    def _look(self) -> None:
        if self.away.is_set():
            raise ConnectionError("the engine is away")


def plugin(engine: MemoryEngine) -> object:
    """Return a plugin that registers an engine."""

    @streamer.hookimpl
    def streamer_engine() -> MemoryEngine:
        return engine

    return SimpleNamespace(streamer_engine=streamer_engine)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until the condition is true."""
    async with asyncio.timeout(30):
        while not await holds():
            await asyncio.sleep(0.01)


async def until_output(job: Job) -> None:
    async for event in job.events():
        if isinstance(event.data, Output):
            return


UP = ("sh", "-c", "echo up; sleep 600")


async def test_one_accepts_and_another_runs(need: Callable[[str], str]) -> None:
    engine = Shared()
    sandbox = {"backend": need("plain"), "allow_command": True}
    api, worker = (
        build({"sandbox": sandbox, "server": {"role": role}}, [plugin(engine)])
        for role in ("api", "worker")
    )
    with pytest.raises(RuntimeError, match="runs no jobs"):
        _ = api.worker
    async with api:
        assert api.own() is None
        with pytest.raises(NoWorker):
            await api.jobs.submit(JobSpec(command=("true",)))
        async with worker:
            job = await api.jobs.submit(JobSpec(language="bash", code="echo hello"))
            ran = await ended(job)
            assert ran.out == "hello\n"
            assert (await job.view()).job.policy
            assert (await api.jobs.capabilities()).default == "plain"


async def test_one_that_only_accepts_keeps_its_files_in_the_configured_folder(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "made" / "here"
    config = {"server": {"role": "api", "state_dir": str(folder)}}
    async with build(config, [plugin(Shared())]):
        assert [entry.name.startswith("streamer-") for entry in folder.iterdir()] == [True]
    assert list(folder.iterdir()) == []
    folder.rmdir()
    folder.touch()
    with pytest.raises(ConfigError, match=r"server\.state_dir: .*here: "):
        await build(config, [plugin(Shared())]).__aenter__()


async def test_it_claims_only_what_it_can_run(
    open_service: OpenService, need: Callable[[str], str]
) -> None:
    engine = Shared()
    service = await open_service(need("plain"), plugins=(plugin(engine),))
    step = Step(Phase.RUN, ("true",), Limits())
    for name, backend, language in (("a", "microvm", None), ("b", "plain", "klingon")):
        await engine.submit(ResolvedJob(name, language, backend, (step,)))
    assert (await run_job(service, command=("echo", "next"))).out == "next\n"
    for name in ("a", "b"):
        assert (await service.jobs.job(name).view()).state == "queued"
    assert service.worker.ready


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["away", "mute", "unreachable"])
async def test_an_engine_that_is_away_turns_readiness_until_it_is_back(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr("streamer.worker.worker.CLAIM_RETRY_S", 0.02)
    engine = Shared()
    client = await start(plugins=(plugin(engine),))

    async def accepting() -> bool:
        async with client.get("/readyz") as response:
            document = await response.json()
            assert response.status == (200 if document["ready"] else 503)
            return bool(document["checks"]["accepting"])

    async def refusing() -> bool:
        return not await accepting()

    broken: asyncio.Event = getattr(engine, fault)
    assert await accepting()
    broken.set()
    await until(refusing)
    assert "the engine is away" in caplog.text
    broken.clear()
    await until(accepting)
    assert verdict(await run(client, command=["true"]))["reason"] == "exited"


async def test_a_worker_that_is_cut_off_ends_its_jobs_and_writes_nothing(
    open_service: OpenService, need: Callable[[str], str]
) -> None:
    engine = Shared(lease_s=0.3)
    service = await open_service(need("plain"), plugins=(plugin(engine),))
    adopt_orphans()
    before = descendants()
    job = await service.jobs.submit(JobSpec(command=UP))
    await until_output(job)
    engine.away.set()

    async def gone() -> bool:
        return descendants() == before

    await until(gone)
    view = await job.view()
    assert view.state == "running", "another worker may have it by now"
    engine.away.clear()
    end = await job.result()
    assert isinstance(end, Error)
    assert end.code == "worker_lost"
    assert (await run_job(service, command=("echo", "next"))).out == "next\n"


async def test_capabilities_that_cannot_be_told_once_are_published_later(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = await start()
    worker = parts_of(client).worker

    def broken(*_: object, **__: object) -> Capabilities:
        raise RuntimeError("the backend does not tell")

    async def logged() -> bool:
        return "does not tell" in caplog.text

    async def refusing() -> bool:
        async with client.get("/readyz") as response:
            return response.status == 503

    with monkeypatch.context() as patch:
        patch.setattr(worker.host, "capabilities", broken)
        worker._changed.set()
        await until(logged)
    worker._tasks["streamer-claim"].cancel()
    await until(refusing)


async def test_an_engine_that_reaps_slowly_delays_no_heartbeat(
    open_service: OpenService, need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Shared(lease_s=0.3)
    beats: asyncio.Queue[int] = asyncio.Queue()
    keep = engine.heartbeat

    async def heartbeat(leases: Sequence[Lease]) -> Sequence[tuple[Lease, Cancel | Lost]]:
        beats.put_nowait(len(leases))
        return await keep(leases)

    async def reap() -> int:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(engine, "heartbeat", heartbeat)
    monkeypatch.setattr(engine, "reap", reap)
    await open_service(need("plain"), plugins=(plugin(engine),))
    async with asyncio.timeout(20):
        for _ in range(3):
            await beats.get()


async def test_an_engine_whose_heartbeat_tells_nothing_keeps_its_jobs(
    open_service: OpenService,
    need: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As one that was written when `heartbeat` returned None."""
    engine = Shared(lease_s=3.0)
    beats: asyncio.Queue[int] = asyncio.Queue()
    keep = engine.heartbeat

    async def heartbeat(leases: Sequence[Lease]) -> None:
        await keep(leases)
        beats.put_nowait(len(leases))

    monkeypatch.setattr(engine, "heartbeat", heartbeat)
    service = await open_service(need("plain"), plugins=(plugin(engine),))
    job = await service.jobs.submit(JobSpec(command=UP))
    await until_output(job)
    async with asyncio.timeout(20):
        for _ in range(3):
            await beats.get()
    assert service.worker.ready
    assert (await job.view()).state == "running"
    assert caplog.text.count("heartbeat() of the engine tests.worker.test_worker.Shared") == 1
    await job.cancel()
    assert (await ended(job)).complete.reason == "cancelled"


async def test_what_a_heartbeat_tells_is_heard_in_any_form(
    open_service: OpenService, need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Shared(lease_s=3.0)
    keep = engine.heartbeat

    async def heartbeat(leases: Sequence[Lease]) -> Any:
        await keep(leases)
        return ((lease, Cancel()) for lease in leases)

    monkeypatch.setattr(engine, "heartbeat", heartbeat)
    service = await open_service(need("plain"), plugins=(plugin(engine),))
    job = await service.jobs.submit(JobSpec(command=UP))
    async with asyncio.timeout(20):
        assert (await ended(job)).complete.reason == "cancelled"


async def test_a_heartbeat_without_a_sensible_answer_ends_no_task_of_the_worker(
    open_service: OpenService, need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Shared(lease_s=0.3)
    service = await open_service(need("plain"), plugins=(plugin(engine),))

    async def heartbeat(leases: Sequence[Lease]) -> Sequence[Any]:
        return [7]

    async def ready() -> bool:
        return service.worker.ready

    async def failing() -> bool:
        return not service.worker.ready

    with monkeypatch.context() as patch:
        patch.setattr(engine, "heartbeat", heartbeat)
        await until(failing)
    await until(ready)


async def test_a_worker_that_is_cut_off_stops_its_jobs_before_their_leases_end(
    open_service: OpenService, need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Shared(lease_s=1.5)
    renew = engine.heartbeat
    failed: list[int] = []

    async def heartbeat(leases: Sequence[Lease]) -> Sequence[tuple[Lease, Cancel | Lost]]:
        if failed:
            failed.append(len(leases))
            raise RuntimeError("the engine is broken")
        told = await renew(leases)
        if leases:
            await asyncio.sleep(engine.heartbeat_s / 2)  # it renews at once and answers late
            failed.append(0)
        return told

    monkeypatch.setattr(engine, "heartbeat", heartbeat)
    service = await open_service(need("plain"), plugins=(plugin(engine),))
    begun: list[Execution] = []
    service.worker.on_start = begun.append
    job = await service.jobs.submit(JobSpec(command=UP))
    await until_output(job)
    async with asyncio.timeout(20):
        assert await asyncio.shield(begun[0]._stop.requested) == "lost"
    # A lease lasts for three heartbeats: with the third that failed it would be too late.
    assert failed[1:] in ([1], [1, 1])


@pytest.mark.parametrize(("told", "reason"), [(Cancel(), "cancelled"), (Lost(), "running")])
async def test_what_a_heartbeat_is_told_is_done(
    open_service: OpenService, need: Callable[[str], str], told: Cancel | Lost, reason: str
) -> None:
    engine = Shared(lease_s=3.0)
    service = await open_service(need("plain"), plugins=(plugin(engine),))
    adopt_orphans()
    before = descendants()
    job = await service.jobs.submit(JobSpec(command=UP))
    await until_output(job)
    engine.say[job.id] = told

    async def gone() -> bool:
        return descendants() == before

    await until(gone)
    if reason == "cancelled":
        assert (await ended(job)).complete.reason == reason
    else:
        assert (await ended(job)).verdict == "error worker_lost"


async def test_jobs_that_were_claimed_before_the_worker_was_cut_off_begin_with_a_renewal(
    open_service: OpenService, need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Shared(lease_s=1.5)
    claim, late = engine.claim, asyncio.Event()
    monkeypatch.setattr(engine, "reap", engine.stats)  # it is never told that they are lost

    async def answered_late(*asked: Any) -> Sequence[Lease]:
        leases = await claim(*asked)
        if leases and not late.is_set():
            engine.away.set()
            await late.wait()
        return leases

    monkeypatch.setattr(engine, "claim", answered_late)
    service = await open_service(need("plain"), plugins=(plugin(engine),))
    ran = asyncio.create_task(run_job(service, command=("echo", "begun")))
    worker = service.worker

    async def cut_off() -> bool:
        return worker._leases.cut_off

    await until(cut_off)
    late.set()
    engine.away.clear()
    async with asyncio.timeout(20):
        assert (await ran).out == "begun\n"


@pytest.mark.parametrize("taken_back", [True, False])
async def test_jobs_that_were_claimed_and_have_not_begun_are_given_back_by_who_stops(
    open_service: OpenService,
    need: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    taken_back: bool,
) -> None:
    """Where nobody else takes them they end: their leases would have to run out."""
    service = await open_service(need("plain"), plugins=(plugin(Shared()),))
    worker = service.worker
    claimed: asyncio.Queue[Sequence[Lease]] = asyncio.Queue()

    async def undecided(leases: Sequence[Lease]) -> Sequence[Lease]:
        claimed.put_nowait(leases)
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(worker._leases, "lost_of", undecided)
    job = await service.jobs.submit(JobSpec(command=("true",)))
    [lease] = await claimed.get()
    if not taken_back:

        async def refused(*, ran: bool = False) -> bool:
            return ran

        monkeypatch.setattr(type(lease), "release", refused)
    await worker.drain(0)
    if taken_back:
        assert (await job.view()).position == 1
    else:
        assert (await ended(job)).verdict == "error shutting_down"


class Silent(Shared):
    """An engine that does not answer some of its calls."""

    def __init__(self, *methods: str) -> None:
        super().__init__()
        self.methods = methods
        self.begun = False

    async def start(self, folder: Path) -> None:
        await self._answer("start")
        self.begun = True
        await super().start(folder)

    async def publish(self, worker: str, capabilities: Capabilities | None) -> None:
        await self._answer("publish" if capabilities is not None else "withdraw")
        await super().publish(worker, capabilities)

    async def close(self) -> None:
        await super().close()
        self.begun = False
        await self._answer("close")

    async def _answer(self, method: str) -> None:
        if method in self.methods:
            await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("role", "method"), [("all", "start"), ("all", "publish"), ("api", "start")]
)
async def test_an_engine_that_does_not_answer_stops_the_start_with_its_name(
    need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, role: Role, method: str
) -> None:
    monkeypatch.setattr("streamer.engine.lifetime.START_S", 0.1)
    monkeypatch.setattr("streamer.engine.lifetime.CLOSE_S", 0.1)
    engine = Silent(method, "close")
    config = {"sandbox": {"backend": need("plain")}, "server": {"role": role}}
    service = build(config, [plugin(engine)])
    with pytest.raises(ServiceError, match=rf"test_worker\.Silent does not answer {method}\(\)"):
        async with asyncio.timeout(60), service:
            pass
    assert not engine.begun, "it is closed"


async def test_an_engine_that_does_not_answer_delays_no_stop(
    need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("streamer.engine.lifetime.CLOSE_S", 0.1)
    monkeypatch.setattr("streamer.worker.worker.WITHDRAW_S", 0.1)
    engine = Silent("withdraw", "close")
    service = build({"sandbox": {"backend": need("plain")}}, [plugin(engine)])
    await service.__aenter__()
    pool = service.worker.pool
    assert pool is not None
    await in_cancelled_task(service.__aexit__)
    assert not pool.folder.path.exists()
    assert "test_worker.Silent did not close" in caplog.text


@pytest.mark.parametrize("during", ["the engine's drain", "the end of the jobs"])
async def test_a_stop_that_is_cancelled_leaves_nothing(
    need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    engine = Shared()
    drains = asyncio.Event()

    async def drain() -> None:
        drains.set()
        await asyncio.Event().wait()

    # So long that the stop is cancelled before it is over.
    grace_s = 20 if during == "the end of the jobs" else 0.2
    sandbox = {"backend": need("plain"), "allow_command": True, "kill_grace_s": grace_s}
    service = build({"sandbox": sandbox}, [plugin(engine)])
    adopt_orphans()
    before = descendants()
    await service.__aenter__()
    pool, begun = service.worker.pool, list[Execution]()
    assert pool is not None
    service.worker.on_start = begun.append
    job = await service.jobs.submit(
        JobSpec(command=("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"))
    )
    await until_output(job)
    async with job.follow() as log:
        with monkeypatch.context() as patch:
            if during == "the engine's drain":
                patch.setattr(engine, "drain", drain)
            stopping = asyncio.create_task(service.__aexit__())
            async with asyncio.timeout(30):
                if during == "the engine's drain":
                    await drains.wait()
                else:
                    await asyncio.shield(begun[0]._stop.requested)
        stopping.cancel()
        await asyncio.wait({stopping}, timeout=60)
        assert stopping.cancelled()
        assert isinstance(log.end, Error)
        assert log.end.code == "shutting_down"
    assert descendants() == before
    assert not pool.folder.path.exists()
    assert await engine.capabilities() == ()


async def test_a_service_that_stops_takes_no_job_while_it_ends_the_others(
    need: Callable[[str], str],
) -> None:
    engine, begun = Shared(), list[Execution]()
    sandbox = {"backend": need("plain"), "allow_command": True}
    service = build({"sandbox": sandbox}, [plugin(engine)])
    await service.__aenter__()
    service.worker.on_start = begun.append
    await until_output(await service.jobs.submit(JobSpec(command=UP)))
    stopping = asyncio.create_task(service.__aexit__())
    async with asyncio.timeout(30):
        await asyncio.shield(begun[0]._stop.requested)
        with pytest.raises(Draining, match="shutting down"):
            await service.jobs.submit(JobSpec(command=UP))
        await stopping


@pytest.mark.parametrize("fault", ["fails", "hangs"])
async def test_a_drain_ends_the_jobs_though_the_engine_cannot_be_told(
    open_service: OpenService,
    need: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    monkeypatch.setattr("streamer.compose.DRAIN_TIMEOUT_S", 0.1)
    engine = Shared()
    service = await open_service(need("plain"), plugins=(plugin(engine),))
    job = await service.jobs.submit(JobSpec(command=UP))
    await until_output(job)

    async def drain() -> None:
        if fault == "hangs":
            await asyncio.Event().wait()
        raise ConnectionError("the engine is away")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "drain", drain)
        await in_cancelled_task(lambda: service.drain(0))
    assert (await ended(job)).verdict == "error shutting_down"
    with pytest.raises(Draining):
        await service.jobs.submit(JobSpec(command=UP))


async def test_streams_of_jobs_that_others_run_end_with_the_service(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.web.app.END_ARRIVES_S", 0.05)
    engine = Shared()
    client = await start(plugins=(plugin(engine),))
    step = Step(Phase.RUN, ("true",), Limits())
    await engine.submit(ResolvedJob("elsewhere", None, "microvm", (step,)))

    async def drain() -> None:
        """Leave the job to another worker."""

    monkeypatch.setattr(engine, "drain", drain)
    async with client.get("/api/stream/elsewhere") as response:
        assert response.status == 200
        await in_cancelled_task(client.app.shutdown)
        assert len(client.app[SESSIONS]) == 0


def test_to_wait_for_readers_takes_an_engine_of_this_process() -> None:
    config = {"streams": {"on_full": "wait"}}
    with pytest.raises(ConfigError, match="on_full"):
        build(config, [plugin(Shared())])
    build(config)


async def test_a_plugins_engine_tells_of_finished_jobs_too(start: Start) -> None:
    heard: list[JobView] = []

    @streamer.hookimpl
    def streamer_job_finished(job: JobView) -> None:
        heard.append(job)

    ledger = SimpleNamespace(streamer_job_finished=streamer_job_finished)
    client = await start(plugins=(plugin(Shared()), ledger))
    verdict(await run(client, command=["true"]))
    async with client.get("/metrics") as response:
        assert 'streamer_jobs_finished_total{outcome="exited"} 1' in await response.text()
    assert [view.state for view in heard] == ["complete"]


async def test_a_service_that_is_cancelled_beside_a_silent_engine_leaves_nothing(
    need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.compose.DRAIN_TIMEOUT_S", 0.1)
    service = build({"sandbox": {"backend": need("plain")}}, [plugin(Shared())])
    entered = asyncio.Event()

    async def silent() -> None:
        await asyncio.Event().wait()

    async def use() -> None:
        async with service:
            monkeypatch.setattr(service.jobs, "drain", silent)
            entered.set()
            await asyncio.Event().wait()

    using = asyncio.create_task(use())
    await asyncio.wait_for(entered.wait(), 30)
    pool = service.worker.pool
    assert pool is not None
    using.cancel()
    await asyncio.wait({using}, timeout=30)
    assert using.cancelled()
    assert not pool.folder.path.exists()
