"""Attacks on the cleanup: files that a job leaves in its workspace must not survive or do harm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamer.spi import Isolation
from streamer.testing.attack import Attack, exits

__all__ = ["ATTACKS"]


def _leaves(
    name: str, program: str, *covers: int, except_for: Mapping[Isolation, str] | None = None
) -> Attack:
    """Return an attack after which nothing may be left; its program exits with 0."""
    return Attack(
        name, program, judge=exits(0), alone=True, covers=covers, except_for=except_for or {}
    )


ATTACKS: Final = (
    _leaves(
        "links to files and folders of the host",
        """
        os.symlink(hint["writable"], "file")
        os.symlink(hint["folder"], "folder")
        os.symlink("/", "root")
        os.symlink("loop", "loop")
        os.unlink("attack.py")
        os.symlink(hint["writable"], "attack.py")
        """,
        33,
        34,
    ),
    _leaves(
        "a FIFO, a socket and locked files",
        """
        os.mkfifo("fifo")
        sock = socket.socket(socket.AF_UNIX)
        sock.bind("socket")
        file = open("locked", "w")
        fcntl.flock(file, fcntl.LOCK_EX)
        """,
        35,
    ),
    _leaves(
        "names that are no text",
        r"""
        for name in (b"\xff\xfe", b"new\nline", b"-rf", b"~", b"*", b" ", b"'\"", b"a" * 255, b"\x1b[2J", b"$(id)"):
            os.mkdir(name)
            os.close(os.open(name + b"/" + name, os.O_CREAT))
        """,
        36,
    ),
    _leaves(
        "folders deeper than a path is long",
        """
        made = 0
        with contextlib.suppress(OSError):
            for made in range(600):
                os.mkdir("d" * 100)
                os.chdir("d" * 100)
                os.close(os.open("f", os.O_CREAT))
        assert made > 100
        """,
        36,
    ),
    _leaves(
        "folders and files without permissions",
        """
        for name in ("a", "a/b", "a/b/c"):
            os.mkdir(name)
            open(name + "/f", "w").close()
            os.chmod(name + "/f", 0)
        for name in ("a/b/c", "a/b", "a"):
            os.chmod(name, 0)
        os.chmod(".", 0)
        """,
        39,
    ),
    _leaves(
        "folders with the sticky, setgid and setuid bits",
        """
        for number, mode in enumerate((0o1777, 0o2777, 0o4777, 0o7000)):
            os.mkdir(f"d{number}")
            open(f"d{number}/f", "w").close()
            with contextlib.suppress(OSError):
                os.chmod(f"d{number}", mode)
        """,
        39,
    ),
    _leaves(
        "files that may not be changed",
        """
        open("f", "w").close()
        for flags in (0x10, 0x20):  # FS_IMMUTABLE_FL, FS_APPEND_FL
            with contextlib.suppress(OSError):
                file = os.open("f", os.O_RDONLY)
                fcntl.ioctl(file, 0x40086602, struct.pack("l", flags))
        """,
        39,
    ),
    _leaves(
        "thousands of files",
        """
        with contextlib.suppress(OSError):
            for number in range(900):
                os.close(os.open(f"f{number}", os.O_CREAT))
        """,
        36,
    ),
    _leaves(
        "sparse files and holes",
        """
        with contextlib.suppress(OSError):
            for number in range(20):
                file = os.open(f"f{number}", os.O_CREAT | os.O_RDWR)
                os.ftruncate(file, 60 * 2**20)
        """,
        36,
    ),
    _leaves(
        "a workspace that is gone or has another name",
        """
        home = os.getcwd()
        os.unlink("attack.py")
        with contextlib.suppress(OSError):
            os.rename(home, home + "-moved")
        with contextlib.suppress(OSError):
            os.rmdir(home)
        """,
        34,
        except_for={Isolation.NONE: "an ordinary user's job is that user, and may move its folder"},
    ),
    _leaves(
        "files that a daemon goes on making",
        """
        ready, writing = os.pipe()
        if os.fork() == 0:
            os.setsid()
            os.write(writing, b"x")
            number = 0
            while number < 100_000:
                number += 1
                with contextlib.suppress(OSError):
                    os.close(os.open(f"f{number % 500}", os.O_CREAT))
            os._exit(0)
        os.read(ready, 1)
        os._exit(0)
        """,
        2,
        39,
    ),
    _leaves(
        "extended attributes and access lists",
        """
        open("f", "w").close()
        with contextlib.suppress(OSError):
            os.setxattr("f", "user.x", b"x" * 1000)
        with contextlib.suppress(OSError):
            os.setxattr(".", "system.posix_acl_default", struct.pack("<IHHIHHIHHI", 2, 1, 0, 2**32 - 1, 4, 0, 2**32 - 1, 32, 0, 2**32 - 1))
        """,
        39,
    ),
)
