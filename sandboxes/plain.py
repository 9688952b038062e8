"""Run programs without isolation: they see the host's files and its network.

For code you trust. What it does promise: the service's environment stays hidden, limits
and verdicts are honest, and everything a job started ends with it. For that the job has a
process-id namespace of its own, and, when the service is root, a user of its own, so it
can neither see nor signal the service or another job.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from streamer.spi import Backend, Isolation, LaunchPlan, SandboxJob, hookimpl

__all__ = ["Plain"]


@dataclass(frozen=True)
class Plain(Backend):
    """A subprocess of the host. It has no options."""

    name: ClassVar[str] = "plain"
    isolation: ClassVar[Isolation] = Isolation.NONE

    def plan(self, job: SandboxJob, workspace: Path) -> LaunchPlan:
        """Start the init in the job's folder, as the job's user."""
        return LaunchPlan(
            argv=job.argv,
            cwd=str(workspace),
            workspace=str(workspace),
            start_as=job.identity,
            own_pid_namespace=True,
        )


@hookimpl
def streamer_backends() -> list[type[Backend]]:
    """Register the backend."""
    return [Plain]
