"""The conformance suite: what every backend must do, one test case for each requirement."""

from __future__ import annotations

from streamer.testing.conformance.limits import LimitRequirements
from streamer.testing.conformance.programs import ProgramRequirements
from streamer.testing.conformance.trees import TreeRequirements

__all__ = ["ConformanceSuite"]


class ConformanceSuite(ProgramRequirements, LimitRequirements, TreeRequirements):
    """Derive it in a test module, name the backend, and run pytest.

    Limits that the backend does not enforce (`streamer.sandbox.enforcement`) are skipped.
    """
