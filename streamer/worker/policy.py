"""The digest of the policy that confines a job, for its record.

Two jobs with the same digest had the same backend with the same options, the same way to their
sandbox (a template's, or a command of their own), the same limits for each step, the same network,
the same system call filter, and the same version of streamer.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields, is_dataclass

import msgspec

from streamer import __version__
from streamer.model.job import ResolvedJob
from streamer.sandbox.seccomp import job_filter
from streamer.spi import Backend

__all__ = ["policy_digest"]


def policy_digest(
    job: ResolvedJob,
    backend: Backend,
    cgroup_level: str | None,
    *,
    strict_filter: bool,
    from_template: bool = False,
) -> str:
    """Return the SHA-256, in hexadecimal, of everything that confines the job.

    `from_template` says whether a template has made its sandbox.
    """
    counted = cgroup_level is not None
    filtered = None
    if backend.gated:
        filtered = job_filter(whole=backend.seccomp, memfd=counted, strict=strict_filter)
    document = {
        "version": __version__,  # what a backend's arguments allow changes with it
        "backend": backend.name,
        "options": {name: getattr(backend, name) for name in _options(backend)},
        "limits": [[step.phase, step.limits] for step in job.steps],
        "cgroup": cgroup_level,
        "filter": hashlib.sha256(filtered or b"").hexdigest(),
        "sandbox": "template" if from_template else "own",
        "network": job.network,
        "allowHosts": job.allow_hosts,
        "readOnly": job.read_only,
        "etc": job.etc,
    }
    text = msgspec.json.encode(document, order="sorted")
    return hashlib.sha256(text).hexdigest()


def _options(backend: object) -> list[str]:
    return [field.name for field in fields(backend)] if is_dataclass(backend) else []
