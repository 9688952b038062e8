"""The part of a job's output that fits into one answer: its beginning and its end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from streamer.mcp.answers import Omitted

__all__ = ["Excerpt"]


@dataclass(frozen=True, slots=True)
class _Piece:
    number: int
    stream: str
    text: str


class Excerpt:
    """Keeps at most `most` characters of what is added, and knows what it has left out.

    `after` is the number of the event before the first one. With `paging` the first piece is kept
    whole, however long it is (an event has at most 64 KiB of output), so that a reader who asks
    for what was left out always gets on.
    """

    def __init__(self, most: int, after: int, *, paging: bool) -> None:
        self._head_room = most // 2
        self._tail_most = most - most // 2
        self._paging = paging
        self._head: list[_Piece] = []
        self._tail: deque[_Piece] = deque()
        self._tail_chars = 0
        self._head_open = True
        self._whole_until = after
        self._cut_chars = 0
        self._cut_before = 0

    def add(self, number: int, stream: str, text: str) -> None:
        """Add the output of an event."""
        if self._head_open:
            fits = len(text) <= self._head_room or (self._paging and not self._head)
            if fits:
                self._head.append(_Piece(number, stream, text))
                self._head_room -= len(text)
                self._whole_until = number
                return
            self._head_open = False
            shown, text = text[: self._head_room], text[self._head_room :]
            if shown:
                self._head.append(_Piece(number, stream, shown))
        self._tail.append(_Piece(number, stream, text))
        self._tail_chars += len(text)
        while self._tail_chars > self._tail_most:
            self._cut(self._tail_chars - self._tail_most)

    def _cut(self, excess: int) -> None:
        first = self._tail.popleft()
        left = first.text[excess:]
        gone = len(first.text) - len(left)
        self._tail_chars -= gone
        self._cut_chars += gone
        # What is left of it is no more than a part: it is read again as a whole.
        self._cut_before = first.number + 1
        if left:
            self._tail.appendleft(_Piece(first.number, first.stream, left))

    @property
    def omitted(self) -> Omitted | None:
        if not self._cut_chars:
            return None
        return Omitted(characters=self._cut_chars, after=self._whole_until, before=self._cut_before)

    def texts(self) -> dict[str, str]:
        """Return what there is of each stream, with a line where something is missing."""
        texts = {"stdout": "", "stderr": ""}
        for piece in self._head:
            texts[piece.stream] += piece.text
        missing = self.omitted
        if missing is not None:
            where = self._tail[0].stream if self._tail else "stdout"
            texts[where] += (
                f"\n[... {missing.characters} characters are not shown here: to read them call "
                f"wait with after={missing.after} ...]\n"
            )
        for piece in self._tail:
            texts[piece.stream] += piece.text
        return texts
