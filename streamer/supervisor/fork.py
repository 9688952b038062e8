"""Start processes that end with this one."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Final, NoReturn

__all__ = ["fork"]

log: Final = logging.getLogger(__name__)

LIBC: Final = ctypes.CDLL(None)
PR_SET_PDEATHSIG: Final = 1

OF_SUPERVISOR: Final = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2),
)  # fmt: skip
"""The signals that this process handles."""


def fork(run: Callable[[], int]) -> int:
    """Start a process that runs a function and exits with what it returns; return its id.

    It is killed when this process ends, however that happens. It has a session of its own, so that
    the keys of a terminal reach this process only. Only for a process with a single thread.
    """
    parent = os.getpid()
    # No handler of this process may run in the other one.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OF_SUPERVISOR)
    try:
        pid = os.fork()
        if not pid:
            _run(run, parent, before)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(run: Callable[[], int], parent: int, mask: set[int | signal.Signals]) -> NoReturn:
    code = 1
    try:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == parent:  # otherwise it has ended already
            os.setsid()
            signal.set_wakeup_fd(-1)
            for number in OF_SUPERVISOR:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            code = run()
    except BaseException:
        log.critical("a process of the service has failed", exc_info=True)
    finally:
        # Nothing that this process still holds of its parent may be closed or cleaned up here.
        with contextlib.suppress(Exception):
            logging.shutdown()
            sys.stdout.flush()
        os._exit(code)
