"""Attacks on the kernel's attack surface: system calls with a history of holes, by every ABI.

A call that could do harm with privileges gets invalid arguments: the kernel checks privileges
first, so the error shows whether the job had them.
"""

from __future__ import annotations

from typing import Final

from streamer.spi import Isolation
from streamer.testing.attack import Attack, spoken_or

__all__ = ["ATTACKS"]

SURFACE: Final = {Isolation.NONE: "no system call is filtered"}

INT80: Final = r"""
if platform.machine() != "x86_64":
    held("there are no such calls on this machine")
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("53 4889f8 4889f3 4989c8 4889d1 4c89c2 31f6 31ff cd80 5b c3"))
address = ctypes.addressof(ctypes.c_char.from_buffer(code))
int80 = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_long] * 4)(address)

def old(number, what, a=0, b=0, c=0, allowed=REFUSALS):
    result = int80(number, a, b, c)
    if errno.errorcode.get(-result) not in allowed:
        escaped(f"{what} by int 0x80 gave {result}")

if int80(20, 0, 0, 0) != os.getpid():
    held("this kernel has no 32-bit calls")
"""


def _call(name: str, *calls: str, privileged: bool = False, covers: tuple[int, ...] = ()) -> Attack:
    """Return an attack by C calls that must all be refused.

    Without the capability a `privileged` call is refused even without a filter.
    """
    lines = [f"refused_call({call}, {call!r})" for call in calls]
    except_for = {} if privileged else SURFACE
    return Attack(name, "\n".join([*lines, "held()"]), except_for, covers=covers)


ATTACKS: Final = (
    _call("io_uring", "syscall(425, 1, ctypes.create_string_buffer(120))", covers=(48,)),
    _call(
        "programs in the kernel (bpf)", 'syscall("bpf", 5, ctypes.create_string_buffer(128), 128)'
    ),
    _call(
        "the performance counters",
        'syscall("perf_event_open", struct.pack("IIQQQQQ", 1, 120, 0, 0, 0, 0, 3 << 5).ljust(120, b"\\0"), 0, -1, -1, 0)',
    ),
    _call("page faults of its own (userfaultfd)", 'syscall("userfaultfd", 1)'),
    _call("the kernel's keys", 'syscall("add_key", b"user", b"x", b"x", 1, -3)', covers=(48,)),
    _call("another personality", 'call("personality", 0x0400000)'),
    _call("tracing of its own children", 'syscall("ptrace", 0, 0, 0, 0)'),
    _call("comparing its processes (kcmp)", 'syscall("kcmp", os.getpid(), os.getpid(), 2, 0, 0)'),
    _call(
        "handles of files",
        'call("name_to_handle_at", -100, b"/usr", struct.pack("Ii", 0, 0), ctypes.byref(ctypes.c_int()), 0)',
    ),
    _call("notices of all files (fanotify)", 'syscall("fanotify_init", 0x8 | 0x200, 0)'),
    _call(
        "kernel modules",
        'call("init_module", None, 0, b"")',
        'syscall("finit_module", -1, b"", 0)',
        'call("delete_module", b"streamer_none", 0)',
        privileged=True,
    ),
    _call("another kernel (kexec)", 'syscall("kexec_load", 0, 0, None, 0x8000)', privileged=True),
    _call("a restart of the machine", 'syscall("reboot", 0, 0, 0, None)', privileged=True),
    _call(
        "swap space",
        'call("swapon", b"/streamer-none", 0)',
        'call("swapoff", b"/streamer-none")',
        privileged=True,
    ),
    _call("process accounting", 'call("acct", b"/streamer-none")', privileged=True),
    _call(
        "the clock",
        'syscall("settimeofday", None, None)',
        'call("adjtimex", ctypes.create_string_buffer(struct.pack("I", 0x4000), 512))',
        privileged=True,
    ),
    _call(
        "the name of the machine",
        'call("sethostname", b"", 0)',
        'call("setdomainname", b"", 0)',
        privileged=True,
    ),
    _call("hanging up the terminal", 'call("vhangup")', privileged=True),
    _call("quotas", 'syscall("quotactl", 0x80000100, None, 0, None)'),
    _call("ports of the hardware", *(('call("iopl", 3)', 'call("ioperm", 0x80, 1, 1)'))),
    Attack(
        "words typed into a terminal",
        """
        import pty, termios
        try:
            pid, master = pty.fork()
        except OSError as error:
            held(error)  # there are none
        if pid == 0:
            for request in (0x5412, 0x541C, 0x5423):  # TIOCSTI, TIOCLINUX, TIOCSETD
                try:
                    fcntl.ioctl(0, request, b"\\0\\0\\0\\0")
                    os._exit(1)
                except OSError as error:
                    if error.errno not in (errno.EPERM, errno.EIO, errno.EACCES):
                        os._exit(2)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        held() if code == 0 else escaped(f"code {code}")
        """,
        SURFACE,
        covers=(45,),
    ),
    *(
        Attack(
            f"a socket of {name}",
            f"""
            for kind in (socket.SOCK_RAW, socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
                try:
                    socket.socket({number}, kind, 0)
                    escaped(kind)
                except OSError as error:
                    pass
            held()
            """,
            SURFACE,
            covers=covers,
        )
        for name, number, covers in (
            ("the kernel's ciphers (AF_ALG)", 38, ()),
            ("a virtual machine (AF_VSOCK)", 40, (48,)),
        )
    ),
    Attack(
        "a socket of netlink",
        """
        for protocol in range(1, 32):  # 0 is that of routes: see the attacks on the network
            with contextlib.suppress(OSError):
                socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
                escaped(f"protocol {protocol}")
        held()
        """,
        SURFACE,
    ),
    Attack(
        "a socket of a forgotten family",
        """
        for family in set(range(3, 64)) - {10, 16}:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
                with contextlib.suppress(OSError):
                    socket.socket(family, kind, 0)
                    escaped(f"family {family}")
        held()
        """,
        SURFACE,
    ),
    Attack(
        "refused calls with high bits set",
        """
        high = 1 << 40
        first, why = syscall(41 if platform.machine() == "x86_64" else 198, 16 | high, 3, 15)
        if first >= 0:
            escaped("socket(AF_NETLINK)")
        pid, why = syscall("clone", 0x10000000 | signal.SIGCHLD | high, 0, 0, 0, 0)
        if pid == 0:
            os._exit(0)
        held(why) if pid < 0 else escaped("clone(CLONE_NEWUSER)")
        """,
        SURFACE,
    ),
    *(
        Attack(
            f"{name} by 32-bit calls",
            INT80 + calls + "\nheld()",
            SURFACE,
            judge=spoken_or("signaled SIGSEGV", "signaled SIGSYS"),
            covers=(53,),
        )
        for name, calls in (
            ("namespaces", 'old(310, "unshare", 0x10000000)'),
            ("tracing", 'old(26, "ptrace")'),
            ("another personality", 'old(136, "personality", 0x400000)'),
            ("io_uring", 'old(425, "io_uring_setup", 1)'),
            (
                "sockets",
                'old(359, "socket(AF_NETLINK)", 16, 3, 15)\nold(102, "socketcall", 1)',
            ),
            (
                "keys",
                'old(288, "keyctl", 0, -3, 1)',
            ),
        )
    ),
    Attack(
        "refused calls by x32 numbers",
        """
        if platform.machine() != "x86_64":
            held("there are no such calls on this machine")
        for number, arguments in ((272, (0x10000000,)), (101, (0,)), (521, (0,)), (135, (0x400000,)), (425, (1, None))):
            result, why = syscall(0x40000000 | number, *arguments)
            if result != -1 or why not in ("EPERM", "ENOSYS"):
                escaped(f"call {number} gave {result} {why}")
        held()
        """,
        covers=(53,),
        judge=spoken_or("signaled SIGSYS"),
    ),
)
