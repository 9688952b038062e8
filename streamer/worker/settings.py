"""What the configuration says about running jobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from streamer.sandbox.network.proxy import Outbound

__all__ = ["ExecutionSettings", "Patience"]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds.

    `kill_grace_s` is the time between SIGTERM and SIGKILL; `linger_s` is how long processes that
    hold the program's output open may continue after the program's own end.
    """

    kill_grace_s: float
    linger_s: float


@dataclass(frozen=True, slots=True)
class ExecutionSettings:
    """The configuration of executions."""

    path: str
    patience: Patience
    on_output_limit: Literal["kill", "truncate"]
    outbound: Outbound = field(default_factory=Outbound)
