"""The digest of the policy that confines a job, for its record.

Two jobs with the same digest had the same backend with the same options, the same way to their
sandbox (a template's, that of an interpreter that forks, a session's, or a command of their own),
the same limits for each step and case, the same mounts, the same network, the same system call
filter, and the same version of streamer.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import astuple, fields, is_dataclass
from typing import Final, Protocol

import msgspec

from streamer import __version__
from streamer.model.job import Limits, Phase, ResolvedJob
from streamer.sandbox.sandbox import Way
from streamer.sandbox.seccomp import job_filter
from streamer.spi import Backend

__all__ = ["PolicyDigest", "policy_digest"]

KEPT: Final = 256
"""The digests that are kept for jobs with the same limits, by backend."""


class PolicyDigest(Protocol):
    def __call__(self, job: ResolvedJob, *, way: Way = "own") -> str:
        """Return the SHA-256, in hexadecimal, of everything that confines the job.

        `way` says who has made its sandbox.
        """


def policy_digest(
    backend: Backend, cgroup_level: str | None, *, strict_filter: bool
) -> PolicyDigest:
    """Return a function that returns the digests of a backend's jobs."""
    counted = cgroup_level is not None
    filtered = None
    if backend.gated:
        filtered = job_filter(whole=backend.seccomp, memfd=counted, strict=strict_filter)
    of_all = {
        "version": __version__,  # what a backend's arguments allow changes with it
        "backend": backend.name,
        "options": {name: getattr(backend, name) for name in _options(backend)},
        "cgroup": cgroup_level,
        "filter": hashlib.sha256(filtered or b"").hexdigest(),
    }

    @functools.lru_cache(KEPT)
    def digest(
        limits: Sequence[tuple[Phase, Limits]],
        sandbox: str,
        network: bool,  # noqa: FBT001 - lru_cache is fastest with positional arguments
        allow_hosts: Sequence[str],
        read_only: Sequence[str],
        etc: Sequence[str],
        tmp_bytes: int | None,
        terminal: bool,  # noqa: FBT001 - as above
    ) -> str:
        document = {
            **of_all,
            # Equal limits give equal text: 5 and 5.0 do.
            "limits": [[phase, [*map(float, astuple(most))]] for phase, most in limits],
            "sandbox": sandbox,
            "network": network,
            "allowHosts": allow_hosts,
            "readOnly": read_only,
            "etc": etc,
            "tmpBytes": tmp_bytes,
            "terminal": terminal,
        }
        text = msgspec.json.encode(document, order="sorted")
        return hashlib.sha256(text).hexdigest()

    def of_job(job: ResolvedJob, *, way: Way = "own") -> str:
        steps = (*job.steps, *(case.step for case in job.cases))
        limits = tuple((step.phase, step.limits) for step in steps)
        mounted = (job.read_only, job.etc, job.tmp_bytes)
        # That of a session was opened for all of its jobs, with a terminal if there can be one.
        made = way if job.session_id is None else "session"
        return digest(
            limits, made, job.network, job.allow_hosts, *mounted, job.terminal is not None
        )

    return of_job


def _options(backend: object) -> list[str]:
    return [field.name for field in fields(backend)] if is_dataclass(backend) else []
