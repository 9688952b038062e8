"""Attacks on resources shared by the whole host or account: one job could use up all.

None takes more than one of a scarce resource, or a few thousand of a plentiful one: getting any, or
more than its share, is the proof.
"""

from __future__ import annotations

from typing import Final

from streamer.spi import Isolation
from streamer.testing.attack import Attack

__all__ = ["ATTACKS"]

_DEVICES: Final = {Isolation.NONE: "it sees the host's devices"}

ATTACKS: Final = (
    Attack(
        "the host's contexts of asynchronous I/O",
        """
        setup, submit = {"x86_64": (206, 209), "aarch64": (0, 2)}.get(platform.machine(), (0, 2))
        refused_call(syscall(setup, 1, ctypes.byref(ctypes.c_ulong())), "io_setup")
        refused_call(syscall(submit, 0, 0, None), "io_submit")
        held()
        """,
    ),
    Attack(
        "the host's pseudo-terminals",
        """
        import pty
        for path in ("/dev/ptmx", "/dev/pts/ptmx"):
            refused(os.open, path, os.O_RDWR | os.O_NOCTTY)
        refused(pty.openpty)
        held()
        """,
        _DEVICES,
    ),
    Attack(
        "the host's huge pages",
        """
        # Of a size that no machine has: the kernel itself would call that invalid.
        for size in (0, 63 << 26):
            for flags in (0x22, 0x21):  # MAP_ANONYMOUS with MAP_PRIVATE or MAP_SHARED
                refused_page = call("mmap", None, 1 << 21, 3, 0x40000 | flags | size, -1, 0)
                if refused_page[1] != "ENOMEM":
                    escaped(f"mmap gave {refused_page}")
            for name, result in (
                ("shmget", call("shmget", 0, 1 << 21, 0o5600 | size)),
                ("memfd_create", call("memfd_create", b"x", 4 | size)),
            ):
                if result[0] != -1 or result[1] not in ("ENOMEM", "ENOSYS"):
                    escaped(f"{name} gave {result}")
        held()
        """,
    ),
    Attack(
        "the signals that wait for all programs of an account",
        """
        number, sent = signal.SIGRTMIN + 3, 0
        signal.pthread_sigmask(signal.SIG_BLOCK, [number])
        while sent < 5000 and call("sigqueue", os.getpid(), int(number), None)[0] == 0:
            sent += 1
        held(sent) if sent <= 1024 else escaped(f"{sent} signals")
        """,
    ),
    Attack(
        "the watches on files of all programs of an account",
        """
        with contextlib.suppress(OSError):
            with open("/proc/sys/user/max_inotify_instances", "w") as file:
                file.write("1000")
            escaped("it set its own share")
        made = 0
        while made < 100 and call("inotify_init1", 0)[0] >= 0:
            made += 1
        held(made) if made <= 16 else escaped(f"{made} instances")
        """,
        {
            Isolation.NONE: "jobs of a root service have the share of a user of their own",
            Isolation.DENY_LIST: "its jobs share those of one account",
        },
    ),
    Attack(
        "a setuid file for the next job of its user",
        """
        if not os.path.exists(hint["folder"]):
            held("what it leaves in /tmp is seen by nobody")
        fchmodat2, mode = 452, 0o6755

        def opened(path, flags):
            os.umask(0)
            return os.open(path, flags, mode)

        for folder in ("/tmp", "/var/tmp"):
            path = os.path.join(folder, "note-streamer-lure-" + hint["mark"])  # no other has it
            ways = {
                "chmod": lambda: os.chmod(path, mode),
                "chmod of one bit": lambda: os.chmod(path, 0o4700),
                "chmod of the other": lambda: os.chmod(path, 0o2700),
                "fchmod": lambda: os.fchmod(os.open(path, os.O_RDONLY), mode),
                "fchmodat": lambda: os.chmod(path, mode, dir_fd=os.open(folder, os.O_PATH)),
                "fchmodat2": lambda: syscall(fchmodat2, -100, path.encode(), mode, 0),
                "open": lambda: opened(path + "-new", os.O_CREAT | os.O_WRONLY),
                "mknod": lambda: os.mknod(path + "-new", mode | stat.S_IFREG),
                "openat2": lambda: syscall(437, -100, path.encode() + b"-new", struct.pack("QQQ", 0o101, mode, 0), 24),
                "a file without a name": lambda: os.link(
                    f"/proc/self/fd/{opened(folder, os.O_TMPFILE | os.O_WRONLY)}", path + "-new", follow_symlinks=True),
            }
            for name, way in ways.items():
                open(path, "w").close()
                try:
                    with contextlib.suppress(OSError):
                        way()
                    for made in glob.glob(path + "*"):
                        if os.stat(made).st_mode & (stat.S_ISUID | stat.S_ISGID):
                            escaped(f"{name} in {folder}")
                finally:
                    for made in glob.glob(path + "*"):
                        os.unlink(made)
        held()
        """,
        covers=(34,),
    ),
    Attack(
        "the message queues of an account",
        """
        queue, why = call("mq_open", b"/" + hint["note"].encode(), os.O_RDWR | os.O_CREAT, 0o600, None)
        if queue >= 0:
            call("mq_unlink", b"/" + hint["note"].encode())
            escaped("a queue")
        held(why)
        """,
    ),
)
