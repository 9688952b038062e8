"""Attacks on the host's memory, by every way to allocate some. Each is bounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamer.spi import Isolation
from streamer.testing.attack import Attack, spoken_or

__all__ = ["ATTACKS"]

# The limit of a single file must not be reached first.
_LIMIT: Final = {"memory_bytes": 48 * 2**20, "disk_bytes": 16 * 2**20, "file_bytes": 512 * 2**20}
_BUFFERS: Final = dict.fromkeys(
    Isolation, "without control groups nobody counts the buffers of pipes and sockets"
)
_UNMAPPED: Final = dict.fromkeys(
    Isolation,
    "without control groups nobody counts shared memory that no process has in its tables",
)
_MEMFD: Final = {Isolation.NONE: "without control groups nobody counts a memfd that is not mapped"}


def _takes(
    name: str,
    program: str,
    *,
    except_for: dict[Isolation, str] | None = None,
    verdicts: tuple[str, ...] = (),
    without_groups: Mapping[Isolation, str] | None = None,
) -> Attack:
    """Return an attack that tries to get about 160 MiB with a limit of 48."""
    return Attack(
        name,
        f"MIB = 2**20\n{_dedent(program)}\ntime.sleep(0.5)\nescaped('160 MiB with a limit of 48')",
        except_for or {},
        judge=spoken_or("memory", *verdicts),
        limits=_LIMIT,
        limit="memory_bytes",
        without_groups=without_groups or {},
        covers=(16,),
    )


def _dedent(program: str) -> str:
    lines = program.strip("\n").splitlines()
    margin = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return "\n".join(line[margin:] for line in lines)


ATTACKS: Final = (
    _takes(
        "memory of the heap",
        """
        kept = []
        for _ in range(160):
            kept.append(b"x" * MIB)
            time.sleep(0.002)
        """,
    ),
    _takes(
        "memory shared with children",
        """
        kept = []
        for _ in range(160):
            kept.append(mmap.mmap(-1, MIB, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS))
            kept[-1].write(b"x" * MIB)
            time.sleep(0.002)
        """,
    ),
    _takes(
        "memory of many processes",
        """
        reading, writing = os.pipe()
        for _ in range(16):
            if os.fork() == 0:
                kept = b"x" * (10 * MIB)
                os.write(writing, b"x")
                time.sleep(600)
        for _ in range(16):
            os.read(reading, 1)
        """,
    ),
    _takes(
        "memory of processes that hide their maps",
        """
        libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: /proc/PID/smaps is closed
        kept = []
        for _ in range(160):
            kept.append(b"x" * MIB)
            time.sleep(0.002)
        """,
    ),
    _takes(
        "memory of a process whose first thread has ended",
        """
        def hoard():
            time.sleep(0.2)
            kept = []
            for _ in range(160):
                kept.append(os.urandom(4096) * 256)
                time.sleep(0.002)
            time.sleep(0.5)
            escaped("160 MiB with a limit of 48")
        threading.Thread(target=hoard).start()
        libc.pthread_exit(None)
        """,
    ),
    _takes(
        "memory of stopped processes",
        """
        for _ in range(16):
            if os.fork() == 0:
                kept = b"x" * (10 * MIB)
                os.kill(os.getpid(), signal.SIGSTOP)
        for _ in range(16):
            os.waitpid(-1, os.WUNTRACED)
        """,
    ),
    _takes(
        "memory of threads' stacks",
        """
        threading.stack_size(12 * MIB)
        taken = threading.Semaphore(0)
        def deep():
            room = ctypes.create_string_buffer(1)
            buffer = (ctypes.c_char * (10 * MIB))()
            ctypes.memset(buffer, 1, 10 * MIB)
            taken.release()
            time.sleep(600)
        for _ in range(16):
            threading.Thread(target=deep, daemon=True).start()
        for _ in range(16):
            taken.acquire()
        """,
    ),
    _takes(
        "memory that it moves to swap",
        """
        kept = []
        for _ in range(160):
            kept.append(mmap.mmap(-1, MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            kept[-1].write(os.urandom(4096) * 256)
            with contextlib.suppress(OSError):
                kept[-1].madvise(21)  # MADV_PAGEOUT
            time.sleep(0.005)
        """,
    ),
    _takes(
        "shared memory that it takes out of its tables",
        """
        kept = []
        for _ in range(160):
            kept.append(mmap.mmap(-1, MIB, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS))
            kept[-1].write(os.urandom(4096) * 256)
            with contextlib.suppress(OSError):
                kept[-1].madvise(4)  # MADV_DONTNEED: the pages stay, and no process has them
            time.sleep(0.005)
        """,
        without_groups=_UNMAPPED,
    ),
    _takes(
        "memory locked in place",
        """
        # As much as each process may lock, in as many as that takes.
        _, most = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (most, most))
        part = 6 * MIB if most == resource.RLIM_INFINITY else min(6 * MIB, most // 4096 * 4096)
        reading, writing = os.pipe()
        made = 0
        while made * part < 160 * MIB and made < 50 and part:
            made += 1
            if os.fork() == 0:
                kept = mmap.mmap(-1, part, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                address = ctypes.addressof(ctypes.c_char.from_buffer(kept))
                locked = libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(part)) == 0
                os.write(writing, b"y" if locked else b"n")
                time.sleep(600)
        locked = sum(os.read(reading, 1) == b"y" for _ in range(made))
        if locked * part < 100 * MIB:
            held(f"{locked} of {made} parts of {part} bytes could be locked")
        """,
    ),
    _takes(
        "memory of a file without a name (memfd)",
        """
        try:
            file = os.memfd_create("x")
            for _ in range(160):
                os.write(file, b"x" * MIB)
                time.sleep(0.002)
        except OSError as error:
            held(error)
        """,
        without_groups=_MEMFD,
    ),
    _takes(
        "memory of many files without names",
        """
        try:
            for _ in range(40):
                os.write(os.memfd_create("x"), b"x" * (4 * MIB))
                time.sleep(0.005)
        except OSError as error:
            held(error)
        """,
        without_groups=_MEMFD,
    ),
    _takes(
        "memory of System V",
        """
        libc.shmat.restype = ctypes.c_void_p
        for _ in range(40):
            segment = libc.shmget(0, 4 * MIB, 0o1600)
            if segment < 0:
                held("it was refused")
            address = libc.shmat(segment, None, 0)
            ctypes.memset(address, 1, 4 * MIB)
            libc.shmdt(ctypes.c_void_p(address))  # kept, and mapped by nobody
            time.sleep(0.005)
        """,
    ),
    _takes(
        "memory of files in /dev/shm",
        """
        os.umask(0)
        name = "/dev/shm/" + hint["note"]
        try:
            with open(name, "wb", buffering=0) as file:
                os.unlink(name)
                for _ in range(160):
                    if file.write(b"x" * MIB) < MIB:
                        held("it is full")
                    time.sleep(0.002)
        except OSError as error:
            held(error)
        """,
        except_for={Isolation.NONE: "it shares the host's /dev/shm"},
        verdicts=("disk",),
    ),
    _takes(
        "memory of files in /tmp",
        """
        name = "/tmp/" + hint["note"]
        try:
            with open(name, "wb", buffering=0) as file:
                os.unlink(name)
                for _ in range(160):
                    if file.write(b"x" * MIB) < MIB:
                        held("it is full")
                    time.sleep(0.002)
        except OSError as error:
            held(error)
        """,
        except_for={Isolation.NONE: "it shares the host's /tmp"},
        verdicts=("disk",),
    ),
    _takes(
        "memory of pipes that are full",
        """
        kept, sent = [], 0
        block = b"x" * MIB
        try:
            for _ in range(160):
                reading, writing = os.pipe()
                fcntl.fcntl(writing, 1031, MIB)  # F_SETPIPE_SZ
                os.set_blocking(writing, False)
                sent += os.write(writing, block)
                kept += [reading, writing]
        except OSError as error:
            if sent < 100 * MIB:
                held(f"{sent // MIB} MiB: {error}")
        if sent < 100 * MIB:
            held(f"{sent // MIB} MiB")
        """,
        without_groups=_BUFFERS,
    ),
    _takes(
        "memory of sockets that are full",
        """
        kept, sent = [], 0
        block = b"x" * (64 * 1024)
        try:
            for _ in range(120):
                ends = socket.socketpair()
                for end in ends:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MIB)
                    end.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            sent += end.send(block)
                kept += ends
        except OSError as error:
            if sent < 100 * MIB:
                held(f"{sent // MIB} MiB: {error}")
        if sent < 100 * MIB:
            held(f"{sent // MIB} MiB")
        """,
        without_groups=_BUFFERS,
    ),
)
