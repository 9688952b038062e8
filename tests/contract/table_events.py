"""The promised events of a job: their kinds, fields and values."""

from __future__ import annotations

from typing import Final

from tests.contract import ADDED, KEPT, Mark

KINDS: Final[dict[str, Mark]] = {
    "status": KEPT,
    "output": KEPT,
    "truncated": KEPT,
    "gap": KEPT,
    "artifact": KEPT,
    "stats": 11,
    "case": KEPT,
    "complete": KEPT,
    "error": KEPT,
}

FIELDS: Final[dict[str, Mark]] = {
    "status.state": KEPT,
    "status.position": KEPT,
    "status.t": KEPT,
    "status.jobId": KEPT,
    "output.stream": KEPT,
    "output.data": KEPT,
    "output.t": KEPT,
    "output.phase": KEPT,
    "output.lossy": KEPT,
    "output.encoding": KEPT,
    "output.case": KEPT,
    "truncated.stream": KEPT,
    "truncated.droppedBytes": KEPT,
    "gap.from": KEPT,
    "gap.to": KEPT,
    "gap.reason": KEPT,
    "artifact.name": KEPT,
    "artifact.bytes": KEPT,
    "artifact.sha256": KEPT,
    "artifact.url": KEPT,
    "stats.cpuTimeMs": 11,
    "stats.memoryBytes": 11,
    "stats.processes": 11,
    "stats.t": 11,
    "case.index": KEPT,
    "case.name": KEPT,
    "case.reason": KEPT,
    "case.exitCode": KEPT,
    "case.signal": ADDED,
    "case.durationMs": ADDED,
    "case.cpuTimeMs": ADDED,
    "case.peakMemoryBytes": ADDED,
    "case.timedOut": ADDED,
    "case.oomKilled": ADDED,
    "case.outputBytes": ADDED,
    "case.outputTruncated": ADDED,
    "case.t": ADDED,
    "complete.reason": KEPT,
    "complete.exitCode": KEPT,
    "complete.signal": KEPT,
    "complete.durationMs": KEPT,
    "complete.cpuTimeMs": KEPT,
    "complete.peakMemoryBytes": KEPT,
    "complete.timedOut": KEPT,
    "complete.oomKilled": KEPT,
    "complete.outputBytes": KEPT,
    "complete.outputTruncated": KEPT,
    "complete.sandbox": KEPT,
    "complete.phase": KEPT,
    "complete.artifactsFailed": ADDED,
    "complete.cached": ADDED,
    "complete.cases": KEPT,
    "error.code": KEPT,
    "error.message": KEPT,
}

VALUES: Final[dict[str, Mark]] = {
    "status.state queued": KEPT,
    "status.state preparing": KEPT,
    "status.state compiling": KEPT,
    "status.state running": KEPT,
    "output.stream stdout": KEPT,
    "output.stream stderr": KEPT,
    "output.phase compile": KEPT,
    "output.phase run": KEPT,
    "output.encoding base64": KEPT,
    "complete.reason exited": KEPT,
    "complete.reason signaled": KEPT,
    "complete.reason wall_time": KEPT,
    "complete.reason cpu_time": KEPT,
    "complete.reason memory": KEPT,
    "complete.reason output_limit": KEPT,
    "complete.reason disk": KEPT,
    "complete.reason cancelled": KEPT,
    "error.code sandbox_error": KEPT,
    "error.code worker_lost": KEPT,
    "error.code shutting_down": KEPT,
    "error.code internal": KEPT,
}
"""The values of the fields that have a closed list of them."""

ALWAYS: Final = {
    "status": {"state", "t"},
    "output": {"stream", "data", "t", "phase"},
    "truncated": {"stream", "droppedBytes"},
    "gap": {"from", "to", "reason"},
    "case": {
        *("index", "reason", "exitCode", "signal", "durationMs", "cpuTimeMs", "peakMemoryBytes"),
        *("timedOut", "oomKilled", "outputBytes", "outputTruncated", "t"),
    },
    "complete": {
        *("reason", "exitCode", "signal", "durationMs", "cpuTimeMs", "peakMemoryBytes"),
        *("timedOut", "oomKilled", "outputBytes", "outputTruncated", "sandbox", "phase"),
    },
    "error": {"code", "message"},
}
"""The fields that every event of a kind has."""
