"""Which clients are cut off when too many bytes wait to be sent to all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from streamer.sse.outgoing import Outgoing

MOST = 1000


@dataclass(eq=False)
class Stalled:
    """A session with a stalled client."""

    writing_since: float
    held_bytes: int = 100
    counted: int = 0
    cut: bool = False

    @property
    def response(self) -> Self:
        return self

    def abort(self) -> None:
        self.cut = True


def test_those_are_cut_who_took_nothing_for_longest_and_few_more_than_needed() -> None:
    outgoing = Outgoing(MOST)
    sessions = [Stalled(writing_since=second) for second in range(11)]
    for session in sessions[:-1]:
        outgoing.count(session)
    assert outgoing.cut == 0, "so much is allowed"
    outgoing.count(sessions[-1])
    gone = [session.cut for session in sessions]
    # An eighth below the bound, or the next write would walk over all sessions again.
    assert gone == [True] * 3 + [False] * 8
    assert (outgoing.cut, outgoing.bytes, len(outgoing)) == (3, 800, 8)
