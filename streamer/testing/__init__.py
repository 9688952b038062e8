"""Test suites for sandbox backends, also for those of other projects.

Derive `EscapeSuite` and `ConformanceSuite` in a test module of pytest; docs/backends.md shows
how. Importing this package does not import pytest; it may import every room but the command line.
"""

from __future__ import annotations

from streamer.testing.attack import Attack, NoProof
from streamer.testing.attacks import ATTACKS
from streamer.testing.campaign import Campaign, Outcome, open_campaign
from streamer.testing.conformance import ConformanceSuite
from streamer.testing.escape import EscapeSuite

__all__ = [
    "ATTACKS",
    "Attack",
    "Campaign",
    "ConformanceSuite",
    "EscapeSuite",
    "NoProof",
    "Outcome",
    "open_campaign",
]
