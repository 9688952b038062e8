"""What is remembered of what jobs want."""

from __future__ import annotations

from streamer.sandbox.wants import MOST_KINDS, Wants


def test_only_so_many_kinds_are_known() -> None:
    known: Wants[int] = Wants()
    known.add(-1)
    known.add(-1)
    for kind in range(2 * MOST_KINDS):
        known.add(kind)
        assert known.worth(kind)[1] > 0
    assert len(known._wanted) == MOST_KINDS
    assert known.worth(-1)[0]
    assert not known.worth(2 * MOST_KINDS - 1)[0]
