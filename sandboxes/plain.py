"""Run programs without isolation: they see the host's files and its network.

For code you trust. It still promises that the service's environment stays hidden, limits and
verdicts are true, and every process of a job ends with it. For that the job has its own PID
namespace and, if the service is root, its own user, so it can neither see nor signal the service
or another job.
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

    def terminals(self) -> bool:
        """Return True: a program may use those of the host, and so may have one."""
        return True

    def plan(self, job: SandboxJob, workspace: Path) -> LaunchPlan:
        """Start the init in the job's folder as the job's user."""
        return LaunchPlan(
            argv=job.argv,
            cwd=str(workspace),
            workspace=str(workspace),
            start_as=job.identity,
            own_pid_namespace=True,
            # Jobs of an ordinary user's service run as that user, who may own these.
            read_only=tuple(one.source for one in job.shown if not one.source.startswith("/etc/")),
        )


@hookimpl
def streamer_backends() -> list[type[Backend]]:
    return [Plain]
