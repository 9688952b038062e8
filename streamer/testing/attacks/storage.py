"""Attacks on the host's disk, on the service's output, and on the number of open files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamer.spi import Isolation
from streamer.testing.attack import Attack, ends, spoken_or

__all__ = ["ATTACKS"]

_DISK: Final = {"disk_bytes": 4 * 2**20, "file_bytes": 64 * 2**20}
_OUTPUT: Final = {"output_bytes": 100_000}
_WATCHED: Final = dict.fromkeys(
    (Isolation.NONE, Isolation.DENY_LIST),
    "the folder is on the host's disk, and watched by its names",
)
_HALT: Final = """
time.sleep(3)
escaped("it was let")
"""


def _fills(name: str, program: str, except_for: Mapping[Isolation, str] | None = None) -> Attack:
    """Return an attack on a disk limit of 4 MiB, which also limits it to 1024 files (pages)."""
    lines = program.strip("\n").splitlines()
    margin = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    body = "\n".join("    " + line[margin:] for line in lines)
    return Attack(
        name,
        f"try:\n{body}\nexcept OSError as error:\n    held(error)\n{_HALT}",
        except_for or {},
        judge=spoken_or("disk", "memory"),
        limits=_DISK,
        limit="disk_bytes",
        covers=(37,),
    )


ATTACKS: Final = (
    _fills(
        "the disk by bytes",
        """
        with open("f", "wb", buffering=0) as file:
            for _ in range(32):
                if file.write(b"x" * 2**20) < 2**20:
                    held("it is full")
        """,
    ),
    _fills(
        "the disk by many small files",
        """
        for number in range(9000):
            with open(f"f{number}", "wb") as file:
                file.write(b"x" * 4096)
        """,
    ),
    _fills(
        "the disk by empty files",
        """
        for number in range(40000):
            os.close(os.open(f"f{number}", os.O_CREAT))
        """,
    ),
    _fills(
        "the disk by folders",
        """
        for number in range(40000):
            os.mkdir(f"d{number}")
        """,
    ),
    _fills(
        "the disk by hard links",
        """
        open("f", "w").close()
        for number in range(40000):
            os.link("f", f"l{number}")
        """,
    ),
    _fills(
        "the disk by reservations (fallocate)",
        """
        file = os.open("f", os.O_CREAT | os.O_RDWR)
        os.posix_fallocate(file, 0, 32 * 2**20)
        """,
    ),
    _fills(
        "the disk by files that are deleted and open",
        """
        kept = []
        for number in range(32):
            kept.append(os.open("f", os.O_CREAT | os.O_RDWR))
            os.unlink("f")
            if os.write(kept[-1], b"x" * 2**20) < 2**20:
                held("it is full")
        """,
        _WATCHED,
    ),
    *(
        _fills(
            name,
            f"""
            os.makedirs("closed/inner")
            here = os.open("closed/inner", os.O_RDONLY)
            os.chdir("closed/inner")
            {closing}
            for number in range(32):
                with open(f"f{{number}}", "wb", buffering=0) as file:
                    if file.write(b"x" * 2**20) < 2**20:
                        held("it is full")
                time.sleep(0.01)
            {then}
            """,
        )
        for name, closing, then in (
            ("the disk by files in a folder that is closed", 'os.chmod(".", 0o300)', "pass"),
            (
                "the disk by files in folders that are closed to all",
                "os.chmod('.', 0o300)",
                "[os.chmod(f, 0) for f in (here, '../../closed')]",
            ),
            (
                "the disk by files in a workspace that is closed",
                "top = os.open('../..', os.O_RDONLY)",
                "os.chmod(top, 0)",
            ),
            (
                "the disk by files in a folder that closes all the time",
                """
            if os.fork() == 0:
                while True:
                    os.fchmod(here, 0)
                    os.fchmod(here, 0o300)
            os.chmod(here, 0o300)
            real_open = open
            def open(*args, **kwargs):
                while True:
                    with contextlib.suppress(PermissionError):
                        return real_open(*args, **kwargs)
                """.strip(),
                "pass",
            ),
            (
                "the disk by files in a folder that moves all the time",
                """
            os.makedirs("../other")
            if os.fork() == 0:
                while True:
                    for here, there in (("../inner", "../other/x"), ("../other/x", "../inner")):
                        with contextlib.suppress(OSError):
                            os.rename(os.path.abspath(here), os.path.abspath(there))
                """.strip(),
                "pass",
            ),
        )
    ),
    Attack(
        "a sparse file of a terabyte",
        """
        file = os.open("f", os.O_CREAT | os.O_RDWR)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        refused(os.ftruncate, file, 2**40)
        refused(os.pwrite, file, b"x", 2**40)
        held()
        """,
        limit="file_bytes",
        covers=(36,),
    ),
    Attack(
        "a file over its limit",
        """
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with contextlib.suppress(OSError):
            with open("f", "wb", buffering=0) as file:
                for _ in range(8):
                    file.write(b"x" * 2**20)
        size = os.stat("f").st_size
        held(size) if size <= 2**20 else escaped(size)
        """,
        limits={"file_bytes": 2**20},
        limit="file_bytes",
        covers=(37,),
    ),
    Attack(
        "more open files than allowed",
        """
        kept = []
        with contextlib.suppress(OSError):
            for _ in range(200):
                kept.append(os.open("/dev/null", os.O_RDONLY))
        held(len(kept)) if len(kept) <= 48 else escaped(len(kept))
        """,
        limits={"open_files": 48},
        limit="open_files",
    ),
    Attack(
        "open files under way in a socket",
        """
        sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        sender.setblocking(False)
        sent = 0
        with contextlib.suppress(OSError):
            for _ in range(600):
                null = os.open("/dev/null", os.O_RDONLY)
                socket.send_fds(sender, [b"x"], [null])
                os.close(null)
                sent += 1
        held(sent) if sent <= 200 else escaped(sent)
        """,
        limits={"open_files": 48},
        limit="open_files",
    ),
    *(
        Attack(
            name,
            program,
            judge=ends("output_limit"),
            limits=_OUTPUT,
            limit="output_bytes",
            covers=(16, 18),
        )
        for name, program in (
            ("a flood of output", 'os.execvp("yes", ["yes"])'),
            (
                "a flood of output on both streams",
                "while True:\n    os.write(1, b'o' * 4096)\n    os.write(2, b'e' * 4096)",
            ),
            (
                "a flood of errors after standard output is closed",
                "os.close(1)\nwhile True: os.write(2, b'x')",
            ),
            ("a flood without a line's end", "while True: os.write(1, b'\\0' * 65536)"),
            (
                "a flood by a child that outlives its parent",
                "if os.fork(): time.sleep(30)\nwhile True: os.write(1, b'x' * 1000)",
            ),
        )
    ),
)
