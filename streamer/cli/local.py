"""Run a job in this process, without HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import IO, Final

from streamer.cli.exitcodes import EXIT_NOT_RUN
from streamer.cli.input import input_for
from streamer.cli.run import INPUT_PAUSE_S, run_job
from streamer.cli.saving import save_all
from streamer.cli.stdio import StandardInput
from streamer.cli.tty import Terminal
from streamer.compose import build
from streamer.config.schema import Config
from streamer.engine.blobs import JobFile
from streamer.errors import Busy
from streamer.jobs.filedownloads import read_at
from streamer.jobs.job import Job
from streamer.model.job import JobSpec, TerminalSize
from streamer.packing import opened_upload
from streamer.worker.execution import Execution

__all__ = ["run_local"]


CHUNK_BYTES: Final = 256 * 1024


async def run_local(
    config: Config,
    spec: JobSpec,
    project: str | None,
    *,
    forward_stdin: bool,
    raw: bool,
    on_terminal: bool = False,
    output: str | None = None,
    as_json: bool = False,
) -> int:
    """Run a job, on the terminal if asked for, and return the exit code for the shell.

    `project` is the folder or archive that it gets a copy of, `output` where its files are saved.
    """
    terminal = Terminal() if on_terminal else None
    if terminal is not None:
        spec = replace(spec, terminal=TerminalSize(*terminal.size))
    spec = replace(spec, interactive=forward_stdin)
    parts = build(config)
    parts.worker.short_lived = True
    async with parts:
        started: list[Execution] = []  # it is the only job
        parts.worker.on_start = started.append
        if project is not None:
            with opened_upload(project) as file:
                uploaded = await parts.jobs.projects.upload(_chunks(file))
            spec = replace(spec, project_id=uploaded.id)
        job = await parts.jobs.submit(spec)

        shown = partial(run_job, raw=raw, as_json=as_json)
        code = await _ran(job, started, terminal, shown, forward_stdin=forward_stdin)
        if output is None:
            return code
        kept = [(file.name, _content(job, file)) for file in await job.files()]
        return code if await save_all(output, spec.artifacts, kept) else code or EXIT_NOT_RUN


async def _ran(
    job: Job,
    started: list[Execution],
    terminal: Terminal | None,
    shown: Callable[..., Awaitable[int]],
    *,
    forward_stdin: bool,
) -> int:
    async def write(data: bytes) -> bool:
        while True:
            try:
                await (job.write(data) if data else job.end_input())
            except Busy:  # the program has not read its earlier input yet
                await asyncio.sleep(INPUT_PAUSE_S)
            else:
                return True

    if terminal is not None:
        at = (terminal, job.resize)
        return await shown(job.events(), (StandardInput(), write), job.cancel, at=at)
    if not forward_stdin:
        return await shown(job.events(), None, job.cancel)
    source = input_for(lambda: sum(execution.input_taken for execution in started))
    try:
        return await shown(job.events(), (source, write), job.cancel)
    finally:
        source.leave()


async def _content(job: Job, file: JobFile) -> AsyncGenerator[bytes, None]:
    async with job.open_file(file) as fd:
        at = 0
        while chunk := await read_at(fd, CHUNK_BYTES, at):
            at += len(chunk)
            yield chunk


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk
