"""Set up logging for the standalone service; a host application has its own logging.

A record may have fields (``extra={"fields": {...}}``): in JSON they are keys of the line; in text
the message has them already.
"""

from __future__ import annotations

import json
import logging
import math
import socket
import sys
import time
from datetime import UTC, datetime
from typing import Final

from streamer.config.schema import LoggingConfig
from streamer.engine.interface import JobView
from streamer.model.events import Complete, Error
from streamer.model.terminal import visible
from streamer.model.tracecontext import trace_id

__all__ = ["configure_logging", "log_finished", "mark_process"]

TEXT_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
MARKED_FORMAT: Final = "%(asctime)s %(levelname)s [{}] %(name)s: %(message)s"

ACCEPT_FAILED: Final = "socket.accept() out of system resource"
ACCEPT_PAUSE_S: Final = 60.0

jobs: Final = logging.getLogger("streamer.jobs")


def log_finished(view: JobView) -> None:
    end = view.result
    fields: dict[str, object] = {
        "job_id": view.job.job_id,
        "tenant": view.tenant,
        "language": view.job.language,
        "sandbox": view.job.backend,
    }
    if view.job.traceparent:
        fields["trace_id"] = trace_id(view.job.traceparent)
    if view.started_at is not None:
        fields["waited_ms"] = round((view.started_at - view.created_at) * 1000)
    if isinstance(end, Complete):
        fields |= {
            "reason": end.reason,
            "exit_code": end.exit_code,
            "signal": end.signal,
            "duration_ms": end.duration_ms,
            "cpu_time_ms": end.cpu_time_ms,
            "peak_memory_bytes": end.peak_memory_bytes,
            "output_bytes": end.output_bytes,
        }
    elif isinstance(end, Error):
        fields |= {"reason": "error", "code": end.code, "error": end.message}
    told = " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
    jobs.info("%s", told, extra={"fields": fields})


class _TextFormatter(logging.Formatter):
    """One line for each record, whatever a caller has put into it; then the traceback, if any."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = visible(record.message)
        return super().formatMessage(record)


class _JsonFormatter(logging.Formatter):
    def __init__(self, process: str = "") -> None:
        super().__init__()
        self._host = socket.gethostname()
        self._of_all = {"process": process} if process else {}

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "node": f"{self._host}:{record.process}",
            **self._of_all,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document)


CALLERS_FAULTS: Final = frozenset(
    # A malformed head, a malformed body, and a client that left before "100 Continue".
    ("HttpProcessingError", "RequestPayloadError", "ClientConnectionResetError")
)


class _NoCallersFaults(logging.Filter):
    """Drops aiohttp's tracebacks for malformed requests: a port scan could fill a disk."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the record unless its exception is the caller's fault; the message does not tell."""
        kind = record.exc_info[0] if record.exc_info else None
        # By name, since this module does not import aiohttp.
        return CALLERS_FAULTS.isdisjoint(cls.__name__ for cls in (kind.__mro__ if kind else ()))


class _FewAcceptErrors(logging.Filter):
    """Keeps one line a minute of asyncio's failed accepts, each of which has a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self._silent_until = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.getMessage().startswith(ACCEPT_FAILED):
            return True
        if time.monotonic() < self._silent_until:
            return False
        self._silent_until = time.monotonic() + ACCEPT_PAUSE_S
        error = record.exc_info[1] if record.exc_info else None
        record.msg, record.args, record.exc_info, record.exc_text = (
            "connections cannot be accepted (logged once a minute): %s",
            (error,),
            None,
            None,
        )
        return True


def configure_logging(config: LoggingConfig) -> None:
    """Send log records to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = _JsonFormatter() if config.format == "json" else _TextFormatter(TEXT_FORMAT)
    handler.setFormatter(formatter)
    logging.basicConfig(level=config.level.upper(), handlers=[handler])
    logging.getLogger("aiohttp.server").addFilter(_NoCallersFaults())
    logging.getLogger("asyncio").addFilter(_FewAcceptErrors())


def mark_process(name: str) -> None:
    """Let each line say which process of the service has written it."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, _JsonFormatter):
            handler.setFormatter(_JsonFormatter(name))
        elif isinstance(handler.formatter, _TextFormatter):
            handler.setFormatter(_TextFormatter(MARKED_FORMAT.format(name)))
