"""Programs in Python after public reports of processes that were forked, or started before.

The name of the report is in brackets where there is one; what a program that was started for its
job prints is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.warmed.case import Case

__all__ = ["REPORTED"]

C_LIBRARY: Final = """
import ctypes, os, signal, threading, time
c, mutex, kind, name = ctypes.CDLL(None), *map(ctypes.create_string_buffer, (64, 16, 16))
signal.signal(signal.SIGUSR1, lambda *a: print("heard"))
signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
print(time.clock_gettime(time.pthread_getcpuclockid(threading.get_ident())) < 60)
c.pthread_mutexattr_init(kind), c.pthread_mutexattr_settype(kind, 2), c.pthread_mutex_init(mutex, kind)
print([c.pthread_mutex_lock(mutex), c.pthread_mutex_lock(mutex), c.pthread_mutex_unlock(mutex)])
me = ctypes.c_ulong(threading.get_ident())
print(c.pthread_getname_np(me, name, 16), name.value)
print(c.pthread_getattr_np(me, ctypes.create_string_buffer(64)))
print(c.sched_getaffinity(0, 16, name), c.sched_getcpu() in os.sched_getaffinity(0))
"""
INTERPOSED: Final = """
import ctypes, os
c = ctypes.CDLL(None, use_errno=True)
print(c.open(b"nothing", 0), c.access(b"main.py", 4), c.open(None, 0), ctypes.get_errno())
print(c.openat(-1, b"x", 0), ctypes.get_errno())
made = c.open(b"a", os.O_CREAT | os.O_WRONLY, 0o640), c.openat(-100, b"b", os.O_CREAT, 0o604)
for fd in *made, c.open(b".", os.O_TMPFILE | os.O_RDWR, 0o600):
    print(fd, oct(os.fstat(fd).st_mode))
"""
ARGUMENTS: Final = """
import ctypes
fields = open("/proc/self/stat").read().rpartition(")")[2].split()
start, end, first, last = map(int, fields[45:49])
print(ctypes.string_at(start, end - start), ctypes.string_at(first, last - first), first - end)
ctypes.memmove(ctypes.memset(start, 0, end - start), b"renamed", 7)
print(open("/proc/self/cmdline", "rb").read())
"""
ORDER: Final = """
import atexit, threading, weakref
go = threading.Event()
weakref.finalize(go, print, "finalized")
atexit.register(print, "atexit")
threading._register_atexit(lambda: (print("the threads' end"), go.set()))
threading.Thread(target=lambda: (go.wait(), print("thread"))).start()
print(threading.enumerate()[0].name)
"""
FORK_SERVER: Final = """
import multiprocessing as m, sys
def tell(q): q.put((__name__, sys.argv, sys.path[0], m.current_process().name))
if __name__ == "__main__":
    c = m.get_context("forkserver")
    q = c.SimpleQueue()
    p = c.Process(target=tell, args=(q,))
    p.start()
    print(q.get(), p.join(), p.exitcode)
"""
COLLECTOR: Final = """
import gc
print(gc.get_count(), gc.get_stats(), len(gc.get_objects()))
gc.freeze()
print(gc.get_freeze_count())
"""
STDIO: Final = """
import ctypes
c, n = ctypes.CDLL(None), ctypes.c_int()
c.printf(b"%d\\n", c.scanf(b"%d", ctypes.byref(n)))
print(n.value, [c.getchar() for _ in range(3)])
c.puts(b"last")
"""

REPORTED: Final[Mapping[str, Case]] = {
    "ids that the C library keeps (runc#4247, nsjail#264, golang/go#65625)": Case(C_LIBRARY),
    "calls of the C library, which we have replaced": Case(INTERPOSED),
    "the memory of its arguments, as setproctitle uses it": Case(ARGUMENTS),
    "streams of the C library (clingo#277)": Case(STDIO, stdin=b"42\nx"),
    "what runs at its end, in order (cpython#83856)": Case(ORDER),
    "a fork server (cpython#114220)": Case(FORK_SERVER),
    "what the collector knows, as for gc.freeze": Case(COLLECTOR),
    "a debugger": Case("x = 1\nbreakpoint()\nx = 2", stdin=b"p x\nw\nq\n"),
}
