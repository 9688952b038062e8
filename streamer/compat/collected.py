"""Collect what a job wrote, for callers that get it in one answer."""

from __future__ import annotations

import base64
from collections import defaultdict
from dataclasses import dataclass

from streamer import Job
from streamer.events import Complete, Error, Output, Status

__all__ = ["Ran", "collected"]


@dataclass(frozen=True, slots=True)
class Ran:
    """How a job ended, and what its compiler and its program wrote, up to a number of bytes.

    `compile_ms` is how long the compiler ran, None if none did.
    """

    end: Complete | Error
    stdout: bytes = b""
    stderr: bytes = b""
    compiler_stdout: bytes = b""
    compiler_stderr: bytes = b""
    compile_ms: int | None = None


async def collected(job: Job, most_bytes: int) -> Ran:
    """Wait for the end of a job, and keep what it wrote.

    That is at most `most_bytes` of each stream of the program, and as much of the compiler. Raises
    `UnknownJob` if the job is forgotten meanwhile.
    """
    texts: defaultdict[tuple[str, str], bytearray] = defaultdict(bytearray)

    def other(stream: str) -> bytearray:
        return texts["compile", "stderr" if stream == "stdout" else "stdout"]

    compiling_at: int | None = None
    compile_ms: int | None = None
    async for event in job.events():
        match event.data:
            case Status(attempt=attempt) if attempt is not None:
                texts.clear()  # it is run again, from the start
                compiling_at = compile_ms = None
            case Status(state="compiling", t=t):
                compiling_at = t
            case Status(state="running", t=t) if compiling_at is not None:
                compile_ms = t - compiling_at
            case Output(data=data, phase=phase, stream=stream, encoding=encoding):
                text = texts[phase, stream]
                raw = base64.b64decode(data) if encoding else data.encode()
                kept = len(text) if phase == "run" else len(text) + len(other(stream))
                text += raw[: max(most_bytes - kept, 0)]
            case Complete() | Error() as end:
                if compiling_at is not None and compile_ms is None and isinstance(end, Complete):
                    compile_ms = end.duration_ms
                return Ran(
                    end,
                    bytes(texts["run", "stdout"]),
                    bytes(texts["run", "stderr"]),
                    bytes(texts["compile", "stdout"]),
                    bytes(texts["compile", "stderr"]),
                    compile_ms,
                )
    raise AssertionError("a job's events end with how it ended")
