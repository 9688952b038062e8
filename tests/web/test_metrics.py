"""What /metrics tells, as Prometheus's own library reads it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

import streamer
from streamer.engine.interface import JobView, Stats
from streamer.engine.measures import MOST_TENANTS, JobMeasures
from streamer.model.capabilities import Ahead
from streamer.model.events import Complete
from streamer.model.job import JobFacts
from streamer.model.timeline import Timeline
from streamer.sse.sessionmap import SessionMap
from streamer.web.app import SERVICE
from streamer.web.metrics import ENGINE_WIDE, exposition
from streamer.web.siblings import merged
from tests.conftest import Start
from tests.support import AnyClient, follow, received, submit
from tests.web import python, until_output

Families = Mapping[str, Metric]

HISTOGRAMS: Final = {
    "streamer_job_wait_seconds": {"language", "tenant"},
    "streamer_job_start_seconds": {"language"},
    "streamer_job_compile_seconds": {"language"},
    "streamer_job_first_output_seconds": {"language"},
    "streamer_job_run_seconds": {"language", "reason"},
    "streamer_stream_lag_seconds": set(),
}


def parsed(text: str) -> Families:
    """Return the families by name; each comes once, and says what it is."""
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    assert all(family.documentation and family.type != "unknown" for family in families)
    return {family.name: family for family in families}


async def told(client: AnyClient, **headers: str) -> Families:
    async with client.get("/metrics", headers=headers) as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return parsed(await response.text())


async def until(client: AnyClient, reached: Callable[[Families], bool], **headers: str) -> Families:
    """Return what is told once it is so: readers may see an end before it is counted."""
    async with asyncio.timeout(20):
        while not reached(found := await told(client, **headers)):
            pass
    return found


def count(families: Families, name: str, **labels: str) -> float:
    """Return how many durations with these labels a histogram has counted."""
    return sum(
        sample.value
        for sample in families[name].samples
        if sample.name == f"{name}_count" and labels.items() <= sample.labels.items()
    )


def ended(families: Families) -> float:
    return sum(sample.value for sample in families["streamer_jobs_finished"].samples)


async def test_each_part_of_a_job_is_counted_with_the_labels_of_its_kind(start: Start) -> None:
    digest = hashlib.sha256(b"a").hexdigest()
    token = {"tenant": "ann", "sha256": digest, "scopes": ["run", "read", "metrics"]}
    bearer = {"Authorization": "Bearer a"}
    client = await start(auth={"tokens": [token], "tenants": {"bob": {}}})
    for job in (
        python("print(1)"),
        {"language": "c", "code": "int main(void) { return 3; }"},
        {"language": "c", "code": "no program"},
        {"command": ["true"]},
    ):
        async with client.post("/api/execute", json=job, headers=bearer) as response:
            job_id = (await response.json())["jobId"]
        async with client.get(f"/api/stream/{job_id}", headers=bearer) as response:
            await response.read()
    spec = streamer.JobSpec(command=("true",))
    for tenant in ("bob", "nobody of the configuration"):
        await (await client.app[SERVICE].submit(spec, tenant=tenant)).result()
    families = await until(
        client,
        lambda now: ended(now) == count(now, "streamer_job_start_seconds") == 6,
        **bearer,
    )
    for name, labels in HISTOGRAMS.items():
        assert families[name].type == "histogram"
        for sample in families[name].samples:
            assert sample.labels.keys() - {"le"} == labels, sample
    wait = "streamer_job_wait_seconds"
    assert count(families, wait, language="python", tenant="ann") == 1
    assert count(families, wait, language="c", tenant="ann") == 2
    assert count(families, wait, language="command", tenant="other") == 1
    assert count(families, wait, language="command", tenant="bob") == 1
    assert count(families, wait) == 6
    assert count(families, "streamer_job_start_seconds", language="c") == 2
    assert count(families, "streamer_job_compile_seconds", language="c") == 2
    assert count(families, "streamer_job_compile_seconds") == 2, "the others have no compiler"
    assert count(families, "streamer_job_first_output_seconds", language="python") == 1
    assert count(families, "streamer_job_run_seconds", language="c", reason="exited") == 2
    used = families["streamer_tenant_run_seconds"].samples
    assert {sample.labels["tenant"] for sample in used} == {"ann", "bob", "other"}
    assert all(sample.value > 0 for sample in used)


async def test_outcomes_are_counted_from_nought(start: Start) -> None:
    """`increase` knows no first value: a counter must be there before what it counts."""
    families = await told(await start())
    outcomes = {
        sample.labels["outcome"]: sample.value
        for sample in families["streamer_jobs_finished"].samples
    }
    assert outcomes.keys() > {"exited", "memory", "worker_lost", "sandbox_error", "internal"}
    assert not any(outcomes.values())


async def test_the_lag_of_live_readers_is_sampled_and_not_that_of_late_ones(start: Start) -> None:
    client = await start()
    lag = "streamer_stream_lag_seconds"
    code = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
    job_id = await submit(client, **python(code, interactive=True))
    async with client.get(f"/api/stream/{job_id}") as response:
        events = received(response)
        async with client.post(f"/api/jobs/{job_id}/stdin", data=b"one\n"):
            await until_output(events, "one\n")
        live = await until(client, lambda now: count(now, lag) > 0)
        async with client.post(f"/api/jobs/{job_id}/stdin?close=1", data=b"two\n"):
            await until_output(events, "two\n")
            async for _ in events:
                pass
    assert count(live, lag) >= 1
    before = count(await told(client), lag)
    for _ in range(3):
        await follow(client, job_id)
    assert count(await told(client), lag) == before, "what is old has no lag"


def complete(tenant: str, language: str, reason: Any) -> JobView:
    end = Complete(reason, 0, None, 1, 1, 1, False, False, 1, False, "bwrap", "run")
    facts = JobFacts("j", language, "bwrap", interactive=False, metadata={})
    return JobView(facts, tenant, "complete", 1.0, 2.0, 3.0, end, first_output_at=2.5)


def exposed(measures: JobMeasures) -> str:
    stats = Stats(waiting=2, running=1, oldest_wait_s=0.5, logs=3, log_bytes=4)
    return exposition(stats, measures, 8, SessionMap(), 5, Ahead(), {"delivered": 1})


def test_no_caller_makes_series_without_bound() -> None:
    languages = [f"l{number}" for number in range(20)]
    tenants = [f"t{number}" for number in range(1000)]
    measures = JobMeasures(languages, tenants)
    for number in range(20_000):
        tenant, language = f"t{number}", f"l{number // 7}"
        measures.finished(complete(tenant, language, "exited"))
        measures.ran(language, Timeline(1, 2, compiling=3, running=4, judged=5, finished=6))
    families = parsed(exposed(measures))
    of_tenant = {s.labels["tenant"] for s in families["streamer_job_wait_seconds"].samples}
    assert of_tenant <= {*tenants[:MOST_TENANTS], "other"}
    for family in families.values():
        for sample in family.samples:
            assert sample.labels.get("language", "other") in {*languages, "other"}
    wait = {
        tuple(sorted(s.labels.items() - {("le", s.labels.get("le"))}))
        for s in families["streamer_job_wait_seconds"].samples
    }
    assert len(wait) <= (len(languages) + 1) * (MOST_TENANTS + 1)
    assert count(families, "streamer_job_wait_seconds") == 20_000, "none is left out"


def test_a_tenant_of_any_name_is_a_label() -> None:
    names = ['say "hi"\\', "two\nlines", "", "é\udc80"]
    measures = JobMeasures(["python"], names)
    for name in names:
        measures.finished(complete(name, "python", "exited"))
    families = parsed(exposed(measures))
    found = {s.labels["tenant"] for s in families["streamer_tenant_run_seconds"].samples}
    assert found == {*names[:3], "é?"}


def test_what_processes_tell_together_has_each_gauge_of_the_engine_once() -> None:
    one, other = (JobMeasures(["python", "c"], ["ann"]) for _ in range(2))
    one.finished(complete("ann", "python", "exited"))
    other.finished(complete("ann", "python", "exited"))
    other.finished(complete("bob", "c", "memory"))
    alone, both = parsed(exposed(one)), parsed(merged({1: exposed(one), 2: exposed(other)}, 1))
    assert both.keys() - alone.keys() == {"streamer_processes"}
    assert both.keys() >= ENGINE_WIDE
    for name, family in alone.items():
        if name in ENGINE_WIDE:
            assert both[name].samples == family.samples
        elif family.samples:
            numbers = {sample.labels["process"] for sample in both[name].samples}
            assert numbers == {"1", "2"}, name
    assert ended(both) == count(both, "streamer_job_wait_seconds") == 3
    assert count(both, "streamer_job_wait_seconds", language="python") == 2
