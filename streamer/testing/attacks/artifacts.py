"""Attacks through the files that a job leaves, and that the service reads when it has ended.

What was kept of them is judged by the host: no file may have the secret of the lures.
"""

from __future__ import annotations

from typing import Final

from streamer.testing.attack import Attack

__all__ = ["ATTACKS"]

ALL: Final = ("**", ".*/**", "out/**", "link", "folder/readable", "up/readable", "fd/readable")

DEEP: Final = "/".join("a" * 60)
CLASSES: Final = [
    "".join(f"[a{chr(0x1000 + n)}-{chr(0x10000 + n)}]" for n in range(at, at + 20))
    for at in range(0, 160, 20)
]
SLOW: Final = (
    *(f"**/{DEEP[:99]}/**/b{number}" for number in range(6)),
    "/".join(CLASSES[:4]),
    "/".join(CLASSES[4:]),
    "out/**/found",
)
"""They take long to be compiled, and to be matched."""

ATTACKS: Final = (
    Attack(
        "a file of the host, by links among the files that it leaves",
        """
        os.symlink(hint["readable"], "link")
        os.symlink(os.path.dirname(hint["readable"]), "folder")
        os.symlink("../" * 40 + os.path.dirname(hint["readable"]).lstrip("/"), "up")
        os.symlink("/proc/self/root" + os.path.dirname(hint["readable"]), "fd")
        os.symlink("link", "again")
        os.mkdir("out")
        os.rename("link", "out/link")
        os.symlink("out/link", "link")
        held("the host sees what is kept")
        """,
        covers=(33,),
        artifacts=ALL,
    ),
    Attack(
        "a file of the host, by links that come while its files are searched for",
        """
        os.mkdir("out")
        os.mkdir("inner")
        open("inner/readable", "w").write("inside")
        ready, told = os.pipe()
        for number in range(4):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    for fd in range(3):
                        os.close(fd)
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                    os.symlink(hint["readable"], f".link{number}")
                    os.symlink(os.path.dirname(hint["readable"]), f".folder{number}")
                    open(f".file{number}", "w").write("inside")
                    os.write(told, b"x")
                    while True:
                        for spare in (f".file{number}", f".link{number}"):
                            with contextlib.suppress(OSError):
                                os.link(spare, f".spare{number}", follow_symlinks=False)
                                os.rename(f".spare{number}", f"out/{number}")
                        with contextlib.suppress(OSError):
                            os.rename(f".folder{number}", f"folder{number}")
                            os.rename(f"folder{number}", f".folder{number}")
                os._exit(0)
        for _ in range(4):
            os.read(ready, 1)
        held("the host sees what is kept, and that nothing lives on")
        """,
        covers=(33,),
        artifacts=(*ALL, "out/*", "folder0/readable", "folder1/readable"),
    ),
    Attack(
        "the service's attention, by pipes and devices among the files that it leaves",
        """
        os.mkdir("out")
        os.mkfifo("out/pipe")
        os.mkfifo("link")
        sock = socket.socket(socket.AF_UNIX)
        sock.bind("out/socket")
        for kind in (stat.S_IFCHR, stat.S_IFBLK):
            with contextlib.suppress(OSError):
                os.mknod("out/device", kind | 0o666, os.makedev(1, 8))
        fcntl.flock(open("out/locked", "w"), fcntl.LOCK_EX)
        held("the host sees that the job has ended")
        """,
        covers=(35,),
        artifacts=ALL,
    ),
    Attack(
        "the service's memory and disk, by the files that it leaves",
        r"""
        os.mkdir("out")
        for size in (1 << 40, 1 << 32, 64 << 20):
            with contextlib.suppress(OSError):
                with open(f"out/sparse{size}", "wb") as file:
                    file.truncate(size)
        for name in (b"\xff\xfe", b"new\nline", b"a\\b", b"\x1b[2J", b"x" * 255, b"\xc3\xa9"):
            os.close(os.open(b"out/" + name, os.O_CREAT | os.O_WRONLY))
        for number in range(50):
            os.link("out/new\nline", f"out/twin{number}")
        with contextlib.suppress(OSError):
            for number in range(20_000):
                os.close(os.open(f"many{number}", os.O_CREAT | os.O_WRONLY))
        made = 0
        with contextlib.suppress(OSError):
            while made < 300:
                os.mkdir("d" * 200)
                os.chdir("d" * 200)
                made += 1
        held("the host sees what is kept")
        """,
        covers=(36,),
        artifacts=ALL,
    ),
    Attack(
        "the service's time, by folders and patterns that take long",
        f"""
        os.makedirs("out/found")
        os.makedirs("{DEEP}")
        for number in range(300):
            os.close(os.open(f"{DEEP}/{{number}}", os.O_CREAT | os.O_WRONLY))
        for chain in range(10):
            above = os.open(".", os.O_RDONLY)
            for depth in range(110):
                os.mkdir(f"c{{chain}}", dir_fd=above)
                inner = os.open(f"c{{chain}}", os.O_RDONLY, dir_fd=above)
                os.close(above)
                above = inner
        held("the host sees that the job has ended")
        """,
        artifacts=SLOW,
    ),
)
