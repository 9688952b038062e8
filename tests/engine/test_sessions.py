"""The promises of `streamer.engine.sessions` for every engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from streamer.engine.interface import Cancel, Engine
from streamer.engine.sessions import SessionNews
from streamer.errors import Busy, Draining, Gone, InvalidJob, NotFound, RateLimited
from streamer.model.capabilities import Accepts
from streamer.model.events import Complete
from streamer.model.job import JobProject, Limits, ResolvedJob
from streamer.model.ranges import ByteRange
from streamer.model.session import (
    Done,
    Listed,
    ListedFile,
    ListFiles,
    Open,
    ReadFile,
    Refused,
    ResolvedSession,
    SessionAnswer,
    SessionRequest,
    Stored,
    WriteFile,
)

from . import ACCEPTS, complete, events_of, make_job
from .conftest import Bench, MemoryBench


def make_session(session_id: str = "s1", tenant: str = "", **how: object) -> ResolvedSession:
    session = ResolvedSession(session_id, tenant, "bwrap", Limits(), idle_s=60.0, total_s=600.0)
    return replace(session, **how)  # type: ignore[arg-type]


def job_of(session_id: str) -> ResolvedJob:
    return replace(make_job(), session_id=session_id)


async def news(
    engine: Engine, worker: str = "w", free: int = 4, held: Mapping[str, int] | None = None
) -> SessionNews:
    return await engine.sessions.news(worker, held or {}, free, ACCEPTS)


async def opened(engine: Engine, session: ResolvedSession | None = None, worker: str = "w") -> str:
    """Open a session, let a worker have it, and return its id."""
    session = session or make_session()
    await engine.sessions.open(session)
    asked = asyncio.create_task(engine.sessions.ask(session.session_id, Open()))
    assert (await news(engine, worker)).opens == (session,)
    while not (found := await news(engine, worker, held={session.session_id: 0})).asked:
        pass
    await engine.sessions.answer(worker, session.session_id, found.asked[0].number, Done())
    assert await asked == Done()
    return session.session_id


async def state_of(engine: Engine, session_id: str) -> str:
    view = await engine.sessions.find(session_id)
    assert view is not None
    return view.ended or view.state


async def test_a_worker_opens_a_session_and_answers_for_it(engine: Engine) -> None:
    session_id = await opened(engine)
    view = await engine.sessions.find(session_id)
    assert view is not None
    assert (view.session, view.state, view.ended) == (make_session(), "idle", None)
    assert view.expires_at == pytest.approx(view.created_at + 60.0)
    assert (await engine.stats()).sessions == 1
    answers: dict[int, SessionAnswer] = {
        2: Listed((ListedFile("a", "file", 1),), complete=True),
        3: Stored("blob", 0, 1, 1, 5, is_part=True),
        4: Refused("not_found", "there is no b"),
    }
    requests: list[SessionRequest] = [
        ListFiles(),
        ReadFile("a", ByteRange(0), part_of=5, known=4),
        WriteFile("b", 0o644, "blob"),
    ]
    asking = [asyncio.create_task(engine.sessions.ask(session_id, one)) for one in requests]
    got: dict[int, object] = {}
    while len(got) < 3:
        last = max(got, default=1)
        for one in (await news(engine, held={session_id: last})).asked:
            assert one.session_id == session_id
            assert one.number not in got
            got[one.number] = one.request
    by_request = {str(request): answers[number] for number, request in got.items()}
    for number in got:
        await engine.sessions.answer("w", session_id, number, answers[number])
    for request, asked in zip(requests, asking, strict=True):
        assert await asked == by_request[str(request)]


async def test_a_session_is_opened_by_a_worker_that_has_all_its_languages(engine: Engine) -> None:
    session = make_session(languages=("c", "python"))
    await engine.sessions.open(session)
    backends = frozenset({"bwrap"})
    for languages, opens in (
        (frozenset({"python"}), ()),
        (frozenset({"java", "python"}), ()),
        (frozenset({"c", "java", "python"}), (session,)),
    ):
        accepts = Accepts(backends, languages)
        worker = " ".join(sorted(languages))
        assert (await engine.sessions.news(worker, {}, 4, accepts)).opens == opens


async def test_what_a_worker_may_not_have_got_is_told_again(engine: Engine) -> None:
    session = make_session()
    await engine.sessions.open(session)
    await engine.sessions.open(session)  # as after a lost answer
    assert (await news(engine)).opens == (session,)
    assert (await news(engine)).opens == (session,)
    asked = asyncio.create_task(engine.sessions.ask("s1", ListFiles()))
    first: SessionNews = SessionNews()
    while not first.asked:
        first = await news(engine, held={"s1": 0})
    assert (await news(engine, held={"s1": 0})).asked == first.asked
    for _ in range(2):
        await engine.sessions.answer("w", "s1", 1, Refused("conflict", "no"))
    assert await asked == Refused("conflict", "no")
    await engine.sessions.answer("w", "s1", 99, Done())
    await engine.sessions.over("other", "s1", "sandbox_error")
    assert await state_of(engine, "s1") == "opening"


async def test_only_a_worker_with_room_and_the_backend_gets_a_session(engine: Engine) -> None:
    await engine.sessions.open(make_session("s1"))
    await engine.sessions.open(make_session("s2"))
    other = Accepts(frozenset({"plain"}), frozenset())
    assert await engine.sessions.news("w", {}, 4, other) == SessionNews()
    assert await engine.sessions.news("w", {}, 0, ACCEPTS) == SessionNews()
    assert [one.session_id for one in (await news(engine, "a", 1)).opens] == ["s1"]
    assert [one.session_id for one in (await news(engine, "b", 4)).opens] == ["s2"]
    assert (await news(engine, "b", 4, {"s1": 0, "s2": 0})).closed == ("s1",)


async def test_only_a_worker_with_its_packages_gets_a_session(engine: Engine) -> None:
    session = make_session(environment="science")
    await engine.sessions.open(session)
    assert await news(engine) == SessionNews()
    having = replace(ACCEPTS, environments=frozenset({"science"}))
    assert (await engine.sessions.news("w", {}, 4, having)).opens == (session,)


async def test_the_jobs_of_a_session_run_one_after_another_at_its_worker(engine: Engine) -> None:
    session_id = await opened(engine)
    first, second, other = job_of(session_id), job_of(session_id), make_job()
    for job in (first, second, other):
        await engine.submit(job)
    # Those of no session pass them.
    taken = [lease.job.job_id for lease in await engine.claim("elsewhere", 4, ACCEPTS)]
    assert taken == [other.job_id]
    [lease] = await engine.claim("w", 4, ACCEPTS)
    assert lease.job == first
    assert (await engine.summary(first.job_id)).job.session_id == session_id  # type: ignore[union-attr]
    assert await state_of(engine, session_id) == "running"
    assert not await engine.claim("w", 4, ACCEPTS)
    await lease.finish([complete()])
    [lease] = await engine.claim("w", 4, ACCEPTS)
    assert lease.job == second
    await lease.finish([complete()])
    assert await state_of(engine, session_id) == "idle"


async def test_no_job_runs_before_the_session_is_open(engine: Engine) -> None:
    await engine.sessions.open(make_session())
    await news(engine)
    await engine.submit(job_of("s1"))
    assert not await engine.claim("w", 4, ACCEPTS)


async def test_the_end_of_a_session_ends_its_jobs_and_requests(engine: Engine) -> None:
    session_id = await opened(engine)
    runs, waits = job_of(session_id), job_of(session_id)
    await engine.submit(runs)
    await engine.submit(waits)
    [lease] = await engine.claim("w", 4, ACCEPTS)
    asked = asyncio.create_task(engine.sessions.ask(session_id, ListFiles()))
    while not (await news(engine, held={session_id: 1})).asked:
        pass
    assert await engine.sessions.end(session_id)
    assert not await engine.sessions.end(session_id)
    with pytest.raises(Gone, match="ended by a request"):
        await asked
    end = (await events_of(engine, waits.job_id))[-1].data
    assert isinstance(end, Complete)
    assert end.reason == "cancelled"
    [(told, what)] = await engine.heartbeat([lease])
    assert (told, what) == (lease, Cancel())
    assert (await news(engine, held={session_id: 2})).closed == (session_id,)
    await lease.finish([complete("cancelled")])
    for call in (
        engine.sessions.ask(session_id, ListFiles()),
        engine.submit(job_of(session_id)),
    ):
        with pytest.raises(Gone):
            await call
    assert not await engine.sessions.of("")
    assert (await engine.stats()).sessions == 0
    for call in (engine.sessions.ask("none", ListFiles()), engine.submit(job_of("none"))):
        with pytest.raises(NotFound):
            await call
    assert (await engine.stats()).waiting == 0


async def test_a_session_ends_when_it_is_not_used(engine: Engine, bench: Bench) -> None:
    session_id = await opened(engine)
    await bench.pass_time(14.0)
    for _ in range(5):
        await news(engine, held={session_id: 1})
        await bench.pass_time(14.0)
    assert await state_of(engine, session_id) == "idle"


@pytest.mark.parametrize("busy", ["job", "request"])
async def test_a_session_in_use_is_not_idle(engine: Engine, bench: Bench, busy: str) -> None:
    session_id = await opened(engine, make_session(idle_s=5.0, total_s=30.0))
    asked = None
    if busy == "job":
        await engine.submit(job_of(session_id))
    else:
        asked = asyncio.create_task(engine.sessions.ask(session_id, ListFiles()))
        while not (await news(engine, held={session_id: 1})).asked:
            pass
    for _ in range(2):
        await bench.pass_time(10.0)
        assert (await news(engine, held={session_id: 2})).closed == ()
    assert await state_of(engine, session_id) == "idle"
    await bench.pass_time(10.0)  # its total time is up
    assert await state_of(engine, session_id) == "total_time"
    if asked is not None:
        with pytest.raises(Gone):
            await asked


async def test_idle_begins_with_the_end_of_the_last_job(engine: Engine, bench: Bench) -> None:
    session_id = await opened(engine, make_session(idle_s=5.0))
    await engine.submit(job_of(session_id))
    [lease] = await engine.claim("w", 4, ACCEPTS)
    await bench.pass_time(10.0)
    await news(engine, held={session_id: 1})
    await engine.heartbeat([lease])
    await lease.finish([complete()])
    await bench.pass_time(4.0)
    assert await state_of(engine, session_id) == "idle"
    await bench.pass_time(1.0)
    view = await engine.sessions.find(session_id)
    assert view is not None
    assert view.ended == "idle"


async def test_a_session_ends_with_its_worker(engine: Engine, bench: Bench) -> None:
    session_id = await opened(engine)
    await bench.pass_time(14.0)
    await news(engine, held={session_id: 1})
    await bench.pass_time(15.0)
    assert await state_of(engine, session_id) == "worker_lost"
    assert (await news(engine, held={session_id: 1})).closed == (session_id,)
    other = await opened(engine, make_session("s2"))
    await engine.sessions.over("w", other, "sandbox_error")
    assert await state_of(engine, other) == "sandbox_error"


async def test_a_worker_that_waits_for_news_is_not_lost() -> None:
    """As when the process that both are in has stood still."""
    bench = MemoryBench()
    engine = await bench.make()
    session_id = await opened(engine)
    waiting = asyncio.create_task(news(engine, held={session_id: 1}))
    await asyncio.sleep(0)
    await bench.pass_time(20.0)
    await engine.reap()
    assert await state_of(engine, session_id) == "idle"
    assert await waiting == SessionNews()
    await bench.pass_time(15.0)
    assert await state_of(engine, session_id) == "worker_lost"
    await bench.close()


async def test_sessions_are_counted(bench: Bench) -> None:
    engine = await bench.make(max_sessions=3, max_sessions_per_client=2)
    for number in range(2):
        await engine.sessions.open(make_session(f"a{number}", "a"))
    with pytest.raises(RateLimited, match="one client"):
        await engine.sessions.open(make_session("a2", "a"))
    await engine.sessions.open(make_session("b0", "b"))
    with pytest.raises(Busy, match=r"sessions\.max"):
        await engine.sessions.open(make_session("c0", "c"))
    assert [one.session.session_id for one in await engine.sessions.of("a")] == ["a1", "a0"]
    await engine.sessions.end("a0")
    await engine.sessions.open(make_session("a3", "a"))


async def test_few_requests_of_a_session_wait(engine: Engine) -> None:
    await engine.sessions.open(make_session())
    asked = [asyncio.create_task(engine.sessions.ask("s1", ListFiles())) for _ in range(16)]
    await news(engine)
    while len((await news(engine, held={"s1": 0})).asked) < 16:
        pass
    with pytest.raises(RateLimited):
        await engine.sessions.ask("s1", ListFiles())
    await engine.sessions.end("s1")
    for one in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(one, Gone)


async def stored_blob(engine: Engine) -> Stored:
    async with engine.blobs.create("", 10, keep_s=600.0) as writer:
        await writer.write(b"x")
        blob = await writer.commit()
    return Stored(blob.id, 0, 1, 1, 1, is_part=False)


@pytest.fixture
async def here() -> AsyncIterator[Engine]:
    """An engine that is told when a caller leaves; the connection of the suite does not tell."""
    bench = MemoryBench()
    yield await bench.make()
    await bench.close()


@pytest.mark.parametrize("how", ["reader left", "session ended"])
async def test_what_is_stored_for_nobody_is_deleted(here: Engine, tmp_path: Path, how: str) -> None:
    engine = here
    await engine.start(tmp_path)
    session_id = await opened(engine)
    asked = asyncio.create_task(engine.sessions.ask(session_id, ReadFile("a")))
    while not (found := await news(engine, held={session_id: 1})).asked:
        pass
    if how == "reader left":
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    else:
        await engine.sessions.end(session_id)
        with pytest.raises(Gone):
            await asked
    stored = await stored_blob(engine)
    await engine.sessions.answer("w", session_id, found.asked[0].number, stored)
    assert await engine.blobs.find(stored.blob_id) is None


async def test_what_a_reader_got_is_the_readers(engine: Engine, tmp_path: Path) -> None:
    await engine.start(tmp_path)
    session_id = await opened(engine)
    asked = asyncio.create_task(engine.sessions.ask(session_id, ReadFile("a")))
    while not (found := await news(engine, held={session_id: 1})).asked:
        pass
    stored = await stored_blob(engine)
    for _ in range(2):  # as after a lost answer
        await engine.sessions.answer("w", session_id, found.asked[0].number, stored)
    assert await asked == stored
    await engine.sessions.answer("w", session_id, found.asked[0].number, stored)
    assert await engine.blobs.find(stored.blob_id) is not None


async def test_an_answer_that_comes_as_its_reader_leaves_is_deleted(
    here: Engine, tmp_path: Path
) -> None:
    engine = here
    await engine.start(tmp_path)
    session_id = await opened(engine)
    asked = asyncio.create_task(engine.sessions.ask(session_id, ReadFile("a")))
    while not (found := await news(engine, held={session_id: 1})).asked:
        pass
    stored = await stored_blob(engine)
    await engine.sessions.answer("w", session_id, found.asked[0].number, stored)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert await engine.blobs.find(stored.blob_id) is None


async def test_who_leaves_again_and_again_gives_its_worker_no_more_to_do(here: Engine) -> None:
    engine = here
    session_id = await opened(engine)
    for number in range(2, 18):
        asked = asyncio.create_task(engine.sessions.ask(session_id, ListFiles()))
        while not (await news(engine, held={session_id: number - 1})).asked:
            pass
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    with pytest.raises(RateLimited):
        await engine.sessions.ask(session_id, ListFiles())
    await engine.sessions.answer("w", session_id, 5, Done())
    asked = asyncio.create_task(engine.sessions.ask(session_id, ListFiles()))
    while not (found := await news(engine, held={session_id: 17})).asked:
        pass
    await engine.sessions.answer("w", session_id, found.asked[0].number, Done())
    assert await asked == Done()
    # What its worker has never got, and nobody waits for, is not counted.
    assert await news(engine, held={session_id: 1}) == SessionNews()
    waiting = [asyncio.create_task(engine.sessions.ask(session_id, ListFiles())) for _ in range(16)]
    while len((await news(engine, held={session_id: 18})).asked) < 16:
        pass
    await engine.sessions.end(session_id)
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_only_so_many_ends_are_remembered(bench: Bench) -> None:
    engine = await bench.make(max_ended_sessions=2, retention_s=100.0)
    for number in range(3):
        await engine.sessions.open(make_session(f"s{number}"))
        await engine.sessions.end(f"s{number}")
    assert await engine.sessions.find("s0") is None
    assert await state_of(engine, "s1") == "deleted"
    await bench.pass_time(100.0)
    assert await engine.sessions.find("s1") is None
    with pytest.raises(NotFound):
        await engine.sessions.ask("s2", ListFiles())


async def test_the_ends_of_one_tenant_push_out_no_other_tenants(bench: Bench) -> None:
    engine = await bench.make(max_ended_sessions=4, retention_s=100.0)
    for number in range(9):
        tenant = "ann" if number < 2 else "ben"
        await engine.sessions.open(make_session(f"s{number}", tenant))
        await engine.sessions.end(f"s{number}")
    known = [n for n in range(9) if await engine.sessions.find(f"s{n}") is not None]
    assert known == [0, 1, 7, 8]
    await bench.pass_time(100.0)
    await engine.sessions.open(make_session("s9", "cid"))
    await engine.sessions.end("s9")
    assert [n for n in range(10) if await engine.sessions.find(f"s{n}") is not None] == [9]
    for number in range(10, 16):
        await engine.sessions.open(make_session(f"s{number}", "ann"))
        await engine.sessions.end(f"s{number}")
    known = [n for n in range(16) if await engine.sessions.find(f"s{n}") is not None]
    assert known == [9, 13, 14, 15]


async def test_the_project_of_a_session_is_kept_until_its_end(
    engine: Engine, tmp_path: Path
) -> None:
    await engine.start(tmp_path)
    async with engine.blobs.create("", 10) as writer:
        await writer.write(b"x")
        blob = await writer.commit()
    project = JobProject(blob.id, 1, 1)
    await engine.sessions.open(make_session(project=project))
    await engine.blobs.delete(blob.id)
    async with engine.blobs.open(blob.id):
        pass
    await engine.sessions.end("s1")
    with pytest.raises(NotFound):
        async with engine.blobs.open(blob.id):
            pass
    with pytest.raises(InvalidJob):
        await engine.sessions.open(make_session("s2", project=project))


async def test_who_drains_opens_no_sessions(engine: Engine) -> None:
    session_id = await opened(engine)
    await engine.drain()
    with pytest.raises(Draining):
        await engine.sessions.open(make_session("s2"))
    assert await state_of(engine, session_id) == "idle"
