"""The `traceparent` of a caller: W3C Trace Context, which names a trace and a part of it."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["parsed_traceparent", "trace_id"]

TRACEPARENT: Final = re.compile(
    "(?P<version>[0-9a-f]{2})-"
    "(?P<ids>(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})"
    "(?P<more>-.*)?"
)


def parsed_traceparent(text: str) -> str:
    """Return it in the one version that we know, or ``""`` if it is none: that is no error."""
    found = TRACEPARENT.fullmatch(text)
    if found is None or found["version"] == "ff":
        return ""
    if found["version"] == "00" and found["more"] is not None:
        return ""  # only a later version may go on
    return f"00-{found['ids']}"


def trace_id(traceparent: str) -> str:
    """Return the trace that a valid one names."""
    return traceparent[3:35]
