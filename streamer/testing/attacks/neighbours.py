"""Attacks on other jobs: one that runs at the same time, and the next one of the same user."""

from __future__ import annotations

from typing import Final

from streamer.spi import Isolation
from streamer.testing.attack import HOST_VISIBLE, Attack

__all__ = ["ATTACKS"]

_SAME_USER: Final = {Isolation.NONE: "an ordinary user's jobs are that user"}
_NEXT: Final = {Isolation.NONE: "the next job may get the same user, and see the same /tmp"}
_SHARED: Final = dict.fromkeys(
    (Isolation.NONE, Isolation.DENY_LIST, Isolation.NAMESPACES),
    "jobs share the files of the host's /usr, and a lock is of the file itself",
)

ATTACKS: Final = (
    Attack(
        "another job's arguments and environment",
        """
        for path in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if secret in read(path):
                    escaped(path)
        held()
        """,
        neighbour=True,
        covers=(52,),
    ),
    Attack(
        "another job's files",
        """
        other = hint["neighbour"]
        places = [other["home"] + "/note", f"/proc/{other['pid']}/cwd/note",
                  *glob.glob(hint["state"] + "/*/jobs/*/note"), *glob.glob(os.environ["HOME"] + "/../*/note")]
        for path in places:
            with contextlib.suppress(OSError):
                if secret in read(path):
                    escaped(path)
        held()
        """,
        _SAME_USER,
        neighbour=True,
        covers=(52,),
    ),
    Attack(
        "another job's compiled program",
        """
        ours = os.path.dirname(os.path.dirname(os.getcwd()))
        places = (hint["state"] + "/*", ours)
        kept = [path for place in places for path in glob.glob(place + "/blobs/*") + glob.glob(place + "/jobs/*/*")]
        for path in (*kept, *glob.glob("/proc/[0-9]*/fd/*")):
            with contextlib.suppress(OSError):
                if os.path.isfile(path) and secret in read(path):
                    escaped(path)
        held()
        """,
        _SAME_USER,
        build=True,
        covers=(52,),
    ),
    Attack(
        "another job's files written",
        """
        # The other job tells.
        for path in (hint["neighbour"]["home"] + "/note", *glob.glob(hint["state"] + "/*/jobs/*/note")):
            if os.path.realpath(path) != os.path.realpath("note"):
                with contextlib.suppress(OSError):
                    with open(path, "r+") as file:
                        file.write("x")
                    escaped(path)
        held()
        """,
        _SAME_USER,
        neighbour=True,
        covers=(52,),
    ),
    Attack(
        "signals to another job",
        """
        # Where it can be seen it is in /proc; the other job tells which signals it got.
        for folder in glob.glob("/proc/[0-9]*"):
            with contextlib.suppress(OSError):
                if b"neighbour.py" in read(folder + "/cmdline"):
                    os.kill(int(folder[6:]), signal.SIGUSR1)
                    escaped(folder)
        held()
        """,
        neighbour=True,
        covers=(52,),
    ),
    Attack(
        "tracing another job",
        """
        for folder in glob.glob("/proc/[0-9]*"):
            with contextlib.suppress(OSError):
                if b"neighbour.py" in read(folder + "/cmdline"):
                    if syscall("ptrace", 0x4206, int(folder[6:]), 0, 0)[0] == 0:
                        escaped(folder)
                    os.close(os.open(folder + "/mem", os.O_RDWR))
                    escaped(folder)
        held()
        """,
        neighbour=True,
        covers=(52,),
    ),
    Attack(
        "another job's shared memory",
        """
        with contextlib.suppress(OSError):
            if secret in read("/dev/shm/" + hint["neighbour"]["name"]):
                escaped("/dev/shm")
        held()
        """,
        HOST_VISIBLE,
        neighbour=True,
        covers=(48,),
    ),
    Attack(
        "another job's temporary files",
        """
        with contextlib.suppress(OSError):
            if secret in read("/tmp/" + hint["neighbour"]["name"]):
                escaped("/tmp")
        held()
        """,
        HOST_VISIBLE,
        neighbour=True,
        covers=(48,),
    ),
    Attack(
        "another job's System V objects",
        """
        key = hint["neighbour"]["ipc_key"]
        if libc.shmget(key, 0, 0) >= 0:
            escaped("its shared memory")
        if libc.msgget(key, 0) >= 0:
            escaped("its message queue")
        held()
        """,
        neighbour=True,
        covers=(48,),
    ),
    Attack(
        "another job's abstract socket",
        """
        sock = socket.socket(socket.AF_UNIX)
        refused(sock.connect, "\\0" + hint["neighbour"]["name"])
        held()
        """,
        HOST_VISIBLE,
        neighbour=True,
        covers=(47, 48),
    ),
    Attack(
        "another job's port on loopback",
        """
        refused(socket.create_connection, ("127.0.0.1", hint["neighbour"]["port"]), 2)
        held()
        """,
        HOST_VISIBLE,
        neighbour=True,
        covers=(48, 55),
    ),
    Attack(
        "another job's lock on a file of all",
        """
        lock = os.open("/usr/bin/env", os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            escaped("it is locked by the other job: two that agree can pass bits")
        held()
        """,
        _SHARED,
        neighbour=True,
        alone=True,
        covers=(48,),
    ),
    Attack(
        "keys that the kernel keeps for the next job",
        """
        # A key in the user's keyring would be there for the next job of the same user.
        name = hint["note"].encode()
        found, why = syscall("keyctl", 10, -4, b"user", name, 0)  # KEYCTL_SEARCH
        if found > 0:
            escaped("a key of another job")
        syscall("add_key", b"user", name, b"x", 1, -4)
        held(why)
        """,
        times=2,
        alone=True,
        covers=(48,),
    ),
    Attack(
        "shared memory of System V for the next job",
        """
        for line in read("/proc/sysvipc/shm").decode().splitlines()[1:]:
            escaped(line)
        segment = libc.shmget(0x5712, 4096, 0o1666)
        held(segment)
        """,
        times=2,
        alone=True,
        covers=(48,),
    ),
    Attack(
        "message queues and semaphores for the next job",
        """
        for name in ("msg", "sem"):
            if len(read(f"/proc/sysvipc/{name}").decode().splitlines()) > 1:
                escaped(name)
        libc.msgget(0x5712, 0o1666)
        libc.semget(0x5712, 1, 0o1666)
        queue, why = call("mq_open", b"/streamer-escape", os.O_RDONLY)
        if queue >= 0:
            escaped("a message queue of another job")
        call("mq_open", b"/streamer-escape", os.O_RDWR | os.O_CREAT, 0o666, None)
        held()
        """,
        times=2,
        alone=True,
        covers=(48,),
    ),
    Attack(
        "files in /tmp and /dev/shm for the next job",
        """
        # One may be a link to another, so all are looked at before one is written.
        paths = [os.path.join(folder, hint["note"]) for folder in ("/tmp", "/dev/shm", "/var/tmp")]
        left = [path for path in paths if os.path.exists(path)]
        if left:
            escaped(left)
        for path in paths:
            with contextlib.suppress(OSError):
                open(path, "w").close()
        held()
        """,
        _NEXT,
        times=2,
        covers=(48, 52),
    ),
    Attack(
        "files in the workspace for the next job",
        """
        left = [name for name in os.listdir() if name.startswith(("left", ".left"))]
        if left:
            escaped(left)
        for name in ("left", ".left", "../left"):
            with contextlib.suppress(OSError):
                open(name, "w").close()
        held()
        """,
        times=2,
        covers=(52,),
    ),
    Attack(
        "the project that the next job gets",
        """
        if read("data/file") != b"as it was uploaded":
            escaped("an earlier job has changed it")
        if os.path.exists("left"):
            escaped("an earlier job has left something in it")
        for link in glob.glob("/proc/[0-9]*/fd/*"):
            with contextlib.suppress(OSError):
                if "/blobs/" in os.readlink(link):
                    escaped(f"{link} is the upload itself")
        for path in glob.glob(hint["state"] + "/*/blobs/*"):
            with contextlib.suppress(OSError):
                open(path, "r+b").close()
                escaped(f"{path} can be written")
        open("data/file", "w").write("changed")
        open("left", "w").close()
        os.symlink("/", "data/root")
        os.chmod("data", 0)
        held()
        """,
        _SAME_USER,
        times=2,
        project={"data/file": "as it was uploaded"},
        covers=(34, 52),
    ),
)
