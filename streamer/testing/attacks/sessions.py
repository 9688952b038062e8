"""Attacks from a job of a session: on its next job, and on who reads its files from outside."""

from __future__ import annotations

from typing import Final

from streamer.testing.attack import Attack

__all__ = ["ATTACKS"]

ATTACKS: Final = (
    Attack(
        "a process that goes on beside the next job of its session",
        """
        if os.path.exists("beat"):
            size = os.path.getsize("beat")
            time.sleep(0.2)
            if os.path.getsize("beat") != size:
                escaped("it still writes")
            held()
        code = "import time\\nwhile True: open('beat', 'a').write('x'); time.sleep(0.001)"
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for fd in range(3):
                    os.close(fd)
                os.execvp("python3", ["python3", "-Ic", code])
            os._exit(0)
        while not os.path.exists("beat"):
            time.sleep(0.001)
        held()
        """,
        times=2,
        session=True,
        covers=(1, 2),
    ),
    Attack(
        "files of the host, by links that it leaves in its session",
        """
        for number, path in enumerate(["/etc", "/etc/passwd", "/", "/proc/self/environ", hint["folder"], hint["readable"], hint["writable"], "..", "../..", "/dev/zero"]):
            os.symlink(path, f"link{number}")
        os.mkdir("folder")
        os.symlink(hint["folder"], "folder/inner")
        os.symlink("loop", "loop")
        for path in (hint["readable"], hint["writable"], "/etc/passwd", "/etc/shadow"):
            # What it may read itself, as in plain, it could just as well copy.
            if not os.access(path, os.R_OK):
                with contextlib.suppress(OSError):
                    os.link(path, "hard" + path.replace("/", "_"))
        held()
        """,
        session=True,
        covers=(33, 34),
    ),
    Attack(
        "the service, by what is no file in its session",
        """
        os.mkfifo("pipe")
        socket.socket(socket.AF_UNIX).bind("socket")
        for name, kind in (("device", stat.S_IFCHR), ("disk", stat.S_IFBLK)):
            with contextlib.suppress(OSError):
                os.mknod(name, kind | 0o666, os.makedev(1, 5))
        os.mkdir("closed")
        open("closed/file", "w").close()
        os.chmod("closed", 0)
        open("mine", "w").close()
        os.chmod("mine", 0)
        open(b"not \\xff utf-8", "w").close()
        held()
        """,
        session=True,
        covers=(35, 39),
    ),
    Attack(
        "the service's memory, by huge files in its session",
        """
        with open("sparse", "wb") as file:
            with contextlib.suppress(OSError):
                file.truncate(2**40)
        for number in range(2000):
            with contextlib.suppress(OSError):
                open(f"f{number:04}" + "x" * 200, "w").close()
        deep = "d"
        with contextlib.suppress(OSError):
            for _ in range(200):
                os.mkdir(deep)
                deep += "/d"
        held()
        """,
        session=True,
        covers=(36,),
    ),
    Attack(
        "the output of the next job of its session, from a process that is kept",
        """
        if os.path.exists("there"):
            open("next", "w").close()
            time.sleep(0.3)
            held()
        if os.fork() == 0:
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)
            open("there", "w").close()
            while not os.path.exists("next"):
                time.sleep(0.001)
            for _ in range(100):
                with contextlib.suppress(OSError):
                    os.write(1, b"ESCAPED: into the output of the next job\\n")
                time.sleep(0.001)
            os._exit(0)
        while not os.path.exists("there"):
            time.sleep(0.001)
        held()
        """,
        times=2,
        session=True,
        keeps=True,
        covers=(1,),
    ),
    Attack(
        "a process that outlives its session",
        """
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for number in range(1, 65):
                    with contextlib.suppress(OSError, ValueError):
                        signal.signal(number, signal.SIG_IGN)
                for fd in range(3):
                    os.close(fd)
                open("there", "w").close()
                while True:
                    time.sleep(60)
            os._exit(0)
        while not os.path.exists("there"):
            time.sleep(0.001)
        held()
        """,
        session=True,
        keeps=True,
        alone=True,
        covers=(2,),
    ),
)
