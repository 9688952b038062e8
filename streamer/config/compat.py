"""The section ``[compat]``: which groups of routes are served besides our own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from streamer.config.section import Positive, Section, Text

__all__ = ["CompatConfig"]


class CompatConfig(Section, frozen=True):
    """``[compat]``: routes in the form of other services, each group below a prefix of its own."""

    enabled: tuple[Text, ...] = ()
    max_waiting: Positive = 256
    options: Mapping[str, Mapping[str, Any]] = {}
    """The sub-tables ``[compat.NAME]``; ``prefix`` is ours, and the groups check the others."""

    def __repr__(self) -> str:
        """Leave out the groups' options: they may hold secrets."""
        values = msgspec.structs.asdict(self) | {"options": sorted(self.options)}
        return f"CompatConfig({', '.join(f'{key}={value!r}' for key, value in values.items())})"
