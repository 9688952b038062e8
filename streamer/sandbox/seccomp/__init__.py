"""The system call filters for programs in sandboxes.

The rules are in `rules`; `generate` makes the ``.bpf`` files beside this module from them, and only
these are needed at run time. For each machine there is the whole filter, a strict one, both of them
without memfd_create(2) too, and a guard, which only protects jobs and the host from each other in
backends without the whole filter.
"""

from __future__ import annotations

import functools
import logging
import platform
from importlib.resources import files
from typing import Final

__all__ = ["has_filter", "job_filter"]

log: Final = logging.getLogger(__name__)


def job_filter(
    *, whole: bool, memfd: bool, strict: bool = False, machine: str | None = None
) -> bytes | None:
    """Return the filter for a machine (this one): an array of ``struct sock_filter``.

    The `whole` one, which may be `strict`, or only the guard. `memfd` allows memory that no process
    maps; allow it only if that is counted. Returns None, with one warning, if there is no filter
    for the machine; jobs then run without one.
    """
    kind = "guard"
    if whole:
        kind = "-".join([*(["strict"] if strict else []), *([] if memfd else ["no-memfd"])])
    return _read(platform.machine() if machine is None else machine, kind or "whole")


def has_filter(machine: str | None = None) -> bool:
    """Return whether there are filters for a machine (this one)."""
    return job_filter(whole=True, memfd=True, machine=machine) is not None


@functools.cache
def _read(machine: str, kind: str) -> bytes | None:
    try:
        return (files(__name__) / f"{machine}-{kind}.bpf").read_bytes()
    except FileNotFoundError:
        log.warning(
            "there is no system call filter for the machine %s: sandboxes run without one", machine
        )
        return None
