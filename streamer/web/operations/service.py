"""The operations about the service, and its pages."""

from __future__ import annotations

from typing import Final

from streamer.web import answers
from streamer.web.callers.access import METRICS_ROUTE
from streamer.web.operations.operation import Operation, Reply
from streamer.web.operations.shared import PAGE_HEADERS

__all__ = [
    "DOCS",
    "HEALTH",
    "METRICS",
    "OPENAPI",
    "OPEN_ROUTES",
    "PLAYGROUND",
    "QUEUE",
    "READINESS",
    "RUNTIMES",
    "SANDBOXES",
]

RUNTIMES: Final = Operation(
    id="listRuntimes",
    method="GET",
    path="/api/runtimes",
    tag="service",
    text="List the languages.",
    replies=(Reply(200, "The languages.", json=answers.Runtimes),),
)

SANDBOXES: Final = Operation(
    id="listSandboxes",
    method="GET",
    path="/api/sandboxes",
    tag="service",
    text="List the backends, and how each enforces the limits here.",
    replies=(Reply(200, "The backends.", json=answers.Sandboxes),),
)

QUEUE: Final = Operation(
    id="showQueue",
    method="GET",
    path="/api/queue",
    tag="service",
    text="Show how busy the service is.",
    replies=(Reply(200, "The queue.", json=answers.Queue),),
)

HEALTH: Final = Operation(
    id="checkHealth",
    method="GET",
    path="/healthz",
    name="streamer-healthz",
    tag="service",
    text="Check that the process answers. Open to everybody.",
    replies=(Reply(200, "It does.", json=answers.Health),),
    checks_query=False,
)

READINESS: Final = Operation(
    id="checkReadiness",
    method="GET",
    path="/readyz",
    name="streamer-readyz",
    tag="service",
    text="Check that jobs are accepted. Open to everybody.",
    replies=(
        Reply(200, "They are.", json=answers.Readiness),
        Reply(503, "They are not; `checks` says why.", json=answers.Readiness),
    ),
    checks_query=False,
)

METRICS: Final = Operation(
    id="readMetrics",
    method="GET",
    path="/metrics",
    name=METRICS_ROUTE,
    tag="service",
    text="Read the metrics, in the text format of Prometheus. Not found if they are off "
    "(`metrics.enabled`).",
    replies=(Reply(200, "The metrics.", media=("text/plain",)),),
    codes=("not_found",),
    checks_query=False,
)

OPENAPI: Final = Operation(
    id="showOpenApi",
    method="GET",
    path="/openapi.json",
    name="streamer-openapi",
    tag="pages",
    text="Get this document.",
    replies=(
        Reply(200, "The document.", media=("application/json",), headers=PAGE_HEADERS),
        Reply(304, "It has not changed.", headers=PAGE_HEADERS),
    ),
)

DOCS: Final = Operation(
    id="showDocs",
    method="GET",
    path="/docs",
    tag="pages",
    text="Show this document as a page.",
    replies=(
        Reply(200, "The page.", media=("text/html",), headers=PAGE_HEADERS),
        Reply(304, "It has not changed.", headers=PAGE_HEADERS),
    ),
    checks_query=False,
)

PLAYGROUND: Final = Operation(
    id="showPlayground",
    method="GET",
    path="/",
    tag="pages",
    text="Show the playground.",
    replies=(
        Reply(200, "The page.", media=("text/html",), headers=PAGE_HEADERS),
        Reply(304, "It has not changed.", headers=PAGE_HEADERS),
    ),
    checks_query=False,
)

OPEN_ROUTES: Final = (HEALTH.name, READINESS.name)
"""Routes that are open to everybody."""
