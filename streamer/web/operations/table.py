"""All operations, in the order of the document."""

from __future__ import annotations

from typing import Final

from streamer.web.operations import files, grants, jobs, projects, service, sessions, streams
from streamer.web.operations.operation import Operation

__all__ = ["OPERATIONS", "TAGS"]

OPERATIONS: Final[tuple[Operation, ...]] = (
    jobs.EXECUTE,
    jobs.EXECUTE_BATCH,
    jobs.LIST,
    jobs.SHOW,
    jobs.CANCEL,
    jobs.WRITE,
    jobs.SIGNAL,
    jobs.RESIZE,
    grants.CREATE,
    files.LIST,
    files.READ,
    streams.FOLLOW,
    streams.FOLLOW_MANY,
    streams.OUTPUT,
    streams.CAST,
    streams.READERS,
    projects.UPLOAD,
    projects.SHOW,
    projects.DELETE,
    sessions.OPEN,
    sessions.LIST,
    sessions.SHOW,
    sessions.END,
    sessions.FILES,
    sessions.READ,
    sessions.WRITE,
    sessions.REMOVE,
    service.RUNTIMES,
    service.SANDBOXES,
    service.QUEUE,
    service.HEALTH,
    service.READINESS,
    service.METRICS,
    service.OPENAPI,
    service.DOCS,
    service.PLAYGROUND,
)

TAGS: Final = {
    "jobs": "Submit jobs, and act on them.",
    "files": "The files that jobs leave.",
    "streams": "Follow jobs: events, output, recordings.",
    "projects": "Upload folders of files once, and run any number of jobs in copies of them.",
    "sessions": "Keep a workspace over several jobs, and read and write it between them.",
    "service": "What the service can run, how busy and how healthy it is.",
    "pages": "This document, and the pages.",
}
