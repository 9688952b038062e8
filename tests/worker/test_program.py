"""One program of a job, in a sandbox that fails."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from streamer.engine.interface import LeaseLost
from streamer.errors import SandboxFailure
from streamer.model.events import JobEvent, Output
from streamer.model.job import Limits
from streamer.sandbox.running import Running
from streamer.sandbox.shape import Run
from streamer.sandbox.stdio import Stdio
from streamer.worker.output import Budget, OutputPump
from streamer.worker.program import Patience, ProgramRun
from streamer.worker.stop import Stop


class Broken:
    """A sandbox that has started its program and then fails."""

    async def run(self, _: Run) -> Running:
        running = Running()
        for future in (running.exited, running.ended):
            future.set_exception(SandboxFailure("it broke"))
        return running

    async def kill(self) -> None: ...


class Program:
    """A program whose output pipe the test writes to."""

    def __init__(self, flush: BaseException | None = None, *, prompt: bool = True) -> None:
        self.written: list[str] = []
        self.flushed = 0
        self._prompt = prompt
        self._flush_fails = flush
        stop = Stop()
        pump = OutputPump(
            phase="run",
            budget=Budget(10**6),
            as_base64=False,
            elapsed_ms=lambda: 0,
            write_now=self._write_now,
            write=self._write,
            on_exceeded=lambda: None,
        )
        self.stdio = Stdio.pipes(with_input=False)
        pump.add("stdout", self.stdio.take("stdout"))
        sandbox: Any = Broken()
        patience = Patience(kill_grace_s=0, linger_s=0)
        self.ended = 0
        self._run = ProgramRun(
            sandbox, pump, self._flush, stop, patience, on_start=lambda: None, on_end=self._end
        )
        self.close = pump.close

    async def run(self) -> None:
        limits = Limits()
        await self._run.run(Run(("true",), {}, limits, self.stdio))

    def _write_now(self, events: Sequence[JobEvent]) -> bool:
        if self._prompt:
            self.written += [event.data for event in events if isinstance(event, Output)]
        return self._prompt

    async def _write(self, events: Sequence[JobEvent]) -> None:
        await asyncio.sleep(0)
        self.written += [event.data for event in events if isinstance(event, Output)]

    async def _flush(self) -> None:
        self.flushed += 1
        if self._flush_fails is not None:
            raise self._flush_fails

    def _end(self) -> None:
        self.ended += 1


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    made: list[Program] = []
    yield made
    for program in made:
        program.close()
        program.stdio.close()


@pytest.mark.parametrize("prompt", [True, False])
async def test_what_was_written_before_the_sandbox_failed_is_kept(
    programs: list[Program], *, prompt: bool
) -> None:
    program = Program(prompt=prompt)
    programs.append(program)
    os.write(program.stdio.theirs[1], b"a line\nand half of ano")
    with pytest.raises(SandboxFailure, match="it broke"):
        await program.run()
    assert "".join(program.written) == "a line\nand half of ano"
    assert program.flushed == 1
    assert program.ended == 1, "nothing holds the program for its readers any more"


async def test_a_log_that_is_lost_meanwhile_does_not_hide_why_the_sandbox_failed(
    programs: list[Program],
) -> None:
    program = Program(flush=LeaseLost("gone"))
    programs.append(program)
    with pytest.raises(SandboxFailure, match="it broke"):
        await program.run()
