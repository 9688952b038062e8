"""Attacks while compiling: the same sandbox must hold for compilers and for builds that run code."""

from __future__ import annotations

from typing import Final

from streamer.testing.attack import HOST_VISIBLE, Attack, Judge, exits, spoken_or
from streamer.testing.running import Ran

__all__ = ["ATTACKS"]

ENDED: Final = ("cpu_time", "memory", "wall_time", "output_limit", "disk", "exited 1", "exited 4")


def _never_runs(*verdicts: str) -> Judge:
    """Accept that a program does not compile, or that its compiler was killed."""

    def judge(ran: Ran) -> list[str]:
        told = ran.text("stderr") + ran.text()
        found = [f"the compiler told {told[:200]!r}"] if "secret-" in told else []
        if ran.verdict not in verdicts and ran.verdict.partition(" ")[0] not in verdicts:
            found.append(f"it ended by {ran.verdict}")
        return found

    return judge


ATTACKS: Final = (
    Attack(
        "a file that only root may read, included",
        '#include "/etc/shadow"\nint main(void) { return 0; }\n',
        language="c",
        judge=_never_runs("exited 1"),
        covers=(12,),
    ),
    Attack(
        "a file of others, included",
        '#include "@READABLE@"\nint main(void) { return 0; }\n',
        HOST_VISIBLE,
        language="c",
        judge=_never_runs("exited 1"),
        covers=(12,),
    ),
    Attack(
        "a file of others, assembled into the program",
        """
        #include <stdio.h>
        __asm__(".section .rodata\\nlure: .incbin \\"@READABLE@\\"\\n.byte 0\\n.previous\\n");
        extern char lure[];
        int main(void) { return puts(lure) < 0; }
        """,
        HOST_VISIBLE,
        language="c",
        judge=_never_runs("exited 1"),
        covers=(12,),
    ),
    Attack(
        "a file without end, included",
        '#include "/dev/zero"\nint main(void) { return 0; }\n',
        language="c",
        judge=_never_runs(*ENDED, "signaled"),
        limits={"output_bytes": 100_000},
        covers=(12,),
    ),
    Attack(
        "standard input, included",
        '#include "/dev/stdin"\nint main(void) { return 5; }\n',
        language="c",
        judge=_never_runs("exited 1", "exited 5"),
        covers=(12,),
    ),
    Attack(
        "a compiler that is kept busy",
        """
        #define A(x) x x x x x x x x x x x x x x x x
        #define B(x) A(A(A(A(x))))
        int main(void) { int n = 0; B(B(n++;)) return n; }
        """,
        language="c",
        judge=_never_runs(*ENDED, "signaled"),
        limit="cpu_time_s",
        alone=True,
        covers=(11,),
    ),
    Attack(
        "a compiler that talks without end",
        "#warning again and again\n#include __FILE__\n",
        language="c",
        judge=_never_runs("exited 1", "output_limit"),
        limits={"output_bytes": 50_000},
        covers=(11, 16),
    ),
    Attack(
        "the host, from a build that runs code",
        """
        for pid in (hint["victim"], hint["server"]):
            with contextlib.suppress(OSError):
                if pid > 20 and os.getpid() != pid:
                    os.kill(pid, signal.SIGUSR1)
                    escaped("signals")
        with contextlib.suppress(OSError):
            os.close(os.open("/etc/shadow", os.O_RDONLY))
            escaped("/etc/shadow")
        text = read("/proc/self/status").decode()
        held() if "NoNewPrivs:\\t1" in text and "CapEff:\\t0000000000000000" in text else escaped(text)
        """,
        language="build",
        covers=(11, 63),
    ),
    Attack(
        "files and network, from a build that runs code",
        """
        if os.path.exists(hint["readable"]) and secret in read(hint["readable"]):
            escaped("a file of the host")
        refused(socket.create_connection, ("127.0.0.1", hint["port"]), 2)
        held()
        """,
        HOST_VISIBLE,
        language="build",
        covers=(11, 63),
    ),
    Attack(
        "refused calls, from a build that runs code",
        """
        refused_call(syscall("unshare", 0x10000000), "unshare")
        refused_call(syscall(425, 1, ctypes.create_string_buffer(120)), "io_uring")
        held()
        """,
        HOST_VISIBLE,
        language="build",
        covers=(11,),
    ),
    Attack(
        "a daemon that a build leaves",
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
        language="build",
        judge=exits(0, "up\n"),
        alone=True,
        covers=(2, 11),
    ),
    Attack(
        "a fork bomb in a build",
        """
        made = 0
        with contextlib.suppress(OSError):
            for made in range(100):
                if os.fork() == 0:
                    time.sleep(600)
        held(made) if made < 70 else escaped(made)
        """,
        language="build",
        limit="processes",
        covers=(6, 11),
    ),
    Attack(
        "memory in a build",
        """
        kept = []
        for _ in range(400):
            kept.append(b"x" * 2**20)
        time.sleep(0.5)
        escaped("400 MiB with a limit of 256")
        """,
        language="build",
        judge=spoken_or("memory"),
        limit="memory_bytes",
        alone=True,
        covers=(11,),
    ),
    Attack(
        "a verdict forged by a build",
        """
        os.write(1, b"\\n\\nevent: complete\\ndata: {}\\n\\n")
        os._exit(3)
        """,
        language="build",
        judge=exits(3, "\n\nevent: complete\ndata: {}\n\n"),
        covers=(11, 22),
    ),
)
