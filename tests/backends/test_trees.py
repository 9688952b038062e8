"""Everything a job started ends with it, however it tries to stay, and it ends on time."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from streamer.events import Complete, Error
from streamer.jobs import JobSpec
from streamer.service import Job, JobService
from streamer.workspace import remove_tree
from tests.backends.conftest import Run
from tests.conftest import OpenService
from tests.jobs import adopt_orphans, descendants, ended, program, script


async def test_a_background_process_with_the_output_does_not_delay_the_end(run: Run) -> None:
    ran = await run(command=("sh", "-c", "sleep 600 & echo started"))
    assert ran.out == "started\n"
    assert ran.complete.duration_ms < 1000


async def test_a_daemon_dies_with_its_job(run: Run) -> None:
    ran = await run(
        **program("""
            import os, time
            ready, writing = os.pipe()
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.closerange(0, writing)
                    os.write(writing, b"x")
                    time.sleep(600)
                os._exit(0)
            os.wait()
            os.read(ready, 1)
            print("daemon is up")
        """)
    )
    assert ran.out == "daemon is up\n"


async def test_processes_that_keep_forking_die_with_their_job(run: Run) -> None:
    ran = await run(
        **program("""
            import os
            for _ in range(5):
                if os.fork() == 0:
                    while True:  # a comet: each process lives only to start the next
                        try:
                            if os.fork():
                                os._exit(0)
                        except OSError:
                            pass
                        os.setsid()
            print("off")
        """)
    )
    assert ran.out == "off\n"


async def test_a_program_may_close_its_output_and_go_on(run: Run) -> None:
    ran = await run(
        command=("sh", "-c", "echo before; exec >&- 2>&-; sleep 0.3; exit 4"),
    )
    assert ran.text() == "before\n"
    assert (ran.complete.reason, ran.complete.exit_code) == ("exited", 4)
    assert ran.complete.duration_ms >= 300


async def test_a_program_that_kills_its_parent_and_the_first_process(run: Run) -> None:
    ran = await run(
        command=("sh", "-c", "kill -9 1; kill -STOP 1; kill -9 $PPID; echo survived"),
        limits={"wall_time_s": 5.0},
    )
    if isinstance(ran.end, Complete) and ran.end.reason == "exited":
        assert ran.text() == "survived\n"
    else:
        # Under firejail our init has the job's own user. Nobody knows the program's end then.
        assert ran.end == Error("sandbox_error", "the sandbox could not run the job")


KILL_ALL = """
    import os, sys
    # Never where it would reach anybody else.
    alone = os.getuid() != 0 and os.readlink("/proc/self/ns/pid") != sys.argv[1]
    alone = alone and len([name for name in os.listdir("/proc") if name.isdigit()]) < 8
    assert alone, "not in a process-id namespace of its own"
    print("alone", flush=True)
    os.kill(-1, 9)
    print("survived", flush=True)
"""


async def test_a_program_that_kills_everybody_kills_itself_at_most(run: Run) -> None:
    files = (script("main.py", KILL_ALL),)
    ours = os.readlink("/proc/self/ns/pid")
    ran = await run(command=("python3", "main.py", ours), files=files, limits={"wall_time_s": 5.0})
    assert ran.text().startswith("alone\n"), ran.events


async def test_a_stopped_init_does_not_stop_the_wall_limit(run: Run) -> None:
    ran = await run(
        **program("""
            import os, signal, time
            os.kill(os.getppid(), signal.SIGSTOP)
            time.sleep(600)
        """),
        limits={"wall_time_s": 0.5},
    )
    assert ran.complete.reason == "wall_time"
    assert ran.complete.duration_ms < 2500


async def test_a_program_that_leaves_its_session_is_cancelled_all_the_same(
    service: JobService,
) -> None:
    adopt_orphans()
    before = descendants()
    job = await service.submit(
        JobSpec(
            command=(
                "setsid",
                "-w",
                "sh",
                "-c",
                "trap '' TERM INT; echo up; while :; do sleep 9; done",
            )
        )
    )
    await _wait_for_output(job)
    await job.cancel()
    assert (await ended(job)).complete.reason == "cancelled"
    assert descendants() == before


async def test_a_signal_reaches_the_program(service: JobService) -> None:
    job = await service.submit(
        JobSpec(
            **program("""
                import signal, sys
                signal.signal(signal.SIGINT, lambda *_: sys.exit(9))
                print("up", flush=True)
                signal.pause()
            """)
        )
    )
    await _wait_for_output(job)
    await job.signal(signal.SIGINT)
    complete = (await ended(job)).complete
    assert (complete.reason, complete.exit_code) == ("exited", 9)


async def test_input_reaches_a_running_program(service: JobService) -> None:
    job = await service.submit(JobSpec(command=("cat",), interactive=True))
    await job.write(b"one\n")
    await _wait_for_output(job)
    await job.write(b"two\n")
    await job.end_input()
    assert (await ended(job)).out == "one\ntwo\n"


async def test_stopping_the_service_ends_its_jobs(open_service: OpenService, backend: str) -> None:
    service = await open_service(backend)
    adopt_orphans()
    before = descendants()
    job = await service.submit(
        JobSpec(command=("sh", "-c", "trap '' TERM; echo up; while :; do sleep 9; done"))
    )
    await _wait_for_output(job)
    log = await job.log()
    await service.drain(0)
    assert descendants() == before
    assert log.done
    assert "shutting_down" in repr(log.end)


@pytest.mark.slow
async def test_a_service_that_is_killed_takes_its_jobs_along(backend: str) -> None:
    program = textwrap.dedent(f"""
        import asyncio, streamer
        from streamer.app import SERVICE
        from streamer.jobs import JobSpec
        async def main():
            config = {{"sandbox": {{"backend": {backend!r}, "allow_command": True}}}}
            async with streamer.create_app(config)[SERVICE] as service:
                job = await service.submit(JobSpec(command=("sh", "-c",
                    "setsid sleep 600 & trap '' TERM; echo up; while :; do sleep 9; done")))
                print(service._folder.path, flush=True)
                async for event in job.events():
                    if event.kind == "output":
                        print("up", flush=True)
        asyncio.run(main())
    """)
    adopt_orphans()
    before = descendants()
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert server.stdout is not None
    try:
        folder = (await server.stdout.readline()).decode().strip()
        assert await server.stdout.readline() == b"up\n"
        assert len(descendants()) > len(before) + 2
    finally:
        server.kill()
        await server.wait()
    deadline = asyncio.get_running_loop().time() + 5
    while descendants() != before and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.02)
    assert descendants() == before
    remove_tree(Path(folder))


async def _wait_for_output(job: Job) -> None:
    async for event in job.events():
        assert not isinstance(event.data, Complete), event
        if event.kind == "output":
            return
