"""Every process that a job started ends with the job, however it tries to stay."""

from __future__ import annotations

import signal

from streamer.model.events import Error
from streamer.testing.conformance.base import Requirements, requirement, until_output
from streamer.testing.running import ended, program

__all__ = ["TreeRequirements"]


class TreeRequirements(Requirements):
    @requirement()
    async def test_a_background_process_with_the_output_does_not_delay_the_end(self) -> None:
        ran = await self.run(command=("sh", "-c", "sleep 600 & echo started"))
        assert ran.out == "started\n"

    @requirement()
    async def test_a_daemon_dies_with_its_job(self) -> None:
        ran = await self.run(
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

    @requirement()
    async def test_a_program_may_close_its_output_and_go_on(self) -> None:
        ran = await self.run(
            command=("sh", "-c", "echo before; exec >&- 2>&-; sleep 0.3; exit 4"),
        )
        assert ran.text() == "before\n"
        assert (ran.complete.reason, ran.complete.exit_code) == ("exited", 4)
        assert ran.complete.duration_ms >= 300

    @requirement()
    async def test_a_program_that_leaves_its_session_is_cancelled_all_the_same(self) -> None:
        stubborn = "trap '' TERM INT; echo up; while :; do sleep 9; done"
        job = await self.submit(command=("setsid", "-w", "sh", "-c", stubborn))
        await until_output(job)
        await job.cancel()
        assert (await ended(job)).complete.reason == "cancelled"

    @requirement()
    async def test_a_signal_reaches_the_program(self) -> None:
        job = await self.submit(
            **program("""
                import signal, sys
                signal.signal(signal.SIGINT, lambda *_: sys.exit(9))
                print("up", flush=True)
                signal.pause()
            """)
        )
        await until_output(job)
        await job.signal(signal.SIGINT)
        complete = (await ended(job)).complete
        assert (complete.reason, complete.exit_code) == ("exited", 9)

    @requirement()
    async def test_input_reaches_a_running_program(self) -> None:
        job = await self.submit(command=("cat",), interactive=True)
        await job.write(b"one\n")
        await until_output(job)
        await job.write(b"two\n")
        await job.end_input()
        assert (await ended(job)).out == "one\ntwo\n"

    @requirement()
    async def test_a_job_that_waits_is_cancelled_without_being_run(self) -> None:
        jobs = [await self.submit(command=("sleep", "600")) for _ in range(5)]
        for job in reversed(jobs):
            await job.cancel()
        ends = [(await ended(job)).complete.reason for job in jobs]
        assert ends == ["cancelled"] * 5

    @requirement(gated=True)
    async def test_a_sandbox_that_cannot_start_is_an_error_and_no_verdict(self) -> None:
        # A folder of the service's own, where the sandbox would have to look for it.
        (folder,) = self._state.iterdir()
        init = folder / "init"
        hidden = init.rename(folder / "init-hidden")
        assert self.service.worker.pool is not None
        await self.service.worker.pool.templates.close()  # they have opened it already
        try:
            ran = await self.run(command=("echo", "it ran"))
            assert isinstance(ran.end, Error), ran.events
            assert ran.end.code == "sandbox_error"
            assert ran.text() == ""
        finally:
            hidden.rename(init)
        assert (await self.run(command=("echo", "again"))).out == "again\n"
