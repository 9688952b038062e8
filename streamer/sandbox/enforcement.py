"""How each limit is enforced on this host, for each backend.

``cgroup-v1`` and ``cgroup-v2``: by the kernel, for the whole job. ``rlimit``: by the kernel, for
each process (setrlimit(2)); the number of processes is that of the job's own user or user
namespace. ``polling``: the init checks and kills the job; for a backend without our
init the service does. ``tmpfs``: a private mount of this size. ``timer`` and ``counter``: by the
service itself. ``none``: not at all.

``seccomp`` says which of our system call filters a program gets: ``filter``, the whole one;
``guard``, the part that every backend with our init has; or ``none``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from streamer.errors import ConfigError
from streamer.sandbox.seccomp import has_filter
from streamer.spi import Backend

__all__ = ["check_required", "enforcement"]

REMEDIES: Final = {
    "cgroup": "run the service as root (cgroup v1), or in a systemd unit or scope with "
    "Delegate=yes (cgroup v2): systemd-run --user --scope -p Delegate=yes streamer serve",
    "filter": "use a backend with our system call filter (bwrap, firejail), on a machine that has "
    "one (x86_64, aarch64)",
    "tmpfs": "use a backend with a private workspace (bwrap)",
}


def enforcement(backend: Backend, cgroup_level: str | None) -> dict[str, str]:
    """Return how each field of `Limits` is enforced for a backend, and its ``seccomp``.

    ``tmp_bytes`` is the size that a language gives to /tmp. Where nothing enforces that, the
    content of a private /tmp still counts as the job's memory and files.

    `cgroup_level` is ``cgroup-v1`` or ``cgroup-v2``, or None without control groups.
    """
    by_init = backend.gated
    return {
        "wall_time_s": "timer",
        "cpu_time_s": "polling" if by_init or cgroup_level else "none",
        "memory_bytes": cgroup_level or ("polling" if by_init else "none"),
        "processes": cgroup_level or ("rlimit" if by_init else "none"),
        "open_files": "rlimit" if by_init else "none",
        "file_bytes": "rlimit" if by_init else "none",
        "disk_bytes": "none" if not by_init else "polling" if backend.host_workspace else "tmpfs",
        "output_bytes": "counter",
        "stack_bytes": "rlimit" if by_init else "none",
        "tmp_bytes": "none" if backend.size_of_tmp() is None else "tmpfs",
        "seccomp": _filtered(backend),
    }


def _filtered(backend: Backend) -> str:
    if not backend.gated or not has_filter():
        return "none"
    return "filter" if backend.seccomp else "guard"


def check_required(required: Iterable[str], backend: Backend, cgroup_level: str | None) -> None:
    """Check ``sandbox.require`` (``memory:cgroup``) for a backend.

    A limit may be named without its unit; a level is one of those above, or ``cgroup`` for either
    version. Raises `ConfigError` with the unmet requirement and the remedy.
    """
    here = enforcement(backend, cgroup_level)
    for requirement in required:
        name, colon, level = requirement.partition(":")
        limit = _limit_named(name, here)
        if limit is None or not colon or not level:
            raise ConfigError(
                f"sandbox.require: {requirement!r}: write LIMIT:LEVEL, such as memory:cgroup; "
                f"limits are {', '.join(here)}"
            )
        found = here[limit]
        if found != level and not (level == "cgroup" and found.startswith("cgroup-")):
            remedy = REMEDIES.get(level.partition("-")[0], "require less, or use another backend")
            raise ConfigError(
                f"sandbox.require: {requirement!r} is not met: {backend.name} enforces {limit} "
                f"here by {found}; {remedy}"
            )


def _limit_named(name: str, here: Mapping[str, str]) -> str | None:
    for limit in here:
        if name in (limit, limit.removesuffix("_bytes").removesuffix("_time_s").removesuffix("_s")):
            return limit
    return None
