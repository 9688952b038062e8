"""Attacks of a case on those that come after it in the same job."""

from __future__ import annotations

from typing import Final

from streamer.spi import Isolation
from streamer.testing.attack import Attack, spoken_in

__all__ = ["ATTACKS"]

_CASES: Final = 3

_SAME_TMP: Final = {Isolation.NONE: "all cases see the host's /tmp"}
_SAME_USER: Final = {Isolation.NONE: "an ordinary user's cases are that user"}

ATTACKS: Final = (
    Attack(
        "files for the next case",
        """
        paths = [os.path.join(folder, "case-" + hint["note"]) for folder in
                 ("/tmp", "/var/tmp", "/dev/shm", "/run", "/run/lock")]
        left = [path for path in paths if os.path.lexists(path)]
        if left:
            escaped(left)
        for path in paths:
            with contextlib.suppress(OSError):
                open(path, "w").close()
        held()
        """,
        _SAME_TMP,
        judge=spoken_in(_CASES),
        cases=_CASES,
        covers=(48, 52),
    ),
    Attack(
        "a workspace that is not that of the job",
        """
        found = sorted(os.listdir("."))
        if found != ["attack.py", "data"] or os.listdir("data") != ["file"]:
            escaped(found)
        if read("data/file") != b"as it was uploaded":
            escaped("an earlier case has changed it")
        open("data/file", "w").write("changed")
        os.symlink("/", "data/root")
        for name in (".left", "left", "../left", ".local", "sitecustomize.py"):
            with contextlib.suppress(OSError):
                open(name, "w").close()
        for path in (os.path.abspath("attack.py"), "attack.py"):
            with contextlib.suppress(OSError):
                open(path, "w").close()
        os.chmod("data", 0)
        os.chmod(".", 0)
        held()
        """,
        judge=spoken_in(_CASES),
        cases=_CASES,
        project={"data/file": "as it was uploaded"},
        covers=(34, 52),
    ),
    Attack(
        "the workspace of the next case while it is filled",
        """
        if os.path.lexists("planted"):
            escaped("it is here")
        own = os.path.realpath(".")
        stop = time.monotonic() + 0.7
        while time.monotonic() < stop:
            for folder in (*glob.glob(hint["state"] + "/*/jobs/*"), *glob.glob(own + "/../*"),
                           *glob.glob("/proc/[0-9]*/cwd")):
                with contextlib.suppress(OSError):
                    # Other services of this account may run beside this one: not in their jobs.
                    found = os.path.realpath(folder)
                    if found != own and found.startswith(hint["state"] + "/"):
                        open(folder + "/planted", "w").close()
            time.sleep(0.005)
        with contextlib.suppress(OSError):
            os.unlink("planted")
        held()
        """,
        _SAME_USER,
        judge=spoken_in(_CASES),
        cases=_CASES,
        alone=True,
        covers=(48, 52),
    ),
    Attack(
        "memory, queues and semaphores for the next case",
        """
        for name in ("shm", "msg", "sem"):
            if len(read(f"/proc/sysvipc/{name}").decode().splitlines()) > 1:
                escaped(name)
        libc.shmget(0x5713, 4096, 0o1666)
        libc.msgget(0x5713, 0o1666)
        libc.semget(0x5713, 1, 0o1666)
        if call("mq_open", b"/streamer-case", os.O_RDONLY)[0] >= 0:
            escaped("a message queue")
        call("mq_open", b"/streamer-case", os.O_RDWR | os.O_CREAT, 0o666, None)
        held()
        """,
        judge=spoken_in(_CASES),
        cases=_CASES,
        alone=True,
        covers=(48,),
    ),
    Attack(
        "a process for the next case",
        """
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if b"left-for-the-next" in read(path):
                    escaped(path)
        ready, writing = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for number in set(range(1, 65)) - {signal.SIGKILL, signal.SIGSTOP, 32, 33}:
                    signal.signal(number, signal.SIG_IGN)
                os.dup2(os.open(os.devnull, os.O_RDWR), 1)
                os.dup2(1, 2)
                os.write(writing, b"x")
                os.execlp("sh", "left-for-the-next", "-c", "while :; do sleep 60; done")
            os._exit(0)
        os.wait()
        os.read(ready, 1)
        held()
        """,
        judge=spoken_in(_CASES),
        cases=_CASES,
        alone=True,
        covers=(2, 48),
    ),
    Attack(
        "an abstract socket for the next case",
        """
        name = "\\0case-" + hint["note"]
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(name)
        except OSError:
            pass
        else:
            escaped("it is connected")
        ready, writing = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                server = socket.socket(socket.AF_UNIX)
                server.bind(name)
                server.listen()
                os.dup2(os.open(os.devnull, os.O_RDWR), 1)
                os.dup2(1, 2)
                os.write(writing, b"x")
                time.sleep(60)
            os._exit(0)
        os.wait()
        os.read(ready, 1)
        held()
        """,
        judge=spoken_in(_CASES),
        cases=_CASES,
        covers=(47, 48),
    ),
)
