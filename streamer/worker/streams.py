"""Connect the standard streams of one program with its job: input is fed, output is pumped."""

from __future__ import annotations

import contextlib

from streamer.model.job import Phase, ResolvedJob, Step
from streamer.sandbox.stdio import Stdio
from streamer.worker.feed import InputFeed
from streamer.worker.output import OutputPump

__all__ = ["connected"]


def connected(
    job: ResolvedJob, step: Step, pump: OutputPump, held: contextlib.ExitStack
) -> tuple[Stdio, InputFeed | None]:
    """Create the program's descriptors; return them, and the feed of its input, if it has any.

    `held` closes those that are not closed otherwise.
    """
    compiling = step.phase is Phase.COMPILE
    given = step.stdin or None if compiling else job.stdin
    interactive = job.interactive and not compiling
    with_input = given is not None or interactive
    stdio = Stdio.pipes(with_input=with_input)
    held.callback(stdio.close)
    pump.add("stdout", stdio.take("stdout"))
    pump.add("stderr", stdio.take("stderr"))
    if not with_input:
        return stdio, None
    feed = InputFeed(stdio.take("stdin"))
    held.callback(feed.close)
    feed.offer(given or b"")
    if not interactive:
        feed.end()
    return stdio, feed
