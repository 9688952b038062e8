"""The environment variables of a job's programs."""

from __future__ import annotations

from typing import Final

from streamer.model.job import ResolvedJob
from streamer.sandbox.network.proxy import proxy_environment

__all__ = ["environment"]

USER: Final = "nobody"
"""The user name in the variables; in bwrap /etc/passwd has it."""


def environment(job: ResolvedJob, path: str, home: str) -> dict[str, str]:
    """Return the whole environment; `path` is the jobs' PATH, `home` the workspace."""
    base = {
        "PATH": path,
        "HOME": home,
        "LANG": "C.UTF-8",
        "LOGNAME": USER,
        "USER": USER,
        "TERM": "dumb",
        "TMPDIR": "/tmp",  # noqa: S108 - the sandbox's
    }
    proxy = proxy_environment() if job.allow_hosts else {}
    return {**base, **proxy, **job.env}
