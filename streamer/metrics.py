"""Render the service's counters in the Prometheus text format, version 0.0.4."""

from __future__ import annotations

from streamer.engine import Stats
from streamer.service import JobService
from streamer.sse.sessionmap import SessionMap

__all__ = ["exposition"]


def exposition(stats: Stats, service: JobService, sessions: SessionMap, body_bytes: int) -> str:
    """Return all metrics as text."""
    gauges = [
        ("streamer_jobs_running", "Jobs that are running.", stats.running),
        ("streamer_jobs_waiting", "Jobs that wait for a worker.", stats.waiting),
        ("streamer_jobs_capacity", "Jobs that may run at once.", service.concurrency),
        ("streamer_oldest_wait_seconds", "Age of the oldest waiting job.", stats.oldest_wait_s),
        ("streamer_logs", "Job logs that are kept.", stats.logs),
        ("streamer_log_bytes", "Size of all logs in memory.", stats.log_bytes),
        ("streamer_log_disk_bytes", "Size of all logs on disk.", stats.disk_bytes),
        ("streamer_streams_open", "Event streams that are open.", len(sessions)),
        ("streamer_body_bytes", "Size of all bodies that are being received.", body_bytes),
    ]
    lines: list[str] = []
    for name, text, value in gauges:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {value}"]
    name = "streamer_jobs_finished_total"
    lines += [f"# HELP {name} Jobs that ended, by outcome.", f"# TYPE {name} counter"]
    lines += [
        f'{name}{{outcome="{outcome}"}} {count}'
        for outcome, count in sorted(service.outcomes.items())
    ]
    return "\n".join(lines) + "\n"
