"""Why an environment cannot be built or used."""

from __future__ import annotations

__all__ = ["EnvironmentFault"]


class EnvironmentFault(Exception):
    """The reason and the remedy, for the operator: it has paths of the host."""
