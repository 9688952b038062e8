"""The exceptions of this package, by whose fault it was.

::

    StreamerError
     +-- CallerError           the request is at fault (4xx)
     |    +-- InvalidRequest   400  malformed, unknown parameter, value out of range
     |    |    +-- InvalidJob        the same of a job
     |    +-- Unauthorized     401  no or wrong credentials
     |    +-- Forbidden        403  the configuration does not allow it
     |    +-- NotFound         404  there is no such thing here
     |    |    +-- UnknownJob        no such job, or not the caller's
     |    +-- Conflict         409  the job is not in a state that allows it
     |    +-- Gone             410  it is no longer kept
     |    +-- TooLarge         413  the body is over the limit
     +-- CapacityError         nobody is at fault, try again later (429, 503)
     |    +-- Busy             429  the queue is full
     |    |    +-- RateLimited       the caller's share of something is taken
     |    +-- Draining         503  the service is shutting down
     |    +-- NoWorker         503  no living worker can run it
     |    +-- EngineUnavailable 503  the engine's server cannot be reached
     +-- ServiceError          the service or the host is at fault (5xx, or no start)
          +-- BackendUnavailable  503  the sandbox is missing or failed its test
          +-- SandboxFailure      a sandbox that worked before could not run a job
          +-- ConfigError         config.toml, the environment or an option is wrong
          +-- PluginError         a plugin is broken or clashes with another

Messages of `CallerError` and `CapacityError` are shown to callers, so they must not
contain a path of the server, an argument vector or a traceback.
"""

from __future__ import annotations

__all__ = [
    "BackendUnavailable",
    "Busy",
    "CallerError",
    "CapacityError",
    "ConfigError",
    "Conflict",
    "Draining",
    "EngineUnavailable",
    "Forbidden",
    "Gone",
    "InvalidJob",
    "InvalidRequest",
    "NoWorker",
    "NotFound",
    "PluginError",
    "RateLimited",
    "SandboxFailure",
    "ServiceError",
    "StreamerError",
    "TooLarge",
    "Unauthorized",
    "UnknownJob",
    "cut",
    "quoted",
    "unknown_project",
]

MAX_NAME_CHARS = 100


def cut(text: str, most: int = MAX_NAME_CHARS) -> str:
    """Shorten a text from a caller to `most` characters, for a message or a log line."""
    return text if len(text) <= most else f"{text[:most]}..."


def quoted(text: str) -> str:
    """Return ``repr`` of a name from a caller, shortened: control characters are escaped."""
    return repr(cut(text))


class StreamerError(Exception):
    """The base of all exceptions that this package raises on purpose.

    `code` is the machine-readable name of the problem, `status` the HTTP status
    that carries it (RFC 9457).
    """

    code: str = "internal"
    status: int = 500

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class CallerError(StreamerError):
    """The request is at fault; `path` is the place in it (``$.limits.wallTimeS``)."""

    code = "invalid_request"
    status = 400

    def __init__(self, message: str, *, path: str | None = None, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.path = path

    def __str__(self) -> str:
        return self.message if self.path is None else f"{self.message} ({self.path})"


class InvalidRequest(CallerError):
    """The request is malformed, or has an invalid parameter or header (400)."""


class InvalidJob(InvalidRequest):
    """The job is malformed, names something unknown, or exceeds ``limits.max`` (400)."""


def unknown_project(project_id: str) -> InvalidJob:
    """Return the error for a job that names a project that does not exist, or is another's."""
    return InvalidJob(
        f"unknown project {quoted(project_id)}", path="$.projectId", code="unknown_project"
    )


class Unauthorized(CallerError):
    """The caller has no credentials, or wrong ones.

    `challenge` is the WWW-Authenticate header of the response.
    """

    code = "unauthorized"
    status = 401

    def __init__(self, message: str, *, challenge: str | None = "Bearer") -> None:
        super().__init__(message)
        self.challenge = challenge


class Forbidden(CallerError):
    """The configuration or a plugin does not allow this to the caller (403)."""

    code = "forbidden"
    status = 403


class NotFound(CallerError):
    """What the request names does not exist (404)."""

    code = "not_found"
    status = 404


class UnknownJob(NotFound):
    """The job never existed, has expired, or belongs to another tenant (404, alike for all)."""


class Conflict(CallerError):
    """The job's state, or an earlier use of the idempotency key, does not allow this (409)."""

    code = "conflict"
    status = 409


class Gone(CallerError):
    """The output, or the job of a key, is no longer kept; or the session has ended (410)."""

    code = "gone"
    status = 410


class TooLarge(CallerError):
    """The request, or the job in it, is larger than is ever allowed (413): do not retry it."""

    code = "payload_too_large"
    status = 413


class CapacityError(StreamerError):
    """There is no capacity now (429, 503); try again after about `retry_after_s` seconds."""

    code = "queue_full"
    status = 429

    def __init__(
        self, message: str, *, retry_after_s: float = 1.0, code: str | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class Busy(CapacityError):
    """The queue is full; or, as `RateLimited`, the share of one caller is used up (429)."""


class RateLimited(Busy):
    """The caller's share of the queue, the streams, the requests or the input is used up (429)."""

    code = "rate_limited"


class Draining(CapacityError):
    """The service is shutting down, or has not started yet, and accepts no jobs (503)."""

    code = "shutting_down"
    status = 503


class NoWorker(CapacityError):
    """No worker is there that could run it; one may come (503)."""

    code = "sandbox_unavailable"
    status = 503


class EngineUnavailable(CapacityError, ConnectionError):
    """The server of the engine cannot be reached, or the connection to it was lost (503)."""

    code = "engine_unavailable"
    status = 503


class ServiceError(StreamerError):
    """The service or the host is at fault; callers of HTTP get no details of a 500."""


class BackendUnavailable(ServiceError):
    """The sandbox backend is missing or failed its test (503); the message has the remedy."""

    code = "sandbox_unavailable"
    status = 503

    def __init__(self, reason: str, remedy: str = "", *, code: str | None = None) -> None:
        super().__init__(f"{reason}: {remedy}" if remedy else reason, code=code)


class SandboxFailure(ServiceError):
    """A sandbox could not run a job, which ends with ``sandbox_error``; for the log only."""

    code = "sandbox_error"


class ConfigError(ServiceError):
    """A value is unknown, of the wrong type or impossible; the message has key and remedy."""


class PluginError(ServiceError):
    """A plugin cannot be loaded, is malformed, or clashes with another; see the remedy in it."""
