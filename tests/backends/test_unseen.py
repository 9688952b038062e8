"""Usage that is easily missed counts too: unmapped memory, CPU time of unreaped children."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import AsyncIterator

import pytest

from streamer.sandbox.seccomp.generate import FILTERS
from streamer.testing.running import SLOWNESS
from tests.backends.conftest import Run, checked_runs
from tests.conftest import OpenService
from tests.running import program

MIB = 2**20

here = pytest.mark.skipif(
    platform.machine() not in FILTERS, reason=f"there is no filter for {platform.machine()}"
)


@pytest.fixture
async def watched(open_service: OpenService, isolating_backend: str) -> AsyncIterator[Run]:
    """Return a function that runs a job where only the init watches, without control groups."""
    service = await open_service(isolating_backend, sandbox={"cgroup": "off"})
    async for run in checked_runs(service):
        yield run


@pytest.fixture(params=["auto", "off"])
async def either(
    open_service: OpenService, isolating_backend: str, request: pytest.FixtureRequest
) -> AsyncIterator[Run]:
    """Return functions that run a job: with this host's control groups, and without any."""
    service = await open_service(isolating_backend, sandbox={"cgroup": request.param})
    async for run in checked_runs(service):
        yield run


EMPTY_FILES = """
    import time
    number = 0
    while True:
        try:
            open(f"{FOLDER}/{number}", "w").close()
            number += 1
        except OSError:
            time.sleep(1)
"""


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
async def test_too_many_files_beside_the_workspace_end_the_job(either: Run, folder: str) -> None:
    source = EMPTY_FILES.replace("{FOLDER}", folder)
    limits = {"disk_bytes": 40 * MIB, "wall_time_s": 30}
    assert (await either(**program(source), limits=limits)).complete.reason == "disk"


async def test_files_count_together(watched: Run) -> None:
    # Together as large as the limit, in three places that are each smaller.
    ran = await watched(
        **program("""
            import time
            for folder in (".", "/tmp", "/dev/shm"):
                for number in range(4000):
                    open(f"{folder}/{number}", "w").close()
            time.sleep(60)
        """),
        limits={"disk_bytes": 40 * MIB, "wall_time_s": 30},
    )
    assert ran.complete.reason == "disk"


async def test_a_file_counts_once_however_many_names_it_has(watched: Run) -> None:
    ran = await watched(
        **program("""
            import os, time
            with open("file", "wb") as file:
                file.write(bytes(12 * 2**20))
            for number in range(4):
                os.link("file", str(number))
            time.sleep(1)
        """),
        limits={"disk_bytes": 40 * MIB},
    )
    assert ran.complete.reason == "exited"


async def test_the_walk_of_a_deep_tree_takes_little_memory(watched: Run) -> None:
    # The init's own memory counts against no limit.
    ran = await watched(
        **program("""
            import os, time
            for _ in range(6000):
                os.mkdir("d")
                os.chdir("d")
            time.sleep(1)
            for line in open(f"/proc/{os.getppid()}/status"):
                if line.startswith("VmHWM"):
                    print(line.split()[1])
        """),
    )
    assert int(ran.text()) < 4096


HOARD = """
    import ctypes, mmap, os, time
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    libc.shmdt.argtypes = [ctypes.c_void_p]
    PART = 4 * 2**20
    def hoard_file(folder, number):
        with open(f"{folder}/{number}", "wb") as file:
            file.write(bytes(PART))
    def hoard_segment(number, keep=False):
        segment = libc.shmget(0, PART, 0o1600)
        if segment < 0:
            raise OSError(ctypes.get_errno(), "shmget")
        address = libc.shmat(segment, None, 0)
        ctypes.memset(address, 1, PART)
        if keep:
            libc.madvise(ctypes.c_void_p(address), PART, 4)  # its pages stay, our entries go
        else:
            libc.shmdt(address)
    def hoard_semaphores(number):
        for _ in range(8):
            if libc.semget(0, 8000, 0o1600) < 0:
                raise OSError(ctypes.get_errno(), "semget")
    made = 0
    try:
        for number in range(256):
            {CALL}
            made += 1
            time.sleep(0.01)
        print("had it all", made)
    except OSError as error:
        time.sleep(0.3)
        print(error, made)
"""


@pytest.mark.parametrize(
    "call",
    [
        "hoard_segment(number)",
        "hoard_segment(number, keep=True)",
        "hoard_semaphores(number)",
        'hoard_file("/tmp", number)',
        'hoard_file("/dev/shm", number)',
    ],
)
async def test_memory_that_no_process_maps_ends_the_job(either: Run, call: str) -> None:
    # In bwrap /dev/shm is small.
    memory = (12 if call.endswith('shm", number)') else 48) * MIB
    ran = await either(
        **program(HOARD.replace("{CALL}", call)),
        limits={"memory_bytes": memory, "file_bytes": 64 * MIB},
    )
    assert ran.text() == ""
    assert (ran.complete.reason, ran.complete.oom_killed) == ("memory", True)


MEMFDS = """
    import os, time
    kept = []
    for _ in range(1024):
        kept.append(os.memfd_create("hoard"))
        os.write(kept[-1], bytes(2**20))
    print("had it all")
    time.sleep(1)
"""


@here
async def test_memory_in_descriptors_is_refused_where_nobody_counts_it(watched: Run) -> None:
    ran = await watched(**program(MEMFDS), limits={"memory_bytes": 64 * MIB})
    assert (ran.complete.reason, ran.complete.exit_code) == ("exited", 1)
    assert f"[Errno {errno.ENOSYS}]" in ran.text("stderr")
    assert ran.text() == ""


@here
async def test_memory_in_descriptors_never_passes_the_limit(either: Run) -> None:
    ran = await either(**program(MEMFDS), limits={"memory_bytes": 64 * MIB, "open_files": 2000})
    assert ran.text() == ""
    assert ran.complete.reason == "memory" or "[Errno 38]" in ran.text("stderr")


FIRST_THREAD_ENDS = """
    import ctypes, os, threading, time
    def hoard():
        time.sleep(0.2)  # until the first thread is gone, and with it what its /proc files tell
        kept = []
        for _ in range(200):
            kept.append(bytearray(os.urandom(4096) * 256))
            time.sleep(0.005)
        os.write(1, b"had it all")
        os._exit(0)
    threading.Thread(target=hoard).start()
    ctypes.CDLL(None).pthread_exit(None)
"""


async def test_memory_counts_when_the_first_thread_has_ended(either: Run) -> None:
    ran = await either(**program(FIRST_THREAD_ENDS), limits={"memory_bytes": 64 * MIB})
    assert (ran.complete.reason, ran.text()) == ("memory", "")


QUIET = """
    import os, time
    time.sleep(1)  # seen to use nothing
"""


async def test_a_child_is_noticed_after_its_parent_has_waited(watched: Run) -> None:
    ran = await watched(
        **program(
            QUIET
            + """
    if os.fork() == 0:
        kept = []
        for _ in range(50):
            kept.append(b"x" * 2**22)
            time.sleep(0.01)
        os.write(1, b"had 200 MiB")
        os._exit(0)
    os.wait()
"""
        ),
        limits={"memory_bytes": 64 * MIB},
    )
    assert (ran.complete.reason, ran.text()) == ("memory", "")


async def test_near_its_limit_little_memory_is_noticed(watched: Run) -> None:
    # It takes less CPU time than makes the init look otherwise.
    ran = await watched(
        **program(f"""
            import contextlib, mmap, time
            def own():
                for line in open("/proc/self/status"):
                    if line.startswith("RssAnon:"):
                        return int(line.split()[1]) * 1024
            def take(size):
                kept.append(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
                with contextlib.suppress(OSError):  # a kernel without huge pages refuses it
                    kept[-1].madvise(15)  # MADV_NOHUGEPAGE
                for at in range(0, size, 4096):
                    kept[-1][at] = 1
            kept = []
            take(62 * 2**20 - own())
            time.sleep(1)
            for _ in range(12):
                take(2**18)
                time.sleep({0.05 * SLOWNESS})
            print("had 65 MiB")
        """),
        limits={"memory_bytes": 64 * MIB},
    )
    assert (ran.complete.reason, ran.text()) == ("memory", "")


async def test_memory_in_page_tables_counts(watched: Run) -> None:
    ran = await watched(
        **program("""
            import contextlib, mmap, time
            size = 64 * 2**30
            big = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
            with contextlib.suppress(OSError):  # a kernel without huge pages refuses it
                big.madvise(15)  # MADV_NOHUGEPAGE: 4 KiB of tables for each 2 MiB
            for at in range(0, size, 2**21):
                big[at]
            print("had 128 MiB of page tables")
            time.sleep(1)
        """),
        limits={"memory_bytes": 48 * MIB},
    )
    assert ran.complete.reason == "memory"


UNREAPED = """
    import os, signal, time
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if os.fork() == 0:
            end = time.process_time() + {LIFE}
            while time.process_time() < end:
                pass
            os._exit(0)
        time.sleep({LIFE})
"""


@pytest.mark.parametrize("life", [0.4, 0.03, 0.01])
async def test_cpu_time_that_nobody_reaps_is_estimated(watched: Run, life: float) -> None:
    ran = await watched(
        **program(UNREAPED.replace("{LIFE}", str(life))),
        limits={"cpu_time_s": 1.0, "wall_time_s": 30},
    )
    assert (ran.complete.reason, ran.complete.timed_out) == ("cpu_time", True)
    assert ran.complete.cpu_time_ms is not None
    assert ran.complete.cpu_time_ms >= 1000


async def test_an_estimate_does_not_end_a_job_within_its_limit(watched: Run) -> None:
    # As many short children as above, but reaped: what they used is known.
    ran = await watched(
        **program("""
            import os, time
            for _ in range(60):
                if os.fork() == 0:
                    end = time.process_time() + 0.02
                    while time.process_time() < end:
                        pass
                    os._exit(0)
                os.wait()
            print("done")
        """),
        limits={"cpu_time_s": 2.5, "wall_time_s": 30},
    )
    assert ran.out == "done\n"
    assert ran.complete.cpu_time_ms is not None
    assert 1000 <= ran.complete.cpu_time_ms < 2500


async def test_orphans_that_end_all_the_time_do_not_put_off_the_watch(watched: Run) -> None:
    # The init has to reap each of them, and must still check the limits.
    ran = await watched(
        **program("""
            import os, time
            if os.fork() == 0:
                while True:
                    if os.fork() == 0:
                        if os.fork() == 0:
                            time.sleep(0.01)
                        os._exit(0)
                    os.wait()
                    time.sleep(0.005)
            kept = []
            for _ in range(400):
                kept.append(b"x" * 2**20)
                time.sleep(0.01)
            print("had 400 MiB")
        """),
        limits={"memory_bytes": 64 * MIB, "wall_time_s": 30},
    )
    assert ran.text() == ""
    assert ran.complete.reason == "memory"


KEYS = """
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    for ring in (-3, -4, -5):  # of the session, of the user, of the user's session
        key = libc.syscall({ADD_KEY}, b"user", b"streamer-test", b"left", 4, ring)
        print(ring, key >= 0, ctypes.get_errno())
"""


@here
async def test_the_kernels_keys_are_out_of_reach(open_service: OpenService, backend: str) -> None:
    number = {"x86_64": 248, "aarch64": 217}[platform.machine()]
    async for run in checked_runs(await open_service(backend)):
        ran = await run(**program(KEYS.replace("{ADD_KEY}", str(number))))
    assert ran.out == "".join(f"{ring} False {errno.EPERM}\n" for ring in (-3, -4, -5))


LEAVE = """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    print(libc.mq_open(b"/streamer-test", flags, 0o666, None) >= 0, ctypes.get_errno())
    print(libc.shmget(4711, 4096, 0o3666) >= 0, libc.msgget(4711, 0o3666) >= 0)
"""


async def test_queues_are_refused_and_segments_do_not_outlive_their_job(
    open_service: OpenService, backend: str
) -> None:
    # One job at a time, so both have the same user.
    service = await open_service(backend, queue={"concurrency": 1})
    async for run in checked_runs(service):
        for _ in range(2):
            assert (await run(**program(LEAVE))).out == f"False {errno.EMFILE}\nTrue True\n"
    assert not os.path.exists("/dev/mqueue/streamer-test")  # noqa: PTH110 - one stat
