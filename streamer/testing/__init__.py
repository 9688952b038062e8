"""The suites that a sandbox backend runs against itself, and what they are made of.

Derive `EscapeSuite` and `ConformanceSuite` in a test module of pytest; docs/backends.md
shows how. Importing this package imports no test tool.
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
