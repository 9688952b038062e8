"""Each limit holds, for one process and for a process tree, and the verdict names it."""

from __future__ import annotations

from typing import Final

from streamer.model.events import Output, Truncated
from streamer.testing.conformance.base import SMALL_TMP, Requirements, requirement
from streamer.testing.running import SLOWNESS, ended, program

__all__ = ["LimitRequirements"]

MIB: Final = 2**20

TREE_THAT_WILL_NOT_STOP: Final = """
    import os, signal, time
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.setsid()
            break
    print("up", flush=True)
    while True:
        time.sleep(600)
"""

FORK_MANY: Final = """
    import os, time
    made = 0
    for _ in range(200):
        try:
            pid = os.fork()
        except BlockingIOError:
            break
        if pid == 0:
            time.sleep(600)
        made += 1
    print(made)
"""


class LimitRequirements(Requirements):
    @requirement()
    async def test_the_wall_limit_ends_a_tree_that_will_not_stop(self) -> None:
        complete = (
            await self.run(**program(TREE_THAT_WILL_NOT_STOP), limits={"wall_time_s": 1.0})
        ).complete
        assert (complete.reason, complete.timed_out) == ("wall_time", True)
        assert complete.signal == "SIGKILL"
        assert complete.duration_ms >= 1000

    @requirement()
    async def test_a_program_may_tidy_up_at_its_wall_limit(self) -> None:
        ran = await self.run(
            **program("""
                import signal, sys
                signal.signal(signal.SIGTERM, lambda *_: (print("tidied", flush=True), sys.exit(7)))
                signal.pause()
            """),
            limits={"wall_time_s": 1.0 * SLOWNESS},
        )
        assert ran.text() == "tidied\n"
        assert (ran.complete.reason, ran.complete.exit_code) == ("wall_time", 7)

    @requirement()
    async def test_printing_does_not_extend_the_wall_limit(self) -> None:
        ran = await self.run(
            command=("sh", "-c", "while :; do echo x; sleep 0.05; done"),
            limits={"wall_time_s": 0.5},
        )
        assert ran.complete.reason == "wall_time"

    @requirement()
    async def test_a_program_that_stops_itself_meets_its_wall_limit(self) -> None:
        complete = (
            await self.run(
                command=("sh", "-c", "kill -STOP 0; echo on"), limits={"wall_time_s": 0.5}
            )
        ).complete
        assert complete.reason == "wall_time"

    @requirement(limit="cpu_time_s")
    async def test_the_cpu_limit_holds_for_one_process(self) -> None:
        complete = (
            await self.run(**program("while True: pass"), limits={"cpu_time_s": 1.0})
        ).complete
        assert (complete.reason, complete.timed_out) == ("cpu_time", True)
        assert complete.cpu_time_ms is not None
        assert 950 <= complete.cpu_time_ms < 1000 + 500 * SLOWNESS

    @requirement(limit="cpu_time_s")
    async def test_the_cpu_limit_holds_for_children_together(self) -> None:
        complete = (
            await self.run(
                **program("""
                    import os
                    for _ in range(4):
                        if os.fork() == 0:
                            while True:
                                pass
                    os.wait()
                """),
                limits={"cpu_time_s": 1.0},
            )
        ).complete
        assert complete.reason == "cpu_time"
        assert complete.cpu_time_ms is not None
        assert 950 <= complete.cpu_time_ms < 1000 + 1000 * SLOWNESS

    @requirement(limit="cpu_time_s")
    async def test_the_cpu_limit_counts_children_that_ended(self) -> None:
        complete = (
            await self.run(
                **program("""
                    import os, time
                    while True:
                        if os.fork() == 0:
                            while time.process_time() < 0.2:
                                pass
                            os._exit(0)
                        os.wait()
                """),
                limits={"cpu_time_s": 1.0, "wall_time_s": 20 * SLOWNESS},
            )
        ).complete
        assert complete.reason == "cpu_time"
        assert complete.cpu_time_ms is not None
        assert complete.cpu_time_ms < 1000 + 1000 * SLOWNESS

    @requirement(limit="cpu_time_s")
    async def test_ignoring_the_cpu_signal_does_not_help(self) -> None:
        complete = (
            await self.run(
                **program("""
                    import signal
                    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
                    while True:
                        pass
                """),
                limits={"cpu_time_s": 1.0},
            )
        ).complete
        assert complete.reason == "cpu_time"

    @requirement(limit="memory_bytes")
    async def test_the_memory_limit_holds_for_processes_together(self) -> None:
        complete = (
            await self.run(
                **program("""
                    import os, time
                    for _ in range(8):
                        if os.fork() == 0:
                            kept = b"x" * 2**24
                            time.sleep(600)
                    time.sleep(600)
                """),
                limits={"memory_bytes": 100 * MIB, "wall_time_s": 20 * SLOWNESS},
            )
        ).complete
        assert complete.reason == "memory"

    @requirement()
    async def test_memory_that_children_share_counts_once(self) -> None:
        ran = await self.run(
            **program("""
                import os, time
                kept = b"x" * (40 * 2**20)
                children = []
                for _ in range(8):
                    pid = os.fork()
                    if pid == 0:
                        time.sleep(0.5)
                        os._exit(0)
                    children.append(pid)
                for pid in children:
                    os.waitpid(pid, 0)
                print("done")
            """),
            limits={"memory_bytes": 100 * MIB},
        )
        assert ran.out == "done\n"

    @requirement()
    async def test_reserved_memory_is_free(self) -> None:
        # As the JVM, Go and Node.js do; RLIMIT_AS would refuse it.
        ran = await self.run(
            **program("""
                import mmap
                kept = mmap.mmap(-1, 64 * 2**30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, prot=0)
                print(len(kept) // 2**30)
            """)
        )
        assert ran.out == "64\n"

    @requirement(limit="processes")
    async def test_the_limit_of_processes_holds(self) -> None:
        made = int((await self.run(**program(FORK_MANY), limits={"processes": 32})).out)
        # The program itself is one of them; a wrapper's own process may be another.
        assert 29 <= made <= 31

    @requirement(limit="processes")
    async def test_threads_count_as_processes(self) -> None:
        ran = await self.run(
            **program("""
                import threading
                stop, made = threading.Event(), 0
                try:
                    for _ in range(100):
                        threading.Thread(target=stop.wait, daemon=True).start()
                        made += 1
                except RuntimeError:
                    pass
                print(made)
            """),
            limits={"processes": 16},
        )
        assert 12 <= int(ran.out) <= 15

    @requirement(limit="open_files")
    async def test_open_files_are_limited(self) -> None:
        ran = await self.run(
            **program("""
                import os
                kept = []
                try:
                    while True:
                        kept.append(os.open("/dev/null", os.O_RDONLY))
                except OSError as error:
                    print(error.errno, kept[-1])
            """),
            limits={"open_files": 50},
        )
        assert ran.out == "24 49\n"

    @requirement(limit="file_bytes")
    async def test_the_size_of_a_file_is_limited(self) -> None:
        complete = (
            await self.run(
                command=("sh", "-c", "exec head -c 3000000 /dev/zero > f"),
                limits={"file_bytes": MIB},
            )
        ).complete
        assert (complete.reason, complete.signal) == ("signaled", "SIGXFSZ")

    @requirement(limit="open_files")
    async def test_a_limit_cannot_be_raised_from_inside(self) -> None:
        ran = await self.run(
            **program("""
                import resource
                for name in ("CPU", "FSIZE", "NOFILE", "NPROC", "CORE"):
                    which = getattr(resource, "RLIMIT_" + name)
                    hard = resource.getrlimit(which)[1]
                    assert hard != resource.RLIM_INFINITY, name
                    try:
                        resource.setrlimit(which, (hard + 1, hard + 1))
                        print(name, "was raised")
                    except ValueError:
                        pass
            """)
        )
        assert ran.out == ""

    @requirement()
    async def test_too_much_output_ends_the_job(self) -> None:
        ran = await self.run(
            command=("yes",), limits={"output_bytes": 100_000, "wall_time_s": 20 * SLOWNESS}
        )
        assert ran.complete.reason == "output_limit"
        assert ran.complete.output_truncated
        assert ran.complete.output_bytes == 100_000
        assert ran.text() == "y\n" * 50_000
        (truncated,) = [e.data for e in ran.events if isinstance(e.data, Truncated)]
        assert truncated.stream == "stdout"
        assert truncated.dropped_bytes > 0

    @requirement()
    async def test_a_flood_that_nobody_reads_is_kept_within_bounds(self) -> None:
        before = await self.service.jobs.stats()
        job = await self.submit(
            command=("yes",), limits={"output_bytes": 4 * MIB, "wall_time_s": 20 * SLOWNESS}
        )
        assert (await ended(job)).complete.reason == "output_limit"
        after = await self.service.jobs.stats()
        kept = after.log_bytes + after.disk_bytes - before.log_bytes - before.disk_bytes
        assert kept < 8 * MIB

    @requirement()
    async def test_output_is_counted_over_both_streams(self) -> None:
        ran = await self.run(
            command=(
                "sh",
                "-c",
                "head -c 60000 /dev/zero | tr '\\0' a; head -c 60000 /dev/zero >&2; sleep 600",
            ),
            limits={"output_bytes": 100_000, "wall_time_s": 20 * SLOWNESS},
        )
        assert ran.complete.reason == "output_limit"
        outputs = [e.data for e in ran.events if isinstance(e.data, Output)]
        assert sum(len(output.data) for output in outputs) == 100_000

    @requirement(limit="memory_bytes")
    async def test_the_memory_limit_holds_for_private_memory(self) -> None:
        await self._takes("mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS")

    @requirement(limit="memory_bytes")
    async def test_the_memory_limit_holds_for_shared_memory(self) -> None:
        await self._takes("mmap.MAP_SHARED | mmap.MAP_ANONYMOUS")

    async def _takes(self, flags: str) -> None:
        ran = await self.run(
            **program(f"""
                import mmap, time
                kept = []
                for _ in range(400):
                    kept.append(mmap.mmap(-1, 2**20, {flags}))
                    kept[-1].write(b"x" * 2**20)
                    time.sleep(0.002)
                print("had 400 MiB")
            """),
            limits={"memory_bytes": 64 * MIB},
        )
        assert ran.text() == ""
        assert (ran.complete.reason, ran.complete.oom_killed) == ("memory", True)
        assert ran.complete.peak_memory_bytes is not None
        assert ran.complete.peak_memory_bytes >= 64 * MIB

    @requirement(limit="tmp_bytes")
    async def test_a_language_may_have_a_tmp_of_its_own_size(self) -> None:
        code = "head -c 3M /dev/zero >/tmp/full 2>/dev/null; wc -c </tmp/full"
        assert (await self.run(language=SMALL_TMP, code=code)).out.strip() == str(MIB)

    @requirement(limit="processes")
    async def test_each_job_has_processes_of_its_own(self) -> None:
        jobs = [await self.submit(**program(FORK_MANY), limits={"processes": 32}) for _ in range(3)]
        counts = [int((await ended(job)).out) for job in jobs]
        assert all(29 <= made <= 31 for made in counts), counts
