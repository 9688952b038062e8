"""Attacks on a job's end: outliving the job, keeping it running, escaping its time limit."""

from __future__ import annotations

from typing import Final

from streamer.testing.attack import Attack, ends, exits

__all__ = ["ATTACKS"]

_WALL: Final = {"wall_time_s": 0.7}


def _stays(name: str, program: str, *covers: int, alone: bool = False) -> Attack:
    """Return an attack that only the wall limit ends, and that reports if it does not."""
    return Attack(
        name,
        program,
        judge=ends("wall_time"),
        limits=_WALL,
        alone=alone,
        covers=covers,
    )


def _outlives(name: str, program: str, *covers: int) -> Attack:
    """Return an attack after whose end nothing that it started may be alive."""
    return Attack(name, program, judge=exits(0, "up\n"), alone=True, covers=covers)


ATTACKS: Final = (
    _stays("stopping itself", "os.kill(os.getpid(), signal.SIGSTOP)\nescaped('it went on')", 4),
    _stays("stopping its group", "os.kill(0, signal.SIGSTOP)\nescaped('it went on')", 4),
    _stays(
        "ignoring every signal",
        """
        for number in set(range(1, 65)) - {signal.SIGKILL, signal.SIGSTOP, 32, 33}:
            signal.signal(number, signal.SIG_IGN)
        time.sleep(20)
        escaped("it lived on")
        """,
        5,
    ),
    _stays(
        "answering SIGTERM with more children",
        """
        def again(*_):
            for _ in range(3):
                if os.fork() == 0:
                    os.setsid()
        signal.signal(signal.SIGTERM, again)
        stop = time.monotonic() + 20
        while time.monotonic() < stop:
            time.sleep(0.1)
        escaped("it lived on")
        """,
        3,
        5,
    ),
    _stays(
        "a tree that ignores its end",
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.setsid()
                break
        time.sleep(20)
        escaped("it lived on")
        """,
        3,
        alone=True,
    ),
    _stays(
        "printing without end",
        """
        stop = time.monotonic() + 20
        while time.monotonic() < stop:
            os.write(1, b".")
            time.sleep(0.05)
        escaped("each print gave it more time")
        """,
        8,
    ),
    Attack(
        "stopping the init",
        """
        alone()
        with contextlib.suppress(OSError):
            os.kill(os.getppid(), signal.SIGSTOP)
        time.sleep(20)
        escaped("it lived on")
        """,
        judge=ends("wall_time", "error"),
        limits=_WALL,
        covers=(4,),
    ),
    *(
        Attack(
            f"{what} while the init is stopped",
            f"""
            alone()

            with contextlib.suppress(OSError):
                os.kill(os.getppid(), signal.SIGSTOP)
            {program.strip()}
            escaped("it was let")
            """,
            judge=ends(reason, "error"),
            limits=dict(limits),
            limit=limit,
            covers=(50,),
        )
        for what, limit, limits, reason, program in (
            (
                "memory",
                "memory_bytes",
                (("memory_bytes", 64 * 2**20), ("wall_time_s", 12.0)),
                "memory",
                """
            kept = []
            for _ in range(200):
                kept.append(os.urandom(2**12) * 2**8)
                time.sleep(0.02)
                """,
            ),
            (
                "disk",
                "disk_bytes",
                (("disk_bytes", 4 * 2**20), ("wall_time_s", 12.0)),
                "disk",
                """
            for number in range(32):
                with contextlib.suppress(OSError), open(f"f{number}", "wb") as file:
                    file.write(b"x" * 2**20)
            time.sleep(5)
                """,
            ),
            (
                "processor time",
                "cpu_time_s",
                (("cpu_time_s", 1.0), ("wall_time_s", 60.0)),
                "cpu_time",
                """
            for _ in range(2):
                if os.fork() == 0:
                    while time.process_time() < 1.8:
                        pass
                    os._exit(0)
            for _ in range(2):
                os.wait()
                """,
            ),
        )
    ),
    Attack(
        "memory while the init runs for moments only",
        """
        alone()
        init = os.getppid()
        if os.fork() == 0:
            while True:
                with contextlib.suppress(OSError):
                    os.kill(init, signal.SIGSTOP)
                time.sleep(0.02)
                with contextlib.suppress(OSError):
                    os.kill(init, signal.SIGCONT)
                time.sleep(0.0005)
        kept = []
        for _ in range(200):
            kept.append(os.urandom(2**12) * 2**8)
            time.sleep(0.02)
        escaped("it was let")
        """,
        judge=ends("memory", "error"),
        limits={"memory_bytes": 64 * 2**20, "wall_time_s": 12.0},
        limit="memory_bytes",
        covers=(50,),
    ),
    _stays(
        "a child that holds its parent by vfork",
        """
        # The parent cannot run, nor take a signal, until the child executes something.
        if platform.machine() == "x86_64":
            syscall(58)
        time.sleep(20)
        escaped("it lived on")
        """,
        3,
    ),
    _stays(
        "waiting in the kernel for ever",
        """
        os.mkfifo("fifo")
        os.open("fifo", os.O_WRONLY)
        escaped("it went on")
        """,
        5,
    ),
    _outlives(
        "a background process with the output",
        """
        subprocess.Popen(["sleep", "600"])
        print("up", flush=True)
        os._exit(0)
        """,
        1,
    ),
    _outlives(
        "a daemon",
        """
        ready, writing = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.write(writing, b"x")
                os.closerange(0, 10)
                time.sleep(600)
            os._exit(0)
        os.wait()
        os.read(ready, 1)
        print("up", flush=True)
        os._exit(0)
        """,
        2,
    ),
    _outlives(
        "a daemon without a trace of its job",
        """
        ready, writing = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.set_inheritable(writing, True)
                os.chdir("/")
                os.execve("/bin/sh", ["kworker/0:1"], {}) if False else None
                os.execve("/bin/sh", ["kworker/0:1", "-c", f"echo x >&{writing}; exec sleep 600 >/dev/null 2>&1"], {})
            os._exit(0)
        os.wait()
        os.close(writing)
        os.read(ready, 1)
        print("up", flush=True)
        os._exit(0)
        """,
        2,
    ),
    _outlives(
        "comets: each process lives only to start the next",
        """
        alone()
        for _ in range(5):
            if os.fork() == 0:
                stop = time.monotonic() + 20
                while time.monotonic() < stop:
                    with contextlib.suppress(OSError):
                        if os.fork():
                            os._exit(0)
                    os.setsid()
                os._exit(0)
        print("up", flush=True)
        os._exit(0)
        """,
        2,
        3,
    ),
    _outlives(
        "a stopped process",
        """
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.kill(os.getpid(), signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        print("up", flush=True)
        os._exit(0)
        """,
        3,
    ),
    _outlives(
        "a process whose first thread has ended",
        """
        pid = os.fork()
        if pid == 0:
            os.setsid()
            threading.Thread(target=time.sleep, args=(600,)).start()
            syscall("exit", 0)
        while "Z" not in read(f"/proc/{pid}/stat").decode().rpartition(")")[2]:
            time.sleep(0.01)
        print("up", flush=True)
        os._exit(0)
        """,
        3,
    ),
    _outlives(
        "a child that nobody may wait for",
        """
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        if os.fork() == 0:
            time.sleep(600)
        print("up", flush=True)
        os._exit(0)
        """,
        14,
    ),
)
