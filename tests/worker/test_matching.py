"""What patterns stand for in a listing, and what is told of the rest."""

from __future__ import annotations

import stat
from dataclasses import replace

from streamer.model.globs import Glob
from streamer.sandbox.listing import Entry, Listing
from streamer.worker.matching import MOST_TOLD, Failure, Matching

FILE = stat.S_IFREG | 0o644
LINK = stat.S_IFLNK | 0o777
FOLDER = stat.S_IFDIR | 0o755


def listing(*paths: str, mode: int = FILE, complete: bool = True) -> Listing:
    return Listing([Entry(path, mode, 0) for path in paths], complete)


def matched(listing: Listing, *patterns: str, most: int = 10) -> tuple[list[str], list[Failure]]:
    matching = Matching([Glob(pattern) for pattern in patterns], listing, most)
    while not matching.go_on():
        pass
    return list(matching.names), matching.failures


def test_files_in_the_order_of_patterns_and_names() -> None:
    names, failures = matched(listing("b", "a/2", "a/1", "c"), "a/*", "named", "*")
    assert names == ["a/1", "a/2", "named", "b", "c"]
    assert failures == []


def test_what_two_patterns_stand_for_is_told_once() -> None:
    entries = [*listing("back\\slash").entries, *listing("link", mode=LINK).entries]
    names, failures = matched(Listing(entries, complete=True), "*", "**")
    assert (names, failures) == (
        [],
        [Failure("bad_name", "back\\slash"), Failure("not_a_file", "link")],
    )


def test_folders_are_left_out() -> None:
    assert matched(listing("a", mode=FOLDER), "*") == ([], [Failure("no_match", glob="*")])


def test_more_than_may_be_kept() -> None:
    names, failures = matched(listing("a", "b", "c"), "*", "d", "a", most=2)
    assert names == ["a", "b"]
    assert failures == [
        Failure("too_many_files", glob="*"),
        Failure("too_many_files", glob="d"),
    ]


def test_a_search_that_is_not_complete_concerns_patterns_with_wildcards() -> None:
    names, failures = matched(listing("a", complete=False), "*", "b")
    assert names == ["a", "b"]
    assert failures == [Failure("search_incomplete", glob="*")]
    closed = replace(listing("a"), closed=True)
    assert matched(closed, "*", "b") == (names, failures)


def test_only_some_failures_are_kept() -> None:
    _, failures = matched(listing(*[f"{number}\\" for number in range(2 * MOST_TOLD)]), "*")
    assert len(failures) == MOST_TOLD
