"""The limits of a single process (setrlimit(2)) that enforce limits of a job."""

from __future__ import annotations

import resource
from typing import Final

from streamer.model.job import Limits

__all__ = ["UNLIMITED", "rlimits"]

PENDING_SIGNALS: Final = 1024
UNLIMITED: Final = 2**64 - 1


def rlimits(limits: Limits, *, kept: bool = False) -> list[tuple[int, int, int]]:
    """Return the (resource, soft, hard) triples of setrlimit(2) for `limits`.

    A program that may be `kept` has no limit of CPU time: it has that of one job after another.

    They limit single processes, in addition to what is watched for the whole tree. There is none
    for memory: RLIMIT_AS counts reservations, with which the JVM and Node.js cannot run.
    """
    cpu = int(limits.cpu_time_s) + 1
    return [
        *([] if kept else [(resource.RLIMIT_CPU, cpu, cpu + 1)]),
        (resource.RLIMIT_FSIZE, limits.file_bytes, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files, limits.open_files),
        # One more for the init, which has the same user.
        (resource.RLIMIT_NPROC, limits.processes + 1, limits.processes + 1),
        (resource.RLIMIT_CORE, 0, 0),
        # A program may raise it: the stack counts as memory.
        (resource.RLIMIT_STACK, limits.stack_bytes, UNLIMITED),
        # If the service is an ordinary user, its jobs share these with each other and with other
        # programs of the account: timers and queued signals, and bytes of message queues.
        (resource.RLIMIT_SIGPENDING, PENDING_SIGNALS, PENDING_SIGNALS),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
    ]
