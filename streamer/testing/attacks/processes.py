"""Attacks on processes: those of the host, and the service's own inside the sandbox."""

from __future__ import annotations

from typing import Final

from streamer.spi import Isolation
from streamer.testing.attack import Attack, ends, exits

__all__ = ["ATTACKS"]

_NOT_FIRST: Final = {
    Isolation.DENY_LIST: "the wrapper is the first process, and the init has the job's user",
}

ATTACKS: Final = (
    Attack(
        "signals to the host",
        """
        for pid in (hint["victim"], hint["witness"], hint["server"]):
            for number in (0, signal.SIGUSR1):
                with contextlib.suppress(OSError):
                    own = os.getpid() == pid or os.getppid() == pid or pid < 20
                    if not own:
                        os.kill(pid, number)
                        escaped(pid)
        held()
        """,
        covers=(43,),
    ),
    Attack(
        "signals to the host by a pidfd",
        """
        for pid in (hint["victim"], hint["server"]):
            with contextlib.suppress(OSError):
                if pid > 20 and os.getpid() != pid:
                    signal.pidfd_send_signal(os.pidfd_open(pid), 0)
                    escaped(pid)
        held()
        """,
        covers=(15, 43),
    ),
    Attack(
        "processes of the host",
        """
        for folder in glob.glob("/proc/[0-9]*"):
            with contextlib.suppress(OSError):
                if secret in read(folder + "/cmdline"):
                    escaped("saw arguments of the host's processes")
                if secret in read(folder + "/environ"):
                    escaped("read the environment of the host's processes")
        held() if len(glob.glob("/proc/[0-9]*")) < 12 else escaped("sees processes of others")
        """,
        covers=(43,),
    ),
    Attack(
        "the memory of its parents",
        """
        for pid in {1, os.getppid(), hint["victim"], hint["server"]} - {os.getpid()}:
            for name in ("mem", "environ", "maps", "root/etc/passwd", "cwd/main.py"):
                path = f"/proc/{pid}/{name}"
                with contextlib.suppress(OSError):
                    os.close(os.open(path, os.O_RDWR if name == "mem" else os.O_RDONLY))
                    escaped(path)
        held()
        """,
        covers=(43,),
    ),
    Attack(
        "the root and the folder of its parents",
        """
        for pid in {1, os.getppid()} - {os.getpid()}:
            for name in ("root", "cwd"):
                with contextlib.suppress(OSError):
                    os.listdir(f"/proc/{pid}/{name}")
                    escaped(f"/proc/{pid}/{name}")
        held()
        """,
        covers=(43, 44),
    ),
    Attack(
        "tracing its parents",
        """
        for pid in {1, os.getppid(), hint["victim"], hint["server"]} - {os.getpid()}:
            if syscall("ptrace", 16, pid, 0, 0)[0] == 0:  # PTRACE_ATTACH
                escaped(f"ptrace {pid}")
            if syscall("ptrace", 0x4206, pid, 0, 0)[0] == 0:  # PTRACE_SEIZE
                escaped(f"ptrace {pid}")
            buffer = ctypes.create_string_buffer(8)
            one = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
            if call("process_vm_readv", pid, one, 1, one, 1, 0)[0] > 0:
                escaped(f"process_vm_readv {pid}")
        held()
        """,
        covers=(43,),
    ),
    Attack(
        "the descriptors of its parents",
        """
        for pid in {1, os.getppid()} - {os.getpid()}:
            for path in glob.glob(f"/proc/{pid}/fd/*"):
                with contextlib.suppress(OSError):
                    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
                    escaped(path)
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(pid)
                for number in range(8):
                    if syscall(438, pidfd, number, 0)[0] >= 0:  # pidfd_getfd
                        escaped(f"pidfd_getfd({pid}, {number})")
        held()
        """,
        covers=(44,),
    ),
    Attack(
        "inherited descriptors",
        """
        more = sorted(int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2)
        own = [fd for fd in more if os.path.exists(f"/proc/self/fd/{fd}")]
        held() if not own else escaped([os.readlink(f"/proc/self/fd/{fd}") for fd in own])
        """,
        covers=(44,),
    ),
    Attack(
        "the program of the init overwritten",
        """
        for path in ("/init", "/proc/1/exe", f"/proc/{os.getppid()}/exe", *glob.glob(hint["state"] + "/*/init")):
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_WRONLY))
                escaped(path)
        held()
        """,
        covers=(40,),
    ),
    Attack(
        "memory that the init does not see",
        """
        # prlimit(2) asks for the same user only. Without a descriptor the init cannot look at /proc,
        # nor wait for anything.
        for pid in {1, os.getppid()} - {os.getpid()}:
            syscall("prlimit64", pid, resource.RLIMIT_NOFILE, struct.pack("QQ", 0, 0), None)
        kept = []
        for _ in range(48):
            kept.append(bytearray(os.urandom(2**12) * 2**10))
            time.sleep(0.01)
        time.sleep(1)
        escaped("192 MiB with a limit of 64")
        """,
        judge=ends("memory", "error"),
        limits={"memory_bytes": 64 * 2**20, "wall_time_s": 8.0},
        limit="memory_bytes",
        covers=(50,),
    ),
    Attack(
        "processor time that the init does not see",
        """
        for pid in {1, os.getppid()} - {os.getpid()}:
            syscall("prlimit64", pid, resource.RLIMIT_NOFILE, struct.pack("QQ", 3, 3), None)
        for _ in range(2):
            if os.fork() == 0:
                while time.process_time() < 3:
                    pass
                os._exit(0)
        while time.process_time() < 3:
            pass
        escaped("9 s with a limit of 1")
        """,
        judge=ends("cpu_time", "error"),
        limits={"cpu_time_s": 1.0, "wall_time_s": 60.0},
        limit="cpu_time_s",
        alone=True,
        covers=(50,),
    ),
    Attack(
        "memory while the init starves",
        """
        for pid in {1, os.getppid()} - {os.getpid()}:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, pid, 19)
            with contextlib.suppress(OSError):
                os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
            with contextlib.suppress(OSError):
                os.sched_setaffinity(pid, {min(os.sched_getaffinity(0))})
        with contextlib.suppress(OSError):
            open("/proc/self/autogroup", "w").write("19")  # the niceness of its session
        for _ in range(12):
            if os.fork() == 0:
                os.setsid()
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
                while time.process_time() < 5:
                    pass
                os._exit(0)
        if os.fork():
            os.wait()
        os.setsid()
        kept = []
        for _ in range(48):
            kept.append(bytearray(os.urandom(2**12) * 2**10))
            time.sleep(0.02)
        time.sleep(1)
        escaped("192 MiB with a limit of 64")
        """,
        judge=ends("memory", "cpu_time", "error"),
        limits={"memory_bytes": 64 * 2**20, "wall_time_s": 12.0},
        limit="memory_bytes",
        alone=True,
        covers=(50,),
    ),
    Attack(
        "the end of its parent and of the first process",
        """
        alone()
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGTERM):
            for pid in {1, os.getppid()} - {os.getpid()}:
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
        print("survived", flush=True)
        os._exit(7)
        """,
        # If the init can be killed, the program's end is unknown, and that is what is reported.
        judge=lambda ran: (
            [] if ran.verdict == "error sandbox_error" else exits(7, "survived\n")(ran)
        ),
        limits={"wall_time_s": 5.0},
        alone=True,
        covers=(26,),
    ),
    Attack(
        "a first process that can be ended",
        """
        alone()
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
            for pid in {1, os.getppid()} - {os.getpid()}:
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
        os._exit(7)
        """,
        _NOT_FIRST,
        judge=exits(7, ""),
        limits={"wall_time_s": 5.0},
        covers=(26,),
    ),
    Attack(
        "everybody, by a signal to -1",
        """
        alone()
        print("alone", flush=True)
        os.kill(-1, signal.SIGKILL)
        print("survived", flush=True)
        os._exit(7)
        """,
        judge=lambda ran: [] if ran.text().startswith("alone\n") else [f"it said {ran.text()!r}"],
        limits={"wall_time_s": 5.0},
        alone=True,
        covers=(43,),
    ),
)
