"""Attacks of a program on a terminal: on others, on the service's side of it, on what follows."""

from __future__ import annotations

from typing import Final

from streamer.spi import Isolation
from streamer.testing.attack import Attack

__all__ = ["ATTACKS"]

_DEVICES: Final = {Isolation.NONE: "it sees the host's devices"}
_SURFACE: Final = {Isolation.NONE: "no system call is filtered"}

ATTACKS: Final = (
    Attack(
        "terminals besides its own",
        """
        import pty
        own = os.path.basename(os.ttyname(0))
        others = set(os.listdir("/dev/pts")) - {own, "ptmx"}
        if others:
            escaped(f"it sees {sorted(others)}")
        for path in ("/dev/ptmx", "/dev/pts/ptmx"):
            for flags in (os.O_RDWR, os.O_RDONLY):
                refused(os.open, path, flags | os.O_NOCTTY)
        with contextlib.suppress(OSError):
            os.chmod("/dev/pts/ptmx", 0o666)
        refused(pty.openpty)
        held()
        """,
        _DEVICES,
        terminal=True,
    ),
    Attack(
        "words typed into its own terminal",
        """
        for high in (0, 1 << 32):  # the kernel ignores the upper half of a request
            for request in (0x5412, 0x541C, 0x5423):  # TIOCSTI, TIOCLINUX, TIOCSETD
                refused_call(call("ioctl", 0, high | request, b"\\n\\0\\0\\0"), f"ioctl {request:x}")
        held()
        """,
        _SURFACE,
        covers=(45,),
        terminal=True,
    ),
    Attack(
        "the service's side of its terminal",
        """
        # TIOCSPTLCK, TIOCGPTN, TIOCPKT, TIOCGPTPEER: only that side knows them.
        for request in (0x40045431, 0x80045430, 0x5420, 0x5441):
            result, error = call("ioctl", 0, request, struct.pack("i", 0) * 4)
            if result != -1:
                escaped(f"ioctl {request:x} worked")
        for path in glob.glob("/proc/[0-9]*/fd/*"):
            with contextlib.suppress(OSError):
                if "ptmx" in os.readlink(path):
                    escaped(f"it sees {path}")
        refused(os.listdir, f"/proc/{os.getppid()}/fd")
        held()
        """,
        terminal=True,
    ),
    Attack(
        "the terminal of the operator, through its own",
        """
        name = os.ttyname(0)
        if os.fstat(0).st_rdev != os.stat(name).st_rdev or not os.path.samestat(os.fstat(0), os.stat(name)):
            escaped(f"{name} is another terminal")
        for number in range(3):
            if os.fstat(number).st_rdev != os.fstat(0).st_rdev:
                escaped(f"descriptor {number} is another device")
        refused(os.open, "/proc/self/fd/0/../0", os.O_RDWR)
        with open("/dev/tty", "rb+", buffering=0) as controlling:
            if os.tcgetpgrp(controlling.fileno()) != os.getpgrp():
                escaped("its controlling terminal has another foreground")
        try:
            fcntl.ioctl(0, 0x541D)  # TIOCCONS: all messages of the console
            escaped("it took the console")
        except OSError:
            pass
        held()
        """,
        terminal=True,
    ),
    Attack(
        "life on its terminal after its end",
        """
        ready, told = os.pipe()
        for own_session in (False, True):
            if os.fork() == 0:
                for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGTTOU, signal.SIGCONT):
                    signal.signal(number, signal.SIG_IGN)
                os.setsid() if own_session else os.setpgid(0, 0)
                os.write(told, b"x")
                while True:
                    time.sleep(1)
        os.read(ready, 1), os.read(ready, 1)
        held("the host sees whether one lives")
        """,
        terminal=True,
    ),
    Attack(
        "the service's attention, by a terminal that it has stopped",
        """
        import termios
        print("HELD: what was written before is there", flush=True)
        termios.tcdrain(1)
        for _ in range(3):
            if os.fork() == 0:
                while True:
                    os.write(1, b"x" * 4096)
        termios.tcflow(1, termios.TCOOFF)
        os._exit(0)
        """,
        terminal=True,
    ),
    Attack(
        "the service's attention, by sizes of its terminal",
        """
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            for size in (1, 65535):
                fcntl.ioctl(0, 0x5414, struct.pack("HHHH", size, size, size, size))  # TIOCSWINSZ
        held("it has told only itself")
        """,
        terminal=True,
    ),
)
