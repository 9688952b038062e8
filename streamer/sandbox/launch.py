"""Look at the command of a sandbox: open its session, explain its failure, say what it shows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from streamer.errors import SandboxFailure
from streamer.sandbox.drivers import protocol
from streamer.sandbox.drivers.gated import Gated
from streamer.sandbox.shape import Program
from streamer.spi import Backend, LaunchPlan, SandboxJob

__all__ = ["explained", "places_of", "same_paths", "session_of"]


def places_of(program: Program) -> Sequence[str]:
    """Return where the program is, or would be if it was installed there."""
    name = program.argv[0]
    folders = dict(program.env).get("PATH", "").split(":")
    return [name] if "/" in name else [f"{folder}/{name}" for folder in folders]


def same_paths(job: SandboxJob) -> tuple[str, ...]:
    """Return the paths whose content is the same for every job in such a sandbox."""
    links = [name for name, _ in job.host.links]
    shown = [path for one in job.shown for path in (one.source, one.target)]
    return (*job.host.folders, *links, "/etc", *shown)


@asynccontextmanager
async def session_of(
    backend: Backend, job: SandboxJob, workspace: Path
) -> AsyncIterator[LaunchPlan]:
    async with backend.session(job, workspace) as plan:
        if not isinstance(plan, LaunchPlan):
            raise SandboxFailure(
                f"plan() returned a value of type {type(plan).__name__}: "
                "return a streamer.spi.LaunchPlan"
            )
        yield plan


def explained(failure: SandboxFailure, gated: Gated, backend: Backend) -> SandboxFailure:
    """Return why a sandbox did not start, for the operator."""
    if str(failure) in (protocol.BLIND, protocol.OTHER_BUILD):
        return failure  # the init answered, so the wrapper is not at fault
    text, code = gated.said(), gated.wrapper_exit
    why = backend.explain(-1 if code is None else code, text) or text.strip()
    # The usual mistake: a wrapper closes or replaces this descriptor.
    why = why or "the wrapper said nothing; does it pass on standard input?"
    return SandboxFailure(f"{failure} (exit {code}): {why}")
