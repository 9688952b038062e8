"""Render the service's counters in the Prometheus text format, version 0.0.4."""

from __future__ import annotations

import itertools

from streamer.engine.interface import Stats
from streamer.engine.measures import BOUNDS_S, Histogram, JobMeasures
from streamer.model.capabilities import Ahead
from streamer.sse.sessionmap import SessionMap

__all__ = ["exposition"]


def exposition(
    stats: Stats,
    measures: JobMeasures,
    places: int,
    sessions: SessionMap,
    body_bytes: int,
    ahead: Ahead,
) -> str:
    gauges = [
        ("streamer_jobs_running", "Running jobs.", stats.running),
        ("streamer_jobs_waiting", "Jobs that wait for a worker.", stats.waiting),
        ("streamer_jobs_capacity", "Jobs that may run at once.", places),
        ("streamer_oldest_wait_seconds", "Age of the oldest waiting job.", stats.oldest_wait_s),
        ("streamer_logs", "Job logs that are kept.", stats.logs),
        ("streamer_log_bytes", "Size of all logs in memory.", stats.log_bytes),
        ("streamer_waiting_bytes", "Size of all waiting jobs.", stats.waiting_bytes),
        ("streamer_record_bytes", "Size of the records of finished jobs.", stats.record_bytes),
        ("streamer_log_disk_bytes", "Size of all logs on disk.", stats.disk_bytes),
        ("streamer_blob_bytes", "Disk space of what is uploaded and kept.", stats.blob_bytes),
        ("streamer_streams_open", "Event streams that are open.", len(sessions)),
        (
            "streamer_buffered_bytes",
            "Bytes that wait to be sent to clients.",
            sessions.outgoing.bytes,
        ),
        ("streamer_body_bytes", "Size of all bodies that are being received.", body_bytes),
        ("streamer_sandboxes_held", "Sandboxes that wait for a job.", sum(ahead.held.values())),
    ]
    lines: list[str] = []
    for name, text, value in gauges:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {value}"]
    lines += _counter("streamer_jobs_finished_total", "Jobs that ended, by outcome.")
    lines += [
        f'streamer_jobs_finished_total{{outcome="{outcome}"}} {count}'
        for outcome, count in sorted(measures.outcomes.items())
    ]
    lines += _counter("streamer_clients_cut_total", "Stalled clients that were cut off.")
    lines.append(f"streamer_clients_cut_total {sessions.outgoing.cut}")
    lines += _counter(
        "streamer_sandboxes_lent_total", "Sandboxes of jobs, by what was done before."
    )
    lines += [
        f'streamer_sandboxes_lent_total{{ahead="{what}"}} {count}'
        for what, count in (
            ("nothing", ahead.cold),
            ("opened", ahead.opened),
            ("started", ahead.warm),
        )
    ]
    lines += _counter("streamer_programs_forked_total", "Sandboxes made to fork a program in.")
    lines.append(f"streamer_programs_forked_total {ahead.forked}")
    for name, text, histogram in (
        ("streamer_job_wait_seconds", "From acceptance to a worker.", measures.wait),
        ("streamer_job_run_seconds", "From a worker to the end.", measures.run),
        ("streamer_job_first_output_seconds", "To the first output.", measures.first_output),
    ):
        lines += _histogram(name, text, histogram)
    return "\n".join(lines) + "\n"


def _counter(name: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} counter"]


def _histogram(name: str, text: str, histogram: Histogram) -> list[str]:
    so_far = list(itertools.accumulate(histogram.counts))
    bounds = [*(f"{bound:g}" for bound in BOUNDS_S), "+Inf"]
    return [
        f"# HELP {name} {text}",
        f"# TYPE {name} histogram",
        *(f'{name}_bucket{{le="{le}"}} {n}' for le, n in zip(bounds, so_far, strict=True)),
        f"{name}_sum {histogram.sum_s:.6f}",
        f"{name}_count {so_far[-1]}",
    ]
