"""The filter of system calls that a sandbox puts on its programs.

The rules are in `rules`; the ``.bpf`` files beside this module are made of them by `generate`
and are all that is needed at run time.
"""

from __future__ import annotations

import functools
import logging
import platform
from importlib.resources import files
from typing import Final

__all__ = ["deny_filter"]

log: Final = logging.getLogger(__name__)


@functools.cache
def deny_filter(machine: str | None = None) -> bytes | None:
    """Return the filter for a machine (this one): an array of ``struct sock_filter``.

    None, with one warning, where there is none: jobs then run without.
    """
    machine = platform.machine() if machine is None else machine
    try:
        return (files(__name__) / f"{machine}.bpf").read_bytes()
    except FileNotFoundError:
        log.warning(
            "there is no filter of system calls for the machine %s: sandboxes run without", machine
        )
        return None
