"""Spans of jobs for OpenTelemetry, with ``tracing.enabled``: the package is the extra `otel`.

Only its API is used. Which SDK records the spans, and where it sends them, is set up by who runs
the service, as OpenTelemetry wants it of a library; without an SDK they are dropped.

A job carries the ``traceparent`` of its acceptance to whatever worker runs it. What the caller
wrote is in no span: no code, arguments, variables, input, output or names of files, and no message
of an error, which may quote them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from streamer import __version__
from streamer.engine.interface import JobView
from streamer.errors import CallerError, ConfigError, StreamerError
from streamer.model.events import Complete, Error
from streamer.model.job import JobFacts
from streamer.model.timeline import Timeline

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

__all__ = ["Acceptance", "Tracing", "send_spans"]

log: Final = logging.getLogger(__name__)

Attributes = Mapping[str, str | int]

SEND_MS: Final = 10_000


def send_spans() -> None:
    """Let the SDK send what it still keeps, in a process that ends without its exit handlers."""
    from opentelemetry import trace  # noqa: PLC0415

    send = getattr(trace.get_tracer_provider(), "force_flush", None)  # of the SDK, not the API
    if send is None:
        return
    try:
        send(SEND_MS)
    except Exception:
        log.exception("the last spans could not be sent")


class Acceptance:
    """The span of a submission. `traceparent` is what the job carries."""

    def __init__(self, span: Span, traceparent: str) -> None:
        self._span = span
        self.traceparent = traceparent

    def accepted(self, job_id: str, *, replayed: bool) -> None:
        self._span.set_attributes({"streamer.job.id": job_id, "streamer.job.replayed": replayed})


class Tracing:
    def __init__(self) -> None:
        """Raises `ConfigError` if the package is not installed."""
        try:
            # Only here: it is an extra.
            from opentelemetry import trace  # noqa: PLC0415
            from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
                TraceContextTextMapPropagator,
            )
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "opentelemetry":
                raise
            raise ConfigError(
                "tracing.enabled: the package opentelemetry-api is not installed: "
                'pip install "aiohttp-streamer[otel]"'
            ) from None
        self._api = trace
        self._propagator = TraceContextTextMapPropagator()
        self._tracer = trace.get_tracer("streamer", __version__)

    def announce(self) -> None:
        """Log if nothing records the spans: the host has set up its SDK by now, if it has one."""
        if isinstance(self._api.get_tracer_provider(), self._api.ProxyTracerProvider):
            log.warning(
                "tracing.enabled has no effect: no OpenTelemetry SDK is set up in this process"
            )

    @contextmanager
    def accepting(self, traceparent: str, tenant: str) -> Iterator[Acceptance]:
        """Record the acceptance of a job.

        Below the span that is current, if a framework of the host has one, otherwise below that of
        the caller's `traceparent`, which is valid or empty.
        """
        api = self._api
        here = api.get_current_span().get_span_context().is_valid
        remote = bool(traceparent) and not here
        span = self._tracer.start_span(
            "job.accept",
            self._context(traceparent) if remote else None,
            kind=api.SpanKind.SERVER if remote else api.SpanKind.INTERNAL,
            attributes={"streamer.tenant": tenant},
        )
        carried: dict[str, str] = {}
        self._propagator.inject(carried, api.set_span_in_context(span))
        try:
            with api.use_span(span, record_exception=False, set_status_on_exception=False):
                yield Acceptance(span, carried.get("traceparent", traceparent))
        except BaseException as error:
            code = error.code if isinstance(error, StreamerError) else type(error).__name__
            span.set_attribute("error.type", code)
            if not isinstance(error, CallerError):
                span.set_status(api.StatusCode.ERROR)
            raise
        finally:
            span.end()

    def ran(self, job: JobFacts, tenant: str, timeline: Timeline, end: Complete | Error) -> None:
        """Record the parts of a job that a worker of this process has run."""
        if not job.traceparent:
            return
        wall_s = time.time() - time.monotonic()
        for name, begin, until in timeline.parts():
            told = _outcome(end) if name in ("run", "finish") else {}
            failed = name == "finish" and isinstance(end, Error)
            self._span(name, job, tenant, (wall_s + begin, wall_s + until), told, failed=failed)

    def ended(self, view: JobView) -> None:
        """Record what no worker tells: a job ended as it waited, or was lost with its worker."""
        end, until = view.result, view.finished_at
        if not view.job.traceparent or until is None:
            return
        if view.started_at is None:
            self._span("wait", view.job, view.tenant, (view.created_at, until), _outcome(end))
        elif isinstance(end, Error) and end.code == "worker_lost":
            for name, begin, over in (
                ("wait", view.created_at, view.started_at),
                ("lost", view.started_at, until),
            ):
                told = _outcome(end) if name == "lost" else {}
                times = (begin, over)
                self._span(name, view.job, view.tenant, times, told, failed=name == "lost")

    def _span(
        self,
        name: str,
        job: JobFacts,
        tenant: str,
        times: tuple[float, float],
        told: Attributes,
        *,
        failed: bool = False,
    ) -> None:
        begin, until = (int(seconds * 1e9) for seconds in times)
        about = {
            "streamer.job.id": job.job_id,
            "streamer.tenant": tenant,
            "streamer.sandbox": job.backend,
            **({} if job.language is None else {"streamer.language": job.language}),
        }
        span = self._tracer.start_span(
            f"job.{name}",
            self._context(job.traceparent),
            attributes={**about, **told},
            start_time=begin,
        )
        if failed:
            span.set_status(self._api.StatusCode.ERROR)
        span.end(max(until, begin))

    def _context(self, traceparent: str) -> Context:
        return self._propagator.extract({"traceparent": traceparent})


def _outcome(end: object) -> Attributes:
    if isinstance(end, Error):
        return {"streamer.outcome": end.code}
    if not isinstance(end, Complete):
        return {}
    values = {
        "streamer.outcome": end.reason,
        "streamer.exit_code": end.exit_code,
        "streamer.signal": end.signal,
        "streamer.duration_ms": end.duration_ms,
        "streamer.cpu_time_ms": end.cpu_time_ms,
        "streamer.peak_memory_bytes": end.peak_memory_bytes,
        "streamer.output_bytes": end.output_bytes,
    }
    return {name: value for name, value in values.items() if value is not None}
