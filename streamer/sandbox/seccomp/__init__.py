"""The filter of system calls that a sandbox puts on its programs.

The rules are in `rules`; the ``.bpf`` files beside this module are made of them by `generate`
and are all that is needed at run time. For each machine there is the whole filter, the same for
strangers, both of them without memfd_create(2) too, and a guard of what jobs would take from each
other and from the host by any other backend.
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

    The whole one, perhaps the `strict` one, or only the guard. `memfd` says whether memory that no
    process maps is counted, and so may be had. None, with one warning, where there is no filter:
    jobs then run without.
    """
    kind = "guard"
    if whole:
        kind = "-".join([*(["strict"] if strict else []), *([] if memfd else ["no-memfd"])])
    return _read(platform.machine() if machine is None else machine, kind or "whole")


def has_filter(machine: str | None = None) -> bool:
    """Say whether there are filters for a machine (this one)."""
    return job_filter(whole=True, memfd=True, machine=machine) is not None


@functools.cache
def _read(machine: str, kind: str) -> bytes | None:
    try:
        return (files(__name__) / f"{machine}-{kind}.bpf").read_bytes()
    except FileNotFoundError:
        log.warning(
            "there is no filter of system calls for the machine %s: sandboxes run without", machine
        )
        return None
