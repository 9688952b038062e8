"""Render what a service counts in the Prometheus text format, version 0.0.4.

By hand, since it is little: the library of Prometheus sums up several processes only by a folder
that a variable names before it is imported, for all services that are mounted in them together. The
tests read what this writes with that library's parser.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Final, Literal

from streamer.engine.interface import Stats
from streamer.engine.measures import Histogram, JobMeasures
from streamer.model.capabilities import Ahead
from streamer.sse.sessionmap import SessionMap

__all__ = ["CONTENT_TYPE", "ENGINE_WIDE", "exposition"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

OF_ENGINE: Final = (
    ("streamer_jobs_running", "Running jobs.", "running"),
    ("streamer_jobs_waiting", "Jobs that wait for a worker.", "waiting"),
    ("streamer_oldest_wait_seconds", "Age of the oldest waiting job.", "oldest_wait_s"),
    ("streamer_logs", "Job logs that are kept.", "logs"),
    ("streamer_log_bytes", "Size of all logs in memory.", "log_bytes"),
    ("streamer_waiting_bytes", "Size of all waiting jobs.", "waiting_bytes"),
    ("streamer_record_bytes", "Size of the records of finished jobs.", "record_bytes"),
    ("streamer_log_disk_bytes", "Size of all logs on disk.", "disk_bytes"),
    ("streamer_blob_bytes", "Disk space of what is uploaded and kept.", "blob_bytes"),
    ("streamer_sessions_open", "Sessions that have not ended.", "sessions"),
    ("streamer_webhooks_pending", "Webhooks that are not delivered yet.", "webhooks"),
)
"""Gauges: name, what it is, and the field of `Stats`."""

CAPACITY: Final = "streamer_jobs_capacity"

ENGINE_WIDE: Final = frozenset((CAPACITY, *(name for name, _, _ in OF_ENGINE)))
"""The gauges that every process of an engine tells alike, of all of them together."""

Kind = Literal["counter", "gauge", "histogram"]
Value = int | float
Samples = Mapping[str, Value]
"""Values by their labels, as they are written."""


def exposition(
    stats: Stats,
    measures: JobMeasures,
    places: int,
    sessions: SessionMap,
    body_bytes: int,
    ahead: Ahead,
    webhooks: Mapping[str, int],
) -> str:
    lines = itertools.chain(
        _of_engine(stats, places),
        _of_process(sessions, body_bytes, ahead),
        _counters(measures, sessions, ahead),
        _family(
            "streamer_webhook_attempts_total",
            "Attempts to deliver, by outcome.",
            "counter",
            {_labels(outcome=outcome): count for outcome, count in sorted(webhooks.items())},
        ),
        _histograms(measures),
    )
    return "".join(f"{line}\n" for line in lines)


def _of_engine(stats: Stats, places: int) -> Iterator[str]:
    for name, text, field in OF_ENGINE:
        yield from _single(name, text, "gauge", getattr(stats, field))
    yield from _single(CAPACITY, "Jobs that may run at once.", "gauge", places)


def _of_process(sessions: SessionMap, body_bytes: int, ahead: Ahead) -> Iterator[str]:
    for name, text, value in (
        ("streamer_streams_open", "Event streams that are open.", len(sessions)),
        (
            "streamer_buffered_bytes",
            "Bytes that wait to be sent to clients.",
            sessions.outgoing.bytes,
        ),
        ("streamer_body_bytes", "Size of all bodies that are being received.", body_bytes),
        ("streamer_sandboxes_held", "Sandboxes that wait for a job.", sum(ahead.held.values())),
    ):
        yield from _single(name, text, "gauge", value)


def _counters(measures: JobMeasures, sessions: SessionMap, ahead: Ahead) -> Iterator[str]:
    yield from _family(
        "streamer_jobs_finished_total",
        "Jobs that ended, by outcome.",
        "counter",
        {_labels(outcome=outcome): count for outcome, count in sorted(measures.outcomes.items())},
    )
    yield from _family(
        "streamer_tenant_run_seconds_total",
        "How long jobs had a worker, by tenant.",
        "counter",
        {_labels(tenant=tenant): took for tenant, took in sorted(measures.tenant_run_s.items())},
    )
    text = "Stalled clients that were cut off."
    yield from _single("streamer_clients_cut_total", text, "counter", sessions.outgoing.cut)
    yield from _family(
        "streamer_sandboxes_lent_total",
        "Sandboxes of jobs, by what was done before.",
        "counter",
        {
            _labels(ahead="nothing"): ahead.cold,
            _labels(ahead="opened"): ahead.opened,
            _labels(ahead="started"): ahead.warm,
        },
    )
    text = "Sandboxes made to fork a program in."
    yield from _single("streamer_programs_forked_total", text, "counter", ahead.forked)


def _histograms(measures: JobMeasures) -> Iterator[str]:
    for name, text, family in (
        ("wait", "From acceptance to a worker.", measures.wait),
        ("start", "From a worker to its first program.", measures.start),
        ("compile", "From a compiler to the program.", measures.compilation),
        ("first_output", "From acceptance to the first output.", measures.first_output),
        ("run", "From a worker to the end.", measures.run),
    ):
        samples: dict[str, Value] = {}
        for values, histogram in sorted(family.by_values.items()):
            labels = dict(zip(family.labels, values, strict=True))
            samples |= _of_histogram(histogram, labels)
        yield from _family(f"streamer_job_{name}_seconds", text, "histogram", samples)
    yield from _family(
        "streamer_stream_lag_seconds",
        "From an event to its write to a reader's socket: a sample.",
        "histogram",
        _of_histogram(measures.stream_lag, {}),
    )


def _of_histogram(histogram: Histogram, labels: Mapping[str, str]) -> dict[str, Value]:
    so_far = list(itertools.accumulate(histogram.counts))
    bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
    buckets = {
        f"_bucket{_labels(**labels, le=le)}": count
        for le, count in zip(bounds, so_far, strict=True)
    }
    own = _labels(**labels)
    return {**buckets, f"_sum{own}": round(histogram.sum_s, 6), f"_count{own}": so_far[-1]}


def _single(name: str, text: str, kind: Kind, value: Value) -> Iterator[str]:
    return _family(name, text, kind, {"": value})


def _family(name: str, text: str, kind: Kind, samples: Samples) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples.items():
        yield f"{name}{labels} {value}"


def _labels(**values: str) -> str:
    """Return labels as they are written; the names of tenants may be anything."""
    told = ",".join(f'{name}="{_escaped(value)}"' for name, value in values.items())
    return f"{{{told}}}" if told else ""


def _escaped(value: str) -> str:
    text = value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return text.encode("utf-8", "replace").decode()  # a plugin's may hold lone surrogates
