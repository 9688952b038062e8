"""Attacks on information about the service and the host: variables, names, kernel tables."""

from __future__ import annotations

from typing import Final

from streamer.spi import Isolation
from streamer.testing.attack import HOST_VISIBLE, Attack

__all__ = ["ATTACKS"]

ATTACKS: Final = (
    Attack(
        "the service's environment in its own",
        """
        allowed = {"ESCAPE_HINT", "HOME", "LANG", "LC_CTYPE", "LOGNAME", "PATH", "TERM", "TMPDIR", "USER"}
        more = sorted(set(os.environ) - allowed)
        held() if not more else escaped(more)
        """,
        covers=(42,),
    ),
    Attack(
        "the service's environment in /proc",
        """
        for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/task/*/environ"):
            with contextlib.suppress(OSError):
                if secret in read(path, 1 << 20):
                    escaped(path)
        held()
        """,
        covers=(42, 43),
    ),
    Attack(
        "the service's environment in the first process",
        """
        for pid in {1, os.getppid()} - {os.getpid()}:
            with contextlib.suppress(OSError):
                names = [v.split(b"=")[0].decode() for v in read(f"/proc/{pid}/environ").split(b"\\0") if v]
                if set(names) - {"ESCAPE_HINT", "HOME", "LANG", "LOGNAME", "PATH", "TERM", "TMPDIR", "USER"}:
                    escaped(f"{pid}: {names}")
        held()
        """,
        covers=(42, 43),
    ),
    Attack(
        "the command line of the sandbox",
        """
        # It names folders of the host: whose they are is nobody's business inside.
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if hint["state"].encode() in read(path) and not os.environ["HOME"].startswith(hint["state"]):
                    escaped(f"{path}: {read(path)[:80]}")
        held()
        """,
        {
            **HOST_VISIBLE,
            Isolation.DENY_LIST: "the wrapper's command line is of the job's user, and names the init",
        },
        covers=(43, 54),
    ),
    Attack(
        "other jobs in the tables of mounts",
        """
        for path in glob.glob("/proc/[0-9]*/mountinfo") + ["/proc/mounts"]:
            with contextlib.suppress(OSError):
                if any(name.encode() in read(path, 1 << 20) for name in hint["neighbour"]["names"]):
                    escaped(path)
        held(hint["neighbour"]["names"])
        """,
        neighbour=True,
        covers=(52,),
    ),
    Attack(
        "other jobs in the names of control groups",
        """
        others = set(hint["neighbour"]["names"])
        for path in glob.glob("/proc/[0-9]*/cgroup"):
            with contextlib.suppress(OSError):
                if any(name.encode() in read(path) for name in others):
                    escaped(path)
        for folder, names, _ in os.walk("/sys/fs/cgroup"):
            if others & set(names):
                escaped(folder)
        held(sorted(others))
        """,
        HOST_VISIBLE,
        neighbour=True,
        covers=(50, 52),
    ),
    Attack(
        "the name of the host",
        """
        held() if socket.gethostname() != hint["host_name"] else escaped(socket.gethostname())
        """,
        HOST_VISIBLE,
    ),
    Attack(
        "the identity of the machine",
        """
        for path in ("/etc/machine-id", "/var/lib/dbus/machine-id", "/sys/class/dmi/id/product_uuid"):
            with contextlib.suppress(OSError):
                if read(path):
                    escaped(path)
        held()
        """,
        HOST_VISIBLE,
    ),
    Attack(
        "the accounts of the host",
        """
        import pwd
        names = [entry.pw_name for entry in pwd.getpwall()]
        held() if len(names) <= 3 else escaped(names[:5])
        """,
        HOST_VISIBLE,
    ),
    Attack(
        "the installed software of the host",
        """
        for path in ("/var/lib/dpkg/status", "/var/lib/rpm", "/var/cache", "/opt"):
            with contextlib.suppress(OSError):
                if os.listdir(path) if os.path.isdir(path) else read(path):
                    escaped(path)
        held()
        """,
        HOST_VISIBLE,
    ),
    Attack(
        "the messages of the kernel",
        """
        buffer = ctypes.create_string_buffer(4096)
        if call("klogctl", 3, buffer, 4095)[0] > 0:  # SYSLOG_ACTION_READ_ALL
            escaped("klogctl")
        for path in ("/dev/kmsg", "/proc/kmsg"):
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
                escaped(path)
        held()
        """,
        HOST_VISIBLE,
    ),
    Attack(
        "the addresses of the kernel",
        """
        for path in ("/proc/kallsyms", "/proc/modules", "/proc/iomem"):
            with contextlib.suppress(OSError):
                for line in read(path).decode().splitlines()[:2000]:
                    address = line.split()[-1] if path.endswith("modules") else line.split()[0].split("-")[0]
                    if address.removeprefix("0x").strip("0(null)") and path != "/proc/modules":
                        escaped(f"{path}: {line}")
        for path in ("/proc/kcore", "/proc/vmallocinfo", "/proc/slabinfo", "/sys/kernel/debug/x"):
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_RDONLY))
                escaped(path)
        held()
        """,
    ),
    Attack(
        "the sockets of the host in /proc",
        """
        for path in ("/proc/net/unix", "/proc/1/net/unix"):
            with contextlib.suppress(OSError):
                if hint["abstract"].encode() in read(path, 1 << 20):
                    escaped(path)
        held()
        """,
        HOST_VISIBLE,
        covers=(47,),
    ),
    Attack(
        "the keys of others in /proc",
        """
        with contextlib.suppress(OSError):
            for line in read("/proc/keys").decode().splitlines():
                if " user " in line:
                    escaped(line)
        held()
        """,
        {Isolation.NONE: "it sees the host's /proc/keys, though it can use none of them"},
        covers=(48,),
    ),
)
