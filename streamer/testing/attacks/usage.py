"""Attacks on the host's processors and on its number of processes."""

from __future__ import annotations

from typing import Final

from streamer.testing.attack import Attack, ends, spoken_or

__all__ = ["ATTACKS"]

_CPU: Final = {"cpu_time_s": 0.5}
_COUNT: Final = {"processes": 24, "wall_time_s": 20.0}


def _burns(name: str, program: str) -> Attack:
    return Attack(
        name,
        program,
        judge=ends("cpu_time"),
        limits=_CPU,
        limit="cpu_time_s",
        covers=(3,),
    )


ATTACKS: Final = (
    _burns("processor time of one process", "while True: pass"),
    _burns(
        "processor time of children together",
        """
        for _ in range(4):
            if os.fork() == 0:
                while True:
                    pass
        os.wait()
        """,
    ),
    _burns(
        "processor time of children that end",
        """
        while True:
            if os.fork() == 0:
                while time.process_time() < 0.1:
                    pass
                os._exit(0)
            os.wait()
        """,
    ),
    _burns(
        "processor time of children that nobody waits for",
        """
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        for _ in range(150):
            if os.fork() == 0:
                while time.process_time() < 0.02:
                    pass
                os._exit(0)
            with contextlib.suppress(ChildProcessError):
                os.wait()
        escaped("3 s with a limit of 0.5")
        """,
    ),
    _burns(
        "processor time by ignoring the signal",
        """
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
        while True:
            pass
        """,
    ),
    _burns(
        "processor time under a name that looks like numbers",
        """
        libc.prctl(15, b") Z 1 0 0 0 0", 0, 0, 0)  # PR_SET_NAME, which /proc/PID/stat shows
        for _ in range(2):
            if os.fork() == 0:
                break
        while True:
            pass
        """,
    ),
    _burns(
        "processor time after the first thread's end",
        """
        def burn():
            while True:
                pass
        threading.Thread(target=burn, daemon=True).start()
        syscall("exit", 0)
        """,
    ),
    _burns(
        "processor time of threads",
        """
        source = "while True: pass"
        for _ in range(3):
            threading.Thread(target=exec, args=(source,), daemon=True).start()
        exec(source)
        """,
    ),
    Attack(
        "a fork bomb",
        """
        alone()
        stop = time.monotonic() + 15
        while time.monotonic() < stop:
            with contextlib.suppress(OSError):
                os.fork()
        time.sleep(30)
        """,
        judge=ends("wall_time", "memory", "cpu_time"),
        limits={"processes": 64, "wall_time_s": 1.5},
        limit="processes",
        alone=True,
        covers=(6,),
    ),
    Attack(
        "a fork bomb of sleepers",
        """
        made = 0
        with contextlib.suppress(OSError):
            for made in range(60):
                if os.fork() == 0:
                    time.sleep(600)
        held(made) if made < 24 else escaped("60 with a limit of 24")
        """,
        limits=_COUNT,
        limit="processes",
        covers=(6, 7),
    ),
    Attack(
        "many threads",
        """
        stop, made = threading.Event(), 0
        with contextlib.suppress(RuntimeError):
            for made in range(60):
                threading.Thread(target=stop.wait, daemon=True).start()
        held(made) if made < 24 else escaped("60 with a limit of 24")
        """,
        limits=_COUNT,
        limit="processes",
        covers=(6,),
    ),
    Attack(
        "many processes, each of its own session",
        """
        made = 0
        with contextlib.suppress(OSError):
            for made in range(60):
                if os.fork() == 0:
                    os.setsid()
                    time.sleep(600)
        held(made) if made < 24 else escaped("60 with a limit of 24")
        """,
        limits=_COUNT,
        limit="processes",
        covers=(6, 7),
    ),
    Attack(
        "many processes by vfork",
        """
        made = 0
        try:
            for made in range(60):
                subprocess.Popen(["sleep", "600"])
        except OSError:
            pass
        held(made) if made < 24 else escaped("60 with a limit of 24")
        """,
        limits=_COUNT,
        limit="processes",
        covers=(6,),
    ),
    Attack(
        "many zombies",
        """
        made = 0
        with contextlib.suppress(OSError):
            for made in range(60):
                if os.fork() == 0:
                    os._exit(0)
        held(made) if made < 24 else escaped("60 with a limit of 24")
        """,
        limits=_COUNT,
        limit="processes",
        covers=(6,),
    ),
    Attack(
        "arguments without end",
        """
        long = ["x" * 100_000] * 200
        with contextlib.suppress(OSError):
            os.execv("/bin/true", ["true", *long])
        with contextlib.suppress(OSError):
            os.execve("/bin/true", ["true"], {f"V{n}": "x" * 100_000 for n in range(200)})
        # And as long as may be, where the service may look at it.
        os.execv("/bin/sleep", ["sleep", *["0"] * 60_000])
        """,
        judge=spoken_or("exited 0"),
        covers=(68,),
    ),
)
