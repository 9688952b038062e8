"""The promised HTTP interface: routes, parameters, fields, headers, codes."""

from __future__ import annotations

from typing import Any, Final

from tests.contract import ADDED, KEPT, Mark

ROUTES: Final[dict[str, Mark]] = {
    "POST /api/execute": KEPT,
    "POST /api/execute/batch": 11,
    "GET /api/stream/{id}": KEPT,
    "GET /api/stream": ADDED,
    "GET /api/jobs": KEPT,
    "GET /api/jobs/{id}": KEPT,
    "DELETE /api/jobs/{id}": KEPT,
    "POST /api/jobs/{id}/stdin": KEPT,
    "POST /api/jobs/{id}/signal": KEPT,
    "POST /api/jobs/{id}/resize": KEPT,
    "GET /api/jobs/{id}/files": 11,
    "GET /api/jobs/{id}/files/{path}": 11,
    "GET /api/jobs/{id}/output/{stream}": ADDED,
    "GET /api/jobs/{id}/cast": ADDED,
    "GET /api/jobs/{id}/sessions": ADDED,
    "POST /api/projects": KEPT,
    "GET /api/projects/{id}": KEPT,
    "DELETE /api/projects/{id}": KEPT,
    "POST /api/sessions": 11,
    "GET /api/sessions": 11,
    "GET /api/sessions/{id}": 11,
    "DELETE /api/sessions/{id}": 11,
    "GET /api/sessions/{id}/files": 11,
    "GET /api/sessions/{id}/files/{path}": 11,
    "PUT /api/sessions/{id}/files/{path}": 11,
    "DELETE /api/sessions/{id}/files/{path}": 11,
    "GET /api/runtimes": KEPT,
    "GET /api/sandboxes": KEPT,
    "GET /api/queue": KEPT,
    "GET /healthz": KEPT,
    "GET /readyz": KEPT,
    "GET /metrics": KEPT,
    "GET /openapi.json": KEPT,
    "GET /docs": KEPT,
    "GET /": KEPT,
}

QUERY: Final[dict[str, Mark]] = {
    "GET /api/stream/{id}?lastEventId": KEPT,
    "GET /api/stream/{id}?last_event_id": ADDED,
    "GET /api/stream/{id}?evs_last_event_id": ADDED,
    "GET /api/stream/{id}?padding": ADDED,
    "GET /api/stream/{id}?evs_preamble": ADDED,
    "GET /api/stream/{id}?speed": ADDED,
    "GET /api/stream/{id}?stats": 11,
    "GET /api/stream?job": ADDED,
    "GET /api/stream?lastEventId": ADDED,
    "GET /api/stream?last_event_id": ADDED,
    "GET /api/stream?evs_last_event_id": ADDED,
    "GET /api/stream?padding": ADDED,
    "GET /api/stream?evs_preamble": ADDED,
    "GET /api/jobs?status": KEPT,
    "GET /api/jobs?limit": KEPT,
    "GET /api/jobs?cursor": KEPT,
    "GET /api/jobs/{id}/files?archive": 11,
    "GET /api/jobs/{id}/output/{stream}?follow": ADDED,
    "DELETE /api/jobs/{id}?purge": KEPT,
    "POST /api/jobs/{id}/stdin?close": KEPT,
    "POST /api/jobs/{id}/stdin?seq": ADDED,
}
"""Query parameters by route. Every route also takes ``access_token``, and ``grant`` (issue 12)."""

OPEN: Final = ("GET /", "GET /docs", "GET /healthz", "GET /readyz", "GET /metrics")
"""Routes that ignore their query."""

FIELDS: Final[dict[str, Mark]] = {
    "language": KEPT,
    "command": KEPT,
    "code": KEPT,
    "files": KEPT,
    "projectId": KEPT,
    "entry": KEPT,
    "args": KEPT,
    "env": KEPT,
    "stdin": KEPT,
    "interactive": KEPT,
    "terminal": KEPT,
    "limits": KEPT,
    "network": KEPT,
    "sandbox": KEPT,
    "artifacts": 11,
    "outputEncoding": KEPT,
    "metadata": KEPT,
    "sessionId": 11,
    "environment": KEPT,
    "cases": KEPT,
    "stopOnFailure": KEPT,
    "webhook": 12,
    "retry": 12,
    "priority": 12,
}
"""The fields of ``POST /api/execute``."""

EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "language": {},
    "command": {"language": None, "code": None, "command": ["true"]},
    "code": {"code": "print(1)"},
    "files": {
        "code": None,
        "files": [{"name": "main.py", "content": "cHJpbnQoMSk=", "encoding": "base64"}],
    },
    "projectId": {"code": None, "projectId": "p"},
    "entry": {
        "code": None,
        "entry": "src/a.py",
        "files": [{"name": "src/a.py", "content": "print(1)", "mode": "0755"}],
    },
    "args": {"args": ["--x"]},
    "env": {"env": {"K": "v"}},
    "stdin": {"stdin": "text"},
    "interactive": {"interactive": True},
    "terminal": {"terminal": {"cols": 80, "rows": 24}},
    "limits": {"limits": {"wallTimeS": 5}},
    "network": {"network": True},
    "sandbox": {"sandbox": "bwrap"},
    "artifacts": {"artifacts": ["out/*.png"]},
    "outputEncoding": {"outputEncoding": "base64"},
    "metadata": {"metadata": {"k": "v"}},
    "sessionId": {"sessionId": "s"},
    "environment": {"environment": "science"},
    "cases": {"cases": [{"stdin": "1", "args": [], "env": {}, "limits": {}, "name": "first"}]},
    "stopOnFailure": {"cases": [{"stdin": "1"}], "stopOnFailure": True},
    "webhook": {"webhook": {"url": "https://example.org/", "events": ["complete"]}},
    "retry": {"retry": 3},
    "priority": {"priority": -10},
}
"""A submission for each field, over one of ``{"language": "python", "code": "print(1)"}``."""

LIMITS: Final[dict[str, Mark]] = {
    "wallTimeS": KEPT,
    "cpuTimeS": KEPT,
    "memoryBytes": KEPT,
    "processes": KEPT,
    "openFiles": KEPT,
    "fileBytes": KEPT,
    "diskBytes": KEPT,
    "outputBytes": KEPT,
    "stackBytes": KEPT,
}

CODES: Final[dict[str, Mark]] = {
    "invalid_json": KEPT,
    "invalid_request": KEPT,
    "unknown_language": KEPT,
    "unknown_project": KEPT,
    "payload_too_large": KEPT,
    "not_found": KEPT,
    "queue_full": KEPT,
    "rate_limited": KEPT,
    "unauthorized": KEPT,
    "forbidden": KEPT,
    "conflict": KEPT,
    "shutting_down": KEPT,
    "sandbox_unavailable": KEPT,
    "gone": KEPT,
    "internal": KEPT,
    "storage_full": ADDED,
}

STATUS: Final[dict[str, int]] = {
    "invalid_json": 400,
    "invalid_request": 400,
    "unknown_language": 400,
    "unknown_project": 400,
    "payload_too_large": 413,
    "not_found": 404,
    "queue_full": 429,
    "rate_limited": 429,
    "unauthorized": 401,
    "forbidden": 403,
    "conflict": 409,
    "shutting_down": 503,
    "sandbox_unavailable": 503,
    "gone": 410,
    "internal": 500,
    "storage_full": 429,
}

ACCEPTED: Final[dict[str, Mark]] = {
    "jobId": KEPT,
    "status": KEPT,
    "links.job": KEPT,
    "links.stream": KEPT,
    "links.stdin": KEPT,
    "links.signal": ADDED,
    "links.cancel": ADDED,
    "links.output": ADDED,
    "links.cast": ADDED,
}
"""The body of the 202 to a submission."""

JOB: Final[dict[str, Mark]] = {
    "jobId": KEPT,
    "status": KEPT,
    "createdAt": KEPT,
    "startedAt": KEPT,
    "finishedAt": KEPT,
    "metadata": KEPT,
    "stdout": KEPT,
    "stderr": KEPT,
    "stdoutTruncated": KEPT,
    "stderrTruncated": KEPT,
    "result.reason": KEPT,
    "result.exitCode": KEPT,
    "result.signal": KEPT,
    "result.durationMs": KEPT,
    "result.cpuTimeMs": KEPT,
    "result.peakMemoryBytes": KEPT,
    "result.timedOut": KEPT,
    "result.oomKilled": KEPT,
    "result.outputBytes": KEPT,
    "result.outputTruncated": KEPT,
    "result.sandbox": KEPT,
    "result.phase": KEPT,
    "language": ADDED,
    "environment": ADDED,
    "sandbox": ADDED,
    "policy.backend": ADDED,
    "policy.preset": ADDED,
    "policy.sha256": ADDED,
    "links.job": ADDED,
    "links.stream": ADDED,
    "links.stdin": ADDED,
    "links.signal": ADDED,
    "links.cancel": ADDED,
    "links.output": ADDED,
    "links.cast": ADDED,
}
"""The document of a finished job."""

QUEUE: Final[dict[str, Mark]] = {
    "running": KEPT,
    "waiting": KEPT,
    "capacity": KEPT,
    "estimatedWaitS": KEPT,
    "maxWaiting": ADDED,
}

SANDBOX: Final[dict[str, Mark]] = {
    "name": KEPT,
    "available": KEPT,
    "reason": KEPT,
    "isolation": KEPT,
    "enforces": KEPT,
    "default": ADDED,
    "selectable": ADDED,
    "held": ADDED,
    "forks": ADDED,
    "terminals": ADDED,
}

RUNTIME: Final[dict[str, Mark]] = {
    "name": KEPT,
    "title": ADDED,
    "version": ADDED,
    "aliases": ADDED,
    "entry": ADDED,
    "compiled": ADDED,
    "available": ADDED,
    "reason": ADDED,
    "environments": ADDED,
}

PROBLEM: Final[dict[str, Mark]] = {
    "type": KEPT,
    "title": KEPT,
    "status": KEPT,
    "detail": KEPT,
    "code": KEPT,
    "path": KEPT,
}

REQUEST_HEADERS: Final[dict[str, Mark]] = {
    "Accept": KEPT,
    "Prefer": KEPT,
    "Idempotency-Key": KEPT,
    "Last-Event-ID": KEPT,
    "Authorization": KEPT,
    "Origin": KEPT,
    "Sec-Fetch-Site": KEPT,
    "Sec-Fetch-Mode": ADDED,
    "Host": KEPT,
    "X-Forwarded-For": ADDED,
}
"""Headers that the service reads."""

ANSWER_HEADERS: Final[dict[str, Mark]] = {
    "Location": KEPT,
    "X-Job-Id": KEPT,
    "Retry-After": KEPT,
    "WWW-Authenticate": ADDED,
    "Allow": ADDED,
    "Cache-Control": ADDED,
    "X-Accel-Buffering": ADDED,
    "Vary": ADDED,
    "Access-Control-Allow-Origin": ADDED,
    "Access-Control-Allow-Methods": ADDED,
    "Access-Control-Allow-Headers": ADDED,
    "Access-Control-Expose-Headers": ADDED,
    "Access-Control-Max-Age": ADDED,
    "Content-Disposition": ADDED,
    "Content-Security-Policy": ADDED,
    "X-Content-Type-Options": ADDED,
    "Referrer-Policy": ADDED,
    "Etag": ADDED,
}
