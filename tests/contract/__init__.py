"""What others may rely on, written by hand as tables, and compared with the real interface.

Nothing here is derived from the code: `table_http`, `table_events`, `table_config` and
`table_names` are copied from the promise. Each row is `KEPT`, `ADDED` (built, though nobody was
promised it), or the number of the issue that will build it; who builds it changes the mark.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

KEPT: Final = "kept"
ADDED: Final = "added"
Mark = str | int


def differences(table: Mapping[str, Mark], found: Collection[str]) -> list[str]:
    """Return the differences between a table and what was found, in either direction."""
    wrong = [
        f"{name} is promised and not there"
        for name, mark in table.items()
        if mark in (KEPT, ADDED) and name not in found
    ]
    wrong += [
        f"{name} is there: mark it as kept, it said issue {mark}"
        for name, mark in table.items()
        if mark not in (KEPT, ADDED) and name in found
    ]
    wrong += [f"{name} is in no table" for name in found if name not in table]
    return sorted(wrong)
