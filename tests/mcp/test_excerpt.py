"""The part of an output that fits into an answer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamer.mcp.excerpt import Excerpt


def test_short_output_is_whole() -> None:
    excerpt = Excerpt(10, 0, paging=False)
    excerpt.add(4, "stdout", "one\n")
    excerpt.add(5, "stderr", "two\n")
    assert excerpt.texts() == {"stdout": "one\n", "stderr": "two\n"}
    assert excerpt.omitted is None


@given(st.lists(st.integers(1, 30), max_size=30), st.integers(2, 40))
def test_what_is_left_out_is_told_exactly(sizes: list[int], most: int) -> None:
    excerpt = Excerpt(most, 3, paging=False)
    whole = ""
    for number, size in enumerate(sizes, 4):
        piece = chr(ord("a") + number % 26) * size
        excerpt.add(number, "stdout", piece)
        whole += piece
    shown, missing = excerpt.texts()["stdout"], excerpt.omitted
    if missing is None:
        assert shown == whole
        return
    head, _, rest = shown.partition("\n[... ")
    tail = rest.partition(" ...]\n")[2]
    assert whole.startswith(head)
    assert whole.endswith(tail)
    assert len(head) + len(tail) + missing.characters == len(whole)
    assert len(head) + len(tail) <= most
    # From there on nothing is missed: all before it was shown whole.
    assert missing.after <= missing.before - 1
    assert len(head) >= sum(sizes[: missing.after - 3])


@given(st.lists(st.integers(1, 30), min_size=1, max_size=30), st.integers(2, 40))
def test_page_by_page_all_is_read(sizes: list[int], most: int) -> None:
    pieces = [chr(ord("a") + n % 26) * size for n, size in enumerate(sizes)]
    after, read, pages = 0, "", 0
    while True:
        excerpt = Excerpt(most, after, paging=True)
        for number, piece in enumerate(pieces[after:], after + 1):
            excerpt.add(number, "stdout", piece)
        pages += 1
        if excerpt.omitted is None:
            read += excerpt.texts()["stdout"]
            break
        assert excerpt.omitted.after > after
        read += "".join(pieces[after : excerpt.omitted.after])
        after = excerpt.omitted.after
    assert read == "".join(pieces)
    assert pages <= len(pieces)
