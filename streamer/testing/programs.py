"""The programs that run inside the sandbox under test, with whatever Python it has.

Each attack in Python begins with `PRELUDE`. `hint` says where the host's lures are: an attacker
knows all of it but the secret, which is passed in two halves so that it does not appear in the
attack's own arguments and environment. `NEIGHBOUR` is the job that runs beside an attack: it
prints where it can be found, waits for the end of its input, and prints what was done to it.
"""

from __future__ import annotations

from typing import Final

__all__ = ["NEIGHBOUR", "PRELUDE"]

PRELUDE: Final = r'''
import contextlib, ctypes, errno, fcntl, glob, json, mmap, os, platform, resource, signal, socket, stat, struct, subprocess, sys, threading, time

hint = json.loads(os.environ["ESCAPE_HINT"]) if "ESCAPE_HINT" in os.environ else {}
secret = "".join(hint.get("secret", ())).encode()
libc = ctypes.CDLL(None, use_errno=True)

NUMBERS = {
    "x86_64": dict(
        add_key=248, bpf=321, clone=56, exit=60, kexec_load=246, keyctl=250, perf_event_open=298, pivot_root=155,
        process_vm_readv=310, ptrace=101, quotactl=179, unshare=272, userfaultfd=323, kcmp=312, finit_module=313,
        ioprio_set=251, prlimit64=302, capset=126, fanotify_init=300, syslog=103, reboot=169, settimeofday=164,
    ),
    "aarch64": dict(
        add_key=217, bpf=280, clone=220, exit=93, kexec_load=104, keyctl=219, perf_event_open=241, pivot_root=41,
        process_vm_readv=270, ptrace=117, quotactl=60, unshare=97, userfaultfd=282, kcmp=272, finit_module=273,
        ioprio_set=30, prlimit64=261, capset=91, fanotify_init=262, syslog=116, reboot=142, settimeofday=170,
    ),
}.get(platform.machine(), {})  # from 424 on the numbers are the same everywhere


def held(why=""):
    print("HELD:", why, flush=True)
    os._exit(0)


def escaped(how):
    print("ESCAPED:", how, flush=True)
    os._exit(0)


def call(name, *args):
    """Call a C function; return its result and the name of the error."""
    ctypes.set_errno(0)
    result = getattr(libc, name)(*(ctypes.c_long(a) if type(a) is int else a for a in args))
    return result, errno.errorcode.get(ctypes.get_errno(), "")


def syscall(number, *args):
    """Make a system call, by its number or the name of one in NUMBERS."""
    if isinstance(number, str):
        if number not in NUMBERS:
            held("the number of this call is not known here")
        number = NUMBERS[number]
    return call("syscall", number, *args)


REFUSALS = ("EPERM", "EACCES", "ENOSYS", "EAFNOSUPPORT")


def refused_call(result_and_error, what):
    """Escape unless a call was refused: any other error means that the kernel took it up."""
    result, error = result_and_error
    if result != -1 or error not in REFUSALS:
        escaped(f"{what} gave {result} {error}")


def read(path, size=65536):
    with open(path, "rb") as file:
        return file.read(size)


def refused(operation, *args, **kwargs):
    """Escape unless an operation raises OSError; return what it says."""
    try:
        result = operation(*args, **kwargs)
    except OSError as error:
        return str(error)
    escaped(f"{getattr(operation, '__name__', operation)}{args} gave {str(result)[:80]}")


def alone():
    """Make sure that a signal to everybody reaches this job only: never tried otherwise."""
    others = len(glob.glob("/proc/[0-9]*"))
    if os.getuid() == 0 or os.readlink("/proc/self/ns/pid") == hint["pid_namespace"] or others > 12:
        escaped(f"it is not alone: uid {os.getuid()}, {others} processes in sight")
'''

NEIGHBOUR: Final = r"""
import ctypes, fcntl, json, os, signal, socket, sys, threading

hint = json.loads(os.environ["ESCAPE_HINT"])
secret = "".join(hint["secret"])
name = "neighbour-" + hint["mark"]
got = []
for number in range(1, 32):
    if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda number, _: got.append(number))

with open("note", "w") as file:
    file.write(secret)
os.chmod("note", 0o666)
for folder in ("/dev/shm", "/tmp"):
    try:
        with open(os.path.join(folder, name), "w") as file:
            file.write(secret)
        os.chmod(os.path.join(folder, name), 0o666)
    except OSError:
        pass
abstract = socket.socket(socket.AF_UNIX)
abstract.bind("\0" + name)
tcp = socket.socket()
tcp.bind(("127.0.0.1", 0))
for sock in (abstract, tcp):
    sock.listen()
    sock.setblocking(False)
lock = os.open("/usr/bin/env", os.O_RDONLY)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    # Another campaign on this host holds it: have it as soon as that ends.
    threading.Thread(target=fcntl.flock, args=(lock, fcntl.LOCK_EX), daemon=True).start()
except OSError:
    pass
libc = ctypes.CDLL(None)
segment = libc.shmget(hint["ipc_key"], 4096, 0o1666)
queue = libc.msgget(hint["ipc_key"], 0o1666)
print(json.dumps({"name": name, "home": os.getcwd(), "port": tcp.getsockname()[1], "pid": os.getpid()}), flush=True)

sys.stdin.read()
told = [f"it got the signals {got}"] if got else []
if open("note").read() != secret:
    told.append("its file was written")
for what, sock in (("abstract socket", abstract), ("port", tcp)):
    try:
        sock.accept()
        told.append(f"its {what} was reached")
    except BlockingIOError:
        pass
libc.shmctl(segment, 0, None)
libc.msgctl(queue, 0, None)
for folder in ("/dev/shm", "/tmp"):
    try:
        os.unlink(os.path.join(folder, name))
    except OSError:
        pass
print("NOTICED:", "; ".join(told) if told else "nothing", flush=True)
"""
