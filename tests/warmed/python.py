"""Programs in Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.warmed.case import Case
from tests.warmed.reports import REPORTED

__all__ = ["PYTHON"]

MIB: Final = 2**20
SITE: Final = ".local/lib/python3.{}/site-packages/"


def in_site(name: str, content: bytes) -> dict[str, bytes]:
    """Return a file in the user's own packages, of whatever Python runs."""
    return {SITE.format(minor) + name: content for minor in range(9, 16)}


STATUS: Final = """
kept = "Name Umask State Tgid Ngid Pid PPid TracerPid Uid Gid FDSize Groups NStgid NSpid NSpgid NSsid Kthread "
kept += "Threads SigQ SigPnd ShdPnd SigBlk SigIgn SigCgt CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp "
kept += "Seccomp_filters Cpus_allowed Mems_allowed_list CoreDumping THP_enabled untag_mask HugetlbPages VmLck VmPin"
for line in open("/proc/self/status"):
    if line.split(":")[0] in kept.split():
        print(line, end="")
"""
STAT: Final = """
fields = open("/proc/self/stat").read().rpartition(")")[2].split()
names = {0: "state", 1: "parent", 2: "group", 3: "session", 4: "terminal", 5: "its group", 6: "flags",
         15: "priority", 16: "nice", 17: "threads", 18: "itreal", 22: "limit", 35: "signal", 37: "rt", 38: "policy"}
print({name: fields[at] for at, name in names.items()})
"""
DESCRIPTORS: Final = """
import fcntl, os, stat
for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
    try:
        at = os.fstat(fd)
    except OSError:
        continue
    flags = fcntl.fcntl(fd, fcntl.F_GETFL), fcntl.fcntl(fd, fcntl.F_GETFD)
    print(fd, stat.filemode(at.st_mode), at.st_uid, at.st_gid, at.st_nlink, at.st_size, *map(oct, flags))
    print(os.get_blocking(fd), os.get_inheritable(fd), os.isatty(fd))
for fd in range(3):
    print(os.readlink(f"/proc/self/fd/{fd}").split(":")[0], fcntl.fcntl(fd, 1032))
    print(sorted(line.split(":")[0] for line in open(f"/proc/self/fdinfo/{fd}")))
"""
SIGNALS: Final = """
import signal
for number in sorted(signal.valid_signals()):
    print(number, signal.getsignal(number))
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.sigpending())
print(signal.getitimer(signal.ITIMER_REAL), signal.getitimer(signal.ITIMER_VIRTUAL), signal.alarm(0))
"""
MOUNTS: Final = """
for line in open("/proc/self/mountinfo"):
    parts = line.split()
    print(*parts[3:6], *parts[parts.index("-") + 1:][:1])
"""

SEEN: Final[Mapping[str, str]] = {
    "sys.argv": "import sys; print(sys.argv, sys.orig_argv)",
    "sys.path": "import sys; print(sys.path, sys.path_hooks, [*sys.path_importer_cache])",
    "sys.flags": "import sys; print(sys.flags, sys.warnoptions, sys._xoptions)",
    "sys.executable": "import sys; print(sys.executable, sys.prefix, sys.base_prefix, sys.exec_prefix)",
    "sys.modules": "import sys; print([*sys.modules])",
    "sys.meta_path": "import sys; print([type(one).__name__ for one in sys.meta_path])",
    "encodings": "import sys; print(sys.getdefaultencoding(), sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())",
    "streams": "import sys\nfor s in sys.stdin, sys.stdout, sys.stderr:\n  print(s.name, s.mode, s.encoding, s.errors, s.line_buffering, s.write_through, s.newlines, s.isatty(), s.fileno())",
    "buffers": "import sys; print(sys.stdin.buffer, sys.stdout.buffer.raw, sys.stdout.buffer.raw.mode)",
    "limits of the interpreter": "import sys; print(sys.getrecursionlimit(), sys.getswitchinterval(), sys.get_int_max_str_digits(), sys.thread_info, sys.hash_info)",
    "collector": "import gc; print(gc.isenabled(), gc.get_threshold(), gc.get_debug(), gc.garbage, gc.callbacks, gc.get_freeze_count())",
    "globals": "print({name: value for name, value in globals().items() if name != '__builtins__'}.keys(), dir())",
    "main": "import sys; m = sys.modules['__main__']; print(m.__name__, m.__file__, m.__spec__, type(m.__loader__), m.__package__, m.__doc__, m.__cached__ if hasattr(m, '__cached__') else None)",
    "loader": "print(__loader__.name, __loader__.path, __builtins__.__name__)",
    "stack": "import inspect; print([(f.filename, f.function, f.lineno) for f in inspect.stack()])",
    "threads": "import threading; print(threading.main_thread().name, threading.active_count(), threading.get_native_id())",
    "builtins": "import builtins; print(dir(builtins), '_' in vars(builtins))",
    "site": "import site; print(site.ENABLE_USER_SITE, site.USER_SITE, site.USER_BASE, site.PREFIXES)",
    "sysconfig": "import sysconfig; print(sysconfig.get_paths())",
    "audit hooks": "import sys; sys.addaudithook(lambda *a: None); print('ok')",
    "tracing": "import sys; print(sys.gettrace(), sys.getprofile(), sys.breakpointhook, sys.excepthook, sys.displayhook, sys.unraisablehook)",
    "warnings": "import warnings; print(warnings.filters); warnings.warn('late')",
    "environment": "import os; print([*os.environ.items()])",
    "environment in /proc": "print(open('/proc/self/environ', 'rb').read())",
    "command in /proc": "print(open('/proc/self/cmdline', 'rb').read(), open('/proc/self/comm').read())",
    "links in /proc": "import os; print(*[os.readlink(f'/proc/self/{name}') for name in ('exe', 'cwd', 'root')])",
    "status in /proc": STATUS,
    "stat in /proc": STAT,
    "limits in /proc": "print(open('/proc/self/limits').read())",
    "mounts in /proc": MOUNTS,
    "namespaces": "import os; print(sorted(os.listdir('/proc/self/ns')))",
    "scores in /proc": "print(*[open(f'/proc/self/{name}').read() for name in ('oom_score_adj', 'coredump_filter', 'timerslack_ns', 'loginuid', 'setgroups')])",
    "processes in /proc": "import os; print(sorted(int(n) for n in os.listdir('/proc') if n.isdigit()), os.listdir('/proc/self/task'))",
    "sessions": "import os; print(os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0))",
    "users": "import os; print(os.getresuid(), os.getresgid(), os.getgroups())",
    "working directory": "import os; print(os.getcwd(), os.listdir(), os.path.abspath(__file__))",
    "umask": "import os; print(oct(os.umask(0)))",
    "priority": "import os; print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), os.sched_getparam(0))",
    "processors": "import os; print(os.cpu_count(), os.sched_getaffinity(0))",
    "resource limits": "import resource\nfor name in sorted(dir(resource)):\n  if name.startswith('RLIMIT_'): print(name, resource.getrlimit(getattr(resource, name)))",
    "usage of children": "import resource; u = resource.getrusage(resource.RUSAGE_CHILDREN); print(u.ru_utime, u.ru_maxrss)",
    "descriptors": DESCRIPTORS,
    "signals": SIGNALS,
    "host name": "import os, socket; print(socket.gethostname(), os.uname().nodename)",
    "locale": "import locale; print(locale.getlocale(), locale.getpreferredencoding(False), locale.setlocale(locale.LC_ALL, ''))",
    "time zone": "import time; print(time.tzname, time.timezone, time.daylight)",
    "temporary folders": "import os, tempfile; print(tempfile.gettempdir(), os.listdir('/tmp'), os.listdir('/dev/shm'))",
    "accounts": "import os, pwd; print(pwd.getpwuid(os.getuid()), os.path.expanduser('~'))",
    "root folder": "import os; print(sorted(os.listdir('/')), sorted(os.listdir('/dev')))",
    "personality": "import ctypes; print(ctypes.CDLL(None).personality(0xFFFFFFFF))",
    "prctl": "import ctypes; print([ctypes.CDLL(None).prctl(n, 0, 0, 0, 0) for n in (3, 7, 21, 27, 39)])",
    "parent's death": "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value)",
    "alternative stack": "import faulthandler; print(faulthandler.is_enabled())",
    "interfaces": "import socket; print(socket.if_nameindex())",
    "hash seed": "import os; print(os.environ.get('PYTHONHASHSEED'))",
    "memory mappings": "print(sorted({line.split()[5] for line in open('/proc/self/maps') if len(line.split()) > 5}))",
}

ENDS: Final[Mapping[str, str]] = {
    "nothing": "",
    "a comment": "# nothing",
    "exit 0": "import sys; sys.exit(0)",
    "exit 3": "import sys; sys.exit(3)",
    "exit 256": "import sys; sys.exit(256)",
    "exit -1": "raise SystemExit(-1)",
    "exit with text": "raise SystemExit('text')",
    "exit at once": "import os; print('lost', end=''); os._exit(7)",
    "exception": "def f():\n    raise ValueError('wrong')\nf()",
    "chain of exceptions": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('x') from e",
    "group of exceptions": "raise ExceptionGroup('two', [ValueError(1), TypeError(2)])",
    "syntax": "def f(:\n  pass",
    "indentation": "if True:\npass",
    "name": "print(undefined)",
    "recursion": "def f(): f()\ntry: f()\nexcept RecursionError as e: print(e)",
    "assertion": "assert 1 == 2, 'no'",
    "interrupt": "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
    "SIGTERM": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "SIGKILL": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "abort": "import os; os.abort()",
    "segmentation fault": "import ctypes; ctypes.string_at(0)",
    "fault handler": "import faulthandler; faulthandler.enable(); import ctypes; print('x'); ctypes.CDLL(None).raise_(11) if False else None",
    "handler": "import os, signal; signal.signal(signal.SIGUSR1, lambda *a: print('heard')); os.kill(os.getpid(), signal.SIGUSR1)",
    "alarm": "import signal, time; signal.signal(signal.SIGALRM, lambda *a: print('rang')); signal.setitimer(0, 0.01); time.sleep(0.1)",
    "atexit": "import atexit; atexit.register(print, 'last'); atexit.register(print, 'first')",
    "thread's exception": "import threading; t = threading.Thread(target=lambda: 1 / 0, name='T'); t.start(); t.join()",
    "thread goes on": "import threading, time; threading.Thread(target=lambda: (time.sleep(0.05), print('late'))).start()",
    "unraisable": "class A:\n    def __del__(self): raise ValueError('in del')\nA()",
    "hook": "import sys; sys.excepthook = lambda *a: print('hooked', a[1]); 1 / 0",
    "deprecated": "import warnings; warnings.warn('old', DeprecationWarning)",
    "resource warning": "import warnings; warnings.simplefilter('always'); open('/etc/passwd')",
}

DOES: Final[Mapping[str, str]] = {
    "subprocess": "import subprocess; print(subprocess.run(['echo', 'hi'], capture_output=True, text=True))",
    "shell": "import subprocess; print(subprocess.run('cat main.py | wc -l; exit 4', shell=True).returncode)",
    "system": "import os; print(os.system('echo inner; false'))",
    "fork": "import os\npid = os.fork()\nif pid == 0: os._exit(5)\nprint(os.waitpid(pid, 0)[1], pid)",
    "exec": "import os; os.execv('/bin/sh', ['sh', '-c', 'echo executed; exit 2'])",
    "exec itself": "import os, sys\nif len(sys.argv) == 1: os.execv(sys.executable, [sys.executable, __file__, 'again'])\nprint(sys.argv)",
    "python in python": "import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'import sys; print(len(sys.path), sys.flags)'], capture_output=True, text=True).stdout)",
    "pool of processes": "import multiprocessing as m\nif __name__ == '__main__':\n  with m.get_context('fork').Pool(2) as pool: print(pool.map(abs, [-1, -2, 3]))",
    "spawned process": "import multiprocessing as m\nif __name__ == '__main__':\n  p = m.get_context('spawn').Process(target=print, args=('spawned',)); p.start(); p.join(); print(p.exitcode)",
    "queue of processes": "import multiprocessing as m\nif __name__ == '__main__':\n  q = m.get_context('fork').Queue(); q.put(1); print(q.get())",
    "pool of threads": "from concurrent.futures import ThreadPoolExecutor as T\nwith T(8) as t: print([*t.map(lambda n: n * n, range(20))])",
    "threads": "import threading\nout = []\nts = [threading.Thread(target=out.append, args=(n,)) for n in range(8)]\n[t.start() for t in ts]; [t.join() for t in ts]; print(sorted(out))",
    "asyncio": "import asyncio\nasync def f(n):\n  await asyncio.sleep(0.001 * n); return n\nasync def g(): print(await asyncio.gather(*map(f, range(5))))\nasyncio.run(g())",
    "asyncio's processes": "import asyncio\nasync def f():\n  p = await asyncio.create_subprocess_exec('cat', stdin=-1, stdout=-1)\n  print(await p.communicate(b'through'))\nasyncio.run(f())",
    "a background process": "import subprocess; subprocess.Popen('sleep 0.05; echo behind', shell=True)",
    "a connection": "import socket\ntry: socket.create_connection(('127.0.0.1', 9), 1)\nexcept OSError as e: print(e)",
    "a name": "import socket\ntry: socket.getaddrinfo('example.org', 80)\nexcept OSError as e: print(e)",
    "a server": "import socket\ns = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname()); a, _ = s.accept(); c.send(b'x'); print(a.recv(1))",
    "files": "import os, pathlib; p = pathlib.Path('d/e'); p.mkdir(parents=True); (p / 'f').write_text('x'); print(sorted(str(x) for x in pathlib.Path().rglob('*')), oct((p / 'f').stat().st_mode), oct(p.stat().st_mode))",
    "own source": "print(open(__file__).read())",
    "temporary files": "import tempfile, os\nwith tempfile.TemporaryDirectory() as d: print(os.path.dirname(d), os.listdir(d))",
    "shared memory": "from multiprocessing import shared_memory as s; m = s.SharedMemory(create=True, size=10); print(m.size); m.close(); m.unlink()",
    "a pseudo-terminal": "import os\ntry: print(os.openpty() and 'open')\nexcept OSError as e: print(type(e).__name__)",
    "sqlite": "import sqlite3; d = sqlite3.connect('x.db'); d.execute('create table t (a)'); d.execute('insert into t values (1)'); d.commit(); print(d.execute('select * from t').fetchall())",
    "many modules": "import argparse, base64, collections, csv, ctypes, dataclasses, datetime, decimal, email, fractions, functools, hashlib, heapq, http.client, itertools, json, logging, lzma, pickle, queue, random, re, ssl, statistics, string, struct, tarfile, textwrap, typing, unittest, urllib.request, uuid, xml.etree.ElementTree, zipfile, zoneinfo, sys\nprint([*sys.modules])",
    "seeded chance": "import random; random.seed(5); print(random.random(), random.sample(range(100), 5))",
    "hashes": "import hashlib; print(hashlib.sha256(b'x').hexdigest(), hash(1.5), hash((1, 2)))",
    "sets of numbers": "print({3, 1, 2}, frozenset(range(20)), {n: n for n in range(5)})",
    "logging": "import logging; logging.warning('to %s', 'stderr'); logging.getLogger('a').error('b')",
    "a new session": "import os; os.setsid(); print(os.getsid(0) == os.getpid())",
    "own limits": "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))\nfs = []\ntry:\n  while True: fs.append(open('/dev/null'))\nexcept OSError as e: print(len(fs), e)",
    "stack": "import threading; threading.stack_size(2**20); t = threading.Thread(target=print, args=('ran',)); t.start(); t.join()",
    "code": "exec(compile('x = 1\\nprint(x)', 'inner', 'exec')); print(eval('x + 1'))",
    "modules by name": "import importlib; print(importlib.import_module('json').__file__, importlib.util.find_spec('nothing'))",
    "a module run": "import runpy; print(sorted(runpy.run_path('main.py', run_name='other'))) if __name__ == '__main__' else None",
    "pickle": "import pickle\nclass A: pass\nprint(pickle.dumps(A()))",
    "big output": "for n in range(20000): print(n, 'x' * 40)",
    "bytes": "import sys; sys.stdout.buffer.write(bytes(range(256)) * 10)",
    "unicode": "print('žluťoučký 中文 🎉 \\u202e\\x1b[1m', '\\ud800'.encode('utf-8', 'surrogatepass'))",
    "both streams": "import sys\nfor n in range(5): print(n); print(n, file=sys.stderr)",
    "no line end": "print('a', end='')",
    "closed output": "import sys; sys.stdout.close()\ntry: print('x')\nexcept ValueError as e: print(e, file=sys.stderr)",
    "closed descriptors": "import os; os.close(1)\ntry: os.write(1, b'x')\nexcept OSError as e: os.write(2, str(e).encode())",
    "output by descriptor": "import os; os.write(1, b'one\\n'); os.write(2, b'two\\n')",
    "buffered output": "import sys; sys.stdout = open(1, 'w', buffering=1000, closefd=False); print('kept')",
}

GIVEN: Final[Mapping[str, Case]] = {
    "no input": Case("import sys; print(repr(sys.stdin.read()))"),
    "input that is not there": Case("input()"),
    "input": Case("import sys; print(repr(sys.stdin.read()))", stdin=b"one\ntwo\n"),
    "empty input": Case("import sys; print(repr(sys.stdin.read()))", stdin=b""),
    "lines": Case("print([line for line in __import__('sys').stdin], 'end')", stdin=b"a\r\nb\n\nc"),
    "two questions": Case("a = input('a? '); b = input('b? '); print(a + b)", stdin=b"1\n2\n3\n"),
    "bytes": Case("import sys; print(sys.stdin.buffer.read())", stdin=bytes(range(256))),
    "wrong text": Case("import sys; sys.stdin.read()", stdin=b"\xff\xfe"),
    "much input": Case("import sys; print(len(sys.stdin.read()))", stdin=b"x" * MIB),
    "input that nobody reads": Case("print('done')", stdin=b"x" * MIB),
    "what is there to read": Case(
        "import select, sys, time; time.sleep(0.05); print(select.select([0], [], [], 0)[0], sys.stdin.buffer.peek(3))",
        stdin=b"abc",
    ),
    "end of input by poll": Case(
        "import select, time; time.sleep(0.05); p = select.poll(); p.register(0); print(p.poll(0))"
    ),
    "count of bytes": Case(
        "import fcntl, termios, time; time.sleep(0.05); print(fcntl.ioctl(0, termios.FIONREAD, bytes(4)))",
        stdin=b"12345",
    ),
    "seek": Case(
        "import sys\nprint(sys.stdin.seekable())\ntry: sys.stdin.seek(0)\nexcept OSError as e: print(e)",
        stdin=b"x",
    ),
    "input for a child": Case("import os; os.execlp('cat', 'cat')", stdin=b"through\n"),
    "arguments": Case("import sys; print(sys.argv)", args=("a", "-b", "", "ž", "c d")),
    "variables": Case(
        "import os; print([*os.environ.items()])", env={"A": "1", "LANG": "C", "HOME": "/tmp"}
    ),
    "hash seed": Case("print(hash('x'), {'a', 'b', 'c'})", env={"PYTHONHASHSEED": "1"}),
    "path": Case(
        "import sys; print(sys.path); import m",
        files={"lib/m.py": b"print('m')"},
        env={"PYTHONPATH": "lib:/work/lib"},
    ),
    "optimized": Case("import sys; print(sys.flags); assert False", env={"PYTHONOPTIMIZE": "1"}),
    "verbose": Case("print('x')", env={"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"}),
    "startup": Case(
        "print('x')",
        env={"PYTHONSTARTUP": "x.py", "PYTHONSAFEPATH": "1"},
        files={"x.py": b"print('never')"},
    ),
    "entry": Case("import sys; print(sys.argv, __file__)", entry="sub/other.py"),
    "entry like an option": Case("import sys; print(sys.argv)", entry="-v.py"),
    "sibling": Case(
        "import helper; print(helper.x, helper.__file__)", files={"helper.py": b"x = 5"}
    ),
    "package": Case(
        "from p.q import r; print(r.x, r.__package__)",
        files={"p/__init__.py": b"", "p/q/__init__.py": b"", "p/q/r.py": b"x = 6"},
    ),
    "namespace": Case("import ns.a; print(ns.a.x, ns.__path__)", files={"ns/a.py": b"x = 7"}),
    "shadowed json": Case("import json; print(json.x)", files={"json.py": b"x = 8"}),
    "shadowed random": Case(
        "import tempfile, random; print(random.x)",
        files={"random.py": b"x = 9\nclass Random: pass"},
    ),
    "shadowed site": Case(
        "import site, os; print(site.__file__)",
        files={"site.py": b"print('shadow')", "os.py": b"print('os')"},
    ),
    "shadowed encodings": Case(
        "import encodings; print(encodings.__file__)",
        files={"encodings/__init__.py": b"print('mine')"},
    ),
    "own packages": Case(
        "import mine; print(mine.x, mine.__file__)", files=in_site("mine.py", b"x = 10")
    ),
    "own sitecustomize": Case(
        "print('main')", files=in_site("sitecustomize.py", b"print('customized')")
    ),
    "own usercustomize": Case(
        "print('main')", files=in_site("usercustomize.py", b"print('customized')")
    ),
    "own path file": Case(
        "import more; print(more.x)",
        files={
            **in_site("x.pth", b"import sys; print('pth')\n/work/extra\n"),
            "extra/more.py": b"x = 11",
        },
    ),
    "own packages first": Case(
        "import sys; print([p for p in sys.path if 'local' in p])", files=in_site("a.py", b"")
    ),
    "customized where it runs": Case(
        "print('main')",
        files={"sitecustomize.py": b"print('never')", "usercustomize.py": b"print('never')"},
    ),
    "virtual environment": Case(
        "import sys; print(sys.prefix)", files={"pyvenv.cfg": b"home = /tmp\n"}
    ),
    "mark at the start": Case("\ufeffprint('marked')"),
    "line ends": Case("print('a')\r\nif True:\r\n    print('b')\r\n"),
    "latin": Case("# -*- coding: latin-1 -*-\nprint('x')"),
    "unknown encoding": Case("# -*- coding: nothing -*-\nprint('x')"),
    "zero": Case("print('a')\0"),
    "long source": Case("x = 0\n" + "x += 1\n" * 20000 + "print(x)"),
    "long line": Case("print(len('" + "x" * 500_000 + "'))"),
    "data file": Case(
        "print(open('data.bin', 'rb').read())", files={"data.bin": bytes(range(256))}
    ),
    "many files": Case(
        "import os; print(len(os.listdir('many')))", files={f"many/{n}": b"x" for n in range(500)}
    ),
    "deep folders": Case("import os; print([*os.walk('.')])", files={"a/" * 30 + "f": b"x"}),
    "names": Case(
        "import os; print(sorted(os.listdir()))", files={"ž": b"", " ": b"", "-x": b"", "a'b": b""}
    ),
    "stale bytecode": Case(
        "import m; print(m.x)", files={"m.py": b"x = 1", "__pycache__/m.cpython-311.pyc": b"wrong"}
    ),
    "few descriptors": Case(
        "fs = []\ntry:\n  while True: fs.append(open('/dev/null'))\nexcept OSError as e: print(len(fs), e)",
        limits={"open_files": 16},
    ),
    "few processes": Case(
        "import subprocess\nps = []\ntry:\n  while True: ps.append(subprocess.Popen(['sleep', '9']))\nexcept OSError as e: print(len(ps), e)\nfor p in ps: p.kill()",
        limits={"processes": 8},
    ),
    "a large file": Case(
        "import signal\nf = open('f', 'wb')\ntry:\n  while True: f.write(bytes(2**16)); f.flush()\nexcept OSError as e: print(f.tell(), e)",
        limits={"file_bytes": MIB},
    ),
    "a full disk": Case(
        "import os, time\nf = open('f', 'wb')\ntry:\n  while True: f.write(bytes(2**16)); f.flush()\nexcept OSError as e: os.write(1, b'full\\n')\ntime.sleep(60)",
        limits={"disk_bytes": MIB, "file_bytes": 2 * MIB},
    ),
    "much memory": Case(
        "x = []\nwhile True: x.append(bytearray(10**7))", limits={"memory_bytes": 64 * MIB}
    ),
    "much memory of a child": Case(
        "import os\nif os.fork() == 0:\n  x = []\n  while True: x.append(bytearray(10**7))\nos.wait()",
        limits={"memory_bytes": 64 * MIB},
    ),
    "much time": Case("while True: pass", limits={"cpu_time_s": 0.5}),
    "long wait": Case(
        "import time; print('waits', flush=True); time.sleep(60)", limits={"wall_time_s": 2.0}
    ),
    "much output": Case("while True: print('x' * 1000)", limits={"output_bytes": 10_000}),
    "deep recursion": Case(
        "import sys; sys.setrecursionlimit(10**6)\ndef f(n): return n and f(n - 1)\nprint(f(5000))"
    ),
}

PYTHON: Final[Mapping[str, Case]] = {
    **{f"sees {name}": Case(code) for name, code in SEEN.items()},
    **{f"ends by {name}": Case(code) for name, code in ENDS.items()},
    **{f"does {name}": Case(code) for name, code in DOES.items()},
    **{f"has {name}": case for name, case in GIVEN.items()},
    **REPORTED,
}
