"""The spans of jobs, as OpenTelemetry's own SDK records them."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp.test_utils import TestClient, TestServer
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.util._once import Once

import streamer
from streamer.compose import build
from streamer.engine.interface import JobView
from streamer.errors import ConfigError
from streamer.jobs.tracing import Tracing
from streamer.model.events import Error
from streamer.model.job import JobFacts
from streamer.web.app import SERVICE
from tests.conftest import Start
from tests.redisserver import RedisServer
from tests.support import AnyClient, follow, submit, text
from tests.test_process import serving
from tests.web import SLEEPER, python, until_state

TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
PARENT: Final = "b7ad6b7169203331"
CALLER: Final = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
ON: Final = {"enabled": True}


class Spans:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()

    def __call__(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}

    async def until(self, name: str) -> dict[str, ReadableSpan]:
        """Return the spans by name once there is one of this name: readers see an end before."""
        async with asyncio.timeout(20):
            while name not in (found := self()):
                await asyncio.sleep(0)
        return found


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """Set up an SDK in this process, as a host does, which can be done only once."""
    recorded = Spans()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(recorded.exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    trace.set_tracer_provider(provider)
    yield recorded
    provider.shutdown()


def ids(span: ReadableSpan) -> tuple[str, str | None]:
    """Return the trace of a span, and its parent."""
    assert span.context is not None
    parent = None if span.parent is None else trace.format_span_id(span.parent.span_id)
    return trace.format_trace_id(span.context.trace_id), parent


def own_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return trace.format_span_id(span.context.span_id)


async def test_each_part_of_a_job_is_a_span_of_the_callers_trace(
    start: Start, spans: Spans
) -> None:
    client = await start(tracing=ON)
    job = {"language": "c", "code": "int main(void) { return 3; }"}
    async with client.post("/api/execute", json=job, headers=CALLER) as response:
        job_id = (await response.json())["jobId"]
    await follow(client, job_id)
    found = await spans.until("job.finish")
    parts = ["job.wait", "job.prepare", "job.compile", "job.run", "job.finish"]
    assert found.keys() == {"job.accept", *parts}
    accept = found["job.accept"]
    assert ids(accept) == (TRACE, PARENT)
    assert accept.kind is SpanKind.SERVER
    assert accept.attributes == {
        "streamer.tenant": "", "streamer.job.id": job_id, "streamer.job.replayed": False,
    }  # fmt: skip
    for before, after in itertools.pairwise(parts):
        assert found[before].end_time == found[after].start_time, (before, after)
    for part in parts:
        span = found[part]
        assert ids(span) == (TRACE, own_id(accept))
        assert span.attributes is not None
        assert span.attributes["streamer.job.id"] == job_id
        assert span.attributes["streamer.language"] == "c"
        assert (span.start_time or 0) <= (span.end_time or 0)
        assert span.status.status_code is StatusCode.UNSET, "a program may end as it likes"
    told = found["job.finish"].attributes or {}
    assert (told["streamer.outcome"], told["streamer.exit_code"]) == ("exited", 3)


async def test_a_host_with_a_span_of_its_own_is_the_parent(start: Start, spans: Spans) -> None:
    client = await start(tracing=ON)
    with trace.get_tracer("host").start_as_current_span("handler") as handler:
        job = await client.app[SERVICE].submit(streamer.JobSpec(command=("true",)))
    await job.result()
    found = await spans.until("job.finish")
    assert ids(found["job.accept"])[1] == trace.format_span_id(handler.get_span_context().span_id)
    assert found["job.accept"].kind is SpanKind.INTERNAL


async def test_an_embedding_application_passes_a_traceparent(start: Start, spans: Spans) -> None:
    client = await start(tracing=ON)
    spec = streamer.JobSpec(command=("true",))
    job = await client.app[SERVICE].submit(spec, traceparent=CALLER["traceparent"])
    await job.result()
    assert ids((await spans.until("job.finish"))["job.accept"]) == (TRACE, PARENT)


async def test_a_caller_that_records_nothing_decides_for_the_job(
    start: Start, spans: Spans
) -> None:
    client = await start(tracing=ON)
    unsampled = {"traceparent": CALLER["traceparent"][:-2] + "00"}
    for headers in (unsampled, CALLER):
        async with client.post(
            "/api/execute", json=python("print(1)"), headers=headers
        ) as response:
            await follow(client, (await response.json())["jobId"])
    await spans.until("job.finish")
    assert len(spans.exporter.get_finished_spans()) == 5, "those of one job only"


async def test_a_job_that_ends_as_it_waits_has_waited(start: Start, spans: Spans) -> None:
    client = await start(tracing=ON, queue={"concurrency": 1})
    running = await submit(client, **SLEEPER)
    await until_state(client, running, "running")
    async with client.post("/api/execute", json=SLEEPER, headers=CALLER) as response:
        waiting = (await response.json())["jobId"]
    async with client.delete(f"/api/jobs/{waiting}") as response:
        assert response.status == 202
    wait = (await spans.until("job.wait"))["job.wait"]
    assert ids(wait)[0] == TRACE
    assert (wait.attributes or {})["streamer.outcome"] == "cancelled"


async def test_a_refusal_is_told_by_its_code_alone(start: Start, spans: Spans) -> None:
    client = await start(tracing=ON)
    bad = {"language": "secret-language", "code": "secret-code"}
    async with client.post("/api/execute", json=bad, headers=CALLER) as response:
        assert response.status == 400
    (accept,) = spans.exporter.get_finished_spans()
    assert (accept.attributes or {})["error.type"] == "unknown_language"
    assert accept.status.status_code is StatusCode.UNSET, "it is the caller's fault"
    assert not accept.events
    assert "secret" not in accept.to_json()


async def test_a_program_gets_no_trace_and_a_span_nothing_of_the_caller(
    start: Start, spans: Spans
) -> None:
    client = await start(tracing=ON)
    code = "import os, sys; print('CANARY', os.environ.get('TRACEPARENT'), sys.argv)"
    job = python(
        code,
        files=[{"name": "CANARY.txt", "content": "CANARY"}],
        args=["CANARY"],
        env={"CANARY": "CANARY"},
        stdin="CANARY",
        metadata={"CANARY": "CANARY"},
        artifacts=["CANARY.txt"],
    )
    headers = {
        **CALLER,
        "Idempotency-Key": "CANARY",
        "baggage": "CANARY=1",
        "tracestate": "a=CANARY",
    }
    async with client.post(
        "/api/execute?access_token=CANARY", json=job, headers=headers
    ) as response:
        events = await follow(client, (await response.json())["jobId"])
    assert text(events).startswith("CANARY None"), text(events) + text(events, "stderr")
    await spans.until("job.finish")
    told = "".join(span.to_json() for span in spans.exporter.get_finished_spans())
    assert "job.run" in told
    assert "CANARY" not in told


def test_a_job_that_is_lost_with_its_worker_is_told_by_who_notices(spans: Spans) -> None:
    facts = JobFacts("j", "python", "bwrap", False, {}, traceparent=CALLER["traceparent"])
    lost = Error("worker_lost", "secret")
    Tracing().ended(JobView(facts, "ann", "error", 1.0, 2.0, 3.5, lost))
    found = spans()
    assert found.keys() == {"job.wait", "job.lost"}
    assert ids(found["job.lost"]) == (TRACE, PARENT)
    assert (found["job.lost"].start_time, found["job.lost"].end_time) == (2 * 10**9, 35 * 10**8)
    assert found["job.lost"].status.status_code is StatusCode.ERROR
    assert "secret" not in found["job.lost"].to_json()


async def test_a_service_whose_spans_nobody_records_says_so(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    await start(tracing=ON)
    assert "no OpenTelemetry SDK is set up" in caplog.text


def test_without_the_package_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match=r"^tracing\.enabled: .*aiohttp-streamer\[otel\]"):
        build({"tracing": {"enabled": True}})


def test_where_it_is_off_nothing_is_imported() -> None:
    program = "import sys, streamer; streamer.create_app(); print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"False\n"


WORKER: Final = """
import asyncio, sys

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

provider = TracerProvider()
lines = ConsoleSpanExporter(formatter=lambda span: span.to_json(indent=None) + "\\n")
provider.add_span_processor(SimpleSpanProcessor(lines))
trace.set_tracer_provider(provider)

import streamer
from streamer.compose import build

async def main():
    config = {"engine": {"url": sys.argv[1]}, "tracing": {"enabled": True}}
    async with build(config):
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


@asynccontextmanager
async def accepting(url: str) -> AsyncIterator[AnyClient]:
    """Run a service that accepts jobs and runs none."""
    config = {
        "server": {"role": "api"},
        "engine": {"url": url},
        "tracing": {"enabled": True},
        "streams": {"grace_s": 0.05},
    }
    app = streamer.create_app(config)
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_a_trace_goes_on_in_another_process(redis: RedisServer, spans: Spans) -> None:
    url = redis.url()
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WORKER, url),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        async with accepting(url) as client, asyncio.timeout(60):
            while not (await client.app[SERVICE].capabilities()).places:
                await asyncio.sleep(0.01)
            async with client.post(
                "/api/execute", json=python("print(1)"), headers=CALLER
            ) as answer:
                job_id = (await answer.json())["jobId"]
            events = await follow(client, job_id)
            assert events[-1].data["reason"] == "exited"
            said, _ = await worker.communicate(b"")
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()
    (accept,) = spans.exporter.get_finished_spans()
    assert (accept.name, *ids(accept)) == ("job.accept", TRACE, PARENT)
    there: list[dict[str, Any]] = [json.loads(line) for line in said.splitlines()]
    assert [span["name"] for span in there] == ["job.wait", "job.prepare", "job.run", "job.finish"]
    for span in there:
        assert span["context"]["trace_id"] == f"0x{TRACE}"
        assert span["parent_id"] == f"0x{own_id(accept)}"
        assert span["attributes"]["streamer.job.id"] == job_id


SITE: Final = """
import sys
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

lines = Path(__file__).with_name("spans").open("a")
exporter = ConsoleSpanExporter(out=lines, formatter=lambda span: span.to_json(indent=None) + "\\n")
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=3_600_000))
trace.set_tracer_provider(provider)
"""


async def test_each_of_several_processes_sends_its_last_spans(
    place: Path, redis: RedisServer
) -> None:
    (place / "sitecustomize.py").write_text(SITE)
    path = f"{place}:{Path(__file__).parents[2]}"
    options = [*("--workers", "2", "--set", "tracing.enabled=true")]
    options += ["--set", f"engine.url={redis.url()}"]
    async with serving(place, *options, prefix=("env", f"PYTHONPATH={path}")) as server:
        jobs = set()
        for _ in range(4):
            async with server.session.post(
                "/api/execute", json=python("1"), headers={**CALLER, "Prefer": "wait=60"}
            ) as answer:
                assert answer.status == 200
                jobs.add((await answer.json())["jobId"])
        assert (place / "spans").read_text() == "", "they are kept, to be sent together"
        server.process.terminate()
        assert await asyncio.wait_for(server.process.wait(), 60) == 0
    sent = [json.loads(line) for line in (place / "spans").read_text().splitlines()]
    for name in ("job.accept", "job.run", "job.finish"):
        of_jobs = [one["attributes"]["streamer.job.id"] for one in sent if one["name"] == name]
        assert sorted(of_jobs) == sorted(jobs), name
