"""Patterns of files: what they stand for, and which are refused."""

from __future__ import annotations

import pytest

from streamer.model.globs import Glob, why_not_glob


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("out.txt", ["out.txt"], ["Out.txt", "a/out.txt", "out.txt/a", "out-txt"]),
        ("*", ["a", "a.b"], ["a/b", ".a"]),
        ("*.png", ["a.png", "a.b.png"], [".png", "a.png.b", "a/b.png", "a.PNG"]),
        ("out/*.png", ["out/a.png"], ["out/a/b.png", "out/.png", "a.png", "x/out/a.png"]),
        ("a*b*c", ["abc", "axbxc", "abbcc"], ["ab", "acb", "abcd"]),
        ("*a*", ["a", "xax"], ["x", ".a"]),
        ("a**b".replace("**", "*"), ["ab", "axb"], ["a/b"]),
        ("?.txt", ["a.txt", "\n.txt", "é.txt"], [".txt", "ab.txt", "..txt"]),
        ("[ab].txt", ["a.txt", "b.txt"], ["c.txt", "ab.txt", "[ab].txt"]),
        ("[!ab].txt", ["c.txt"], ["a.txt", "..txt"]),
        ("[^ab].txt", ["c.txt"], ["a.txt"]),
        ("[a-c]1", ["b1"], ["d1", "-1"]),
        ("[]a]1", ["]1", "a1"], ["[1"]),
        ("[!]a]1", ["b1"], ["]1", "a1"]),
        ("[c-a]1", [], ["a1", "b1", "c1"]),
        ("[a-]1", ["a1", "-1"], ["b1"]),
        ("[a", ["[a"], ["a"]),
        ("a[.]b", ["a.b"], ["axb"]),
        ("[.]b", [], [".b"]),
        ("a.b+(c)$", ["a.b+(c)$"], ["axb+(c)$", "a.bb(c)"]),
        ("**/a", ["a", "x/a", "x/y/a"], [".x/a", "x/.y/a", "xa", "a/x"]),
        ("**/*.py", ["a.py", "x/a.py"], [".a.py", "x/.a.py", ".x/a.py"]),
        ("out/**", ["out/a", "out/b/c/d"], ["out", "out/.a", "out/.b/c", "x/out/a"]),
        ("**", ["a", "a/b/c"], [".a", "a/.b/c"]),
        (".config/**", [".config/a"], [".config/.a", "config/a"]),
        ("**/.x/**/.y/a", [".x/.y/a", "q/.x/r/.y/a", "q/.x/s/t/.y/a"], ["q/.x/.z/.y/a"]),
        ("a/**/b/**/c", ["a/b/c", "a/x/b/y/z/c", "a/b/b/c"], ["a/c", "a/b/x"]),
        ("**/**/a", ["a", "x/a"], [".x/a"]),
        (".*", [".a"], ["a"]),
    ],
)
def test_what_a_pattern_stands_for(pattern: str, matching: list[str], others: list[str]) -> None:
    glob = Glob(pattern)
    assert why_not_glob(pattern) == ""
    assert [path for path in matching if not glob.matches(path)] == []
    assert [path for path in others if glob.matches(path)] == []


def test_undecodable_names_are_matched() -> None:
    assert Glob("*.txt").matches("\udcff.txt")


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "/a", "a/", "a//b", "..", "a/../b", "./a", "a/.", "a\\b", "a\0b", "a**", "**a/b"),
        *("a/***", "x" * 256, "x/" * 64 + "x", "\udcff"),
    ],
)
def test_a_pattern_that_is_refused(pattern: str) -> None:
    assert why_not_glob(pattern).startswith(("a pattern", "the name", "a part", "** stands"))


def test_a_folder_alone_is_refused_with_the_remedy() -> None:
    assert "folder/**" in why_not_glob("out/")


def test_names_without_wildcards() -> None:
    assert Glob("a/b.txt").is_name
    assert not Glob("a/?.txt").is_name
