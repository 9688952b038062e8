"""The ranges of npm, by which clients of Piston name versions."""

from __future__ import annotations

import pytest

from streamer.compat.piston.versions import satisfies, version_of

Version = tuple[int, int, int]

FITTING: dict[Version, list[str]] = {
    (3, 10, 4): [
        *("*", "x", "", "3", "3.x", "3.X.X", "3.10", "3.10.x", "3.10.4", "=3.10.4", "v3.10.4"),
        *("^3", "^3.9.1", "^3.10.4", "~3.10", "~3.10.2", "~>3.10", ">=3", "> 3.9", ">3.10.3", "<4"),
        *("<=3.10", "<=3.10.4", ">=3.8 <4", "3.9 - 3.11", "3.10.4 - 4", "2.x || 3.x", "1||3"),
    ],
    (0, 0, 3): ["^0.0.3", "~0.0", "0.x", "<1", "^0.0", "^0"],
    (0, 2, 5): ["^0.2.3", "~0.2.1", "^0.2", "^0"],
}
OTHER: dict[Version, list[str]] = {
    (3, 10, 4): [
        *("2", "4.x", "3.9", "3.11", "3.10.3", "3.10.5", "^4", "^3.11", "^2", "~3.9", "~3.10.5"),
        *(">3.10", ">3", "<3", "<3.10.4", "<=3.9", ">=3.11", "3.11 - 4", "2 - 3.9", "1.x || 2.x"),
        *("latest", "three", "3.10.4.1", ">=", "3.10.4-rc1", "03", "3 4"),
    ],
    (0, 0, 3): ["^0.0.2", "^0.0.4", "^0.1", ">0.0.3"],
    (0, 2, 5): ["^0.1", "^0.3", "^0.2.6", "^1"],
}


def cases(table: dict[Version, list[str]]) -> list[tuple[Version, str]]:
    return [(version, wanted) for version, some in table.items() for wanted in some]


@pytest.mark.parametrize(("version", "wanted"), cases(FITTING))
def test_a_version_is_in_a_range(version: Version, wanted: str) -> None:
    assert satisfies(version, wanted)


@pytest.mark.parametrize(("version", "wanted"), cases(OTHER))
def test_a_version_is_in_no_other(version: Version, wanted: str) -> None:
    assert not satisfies(version, wanted)


def test_a_long_text_is_no_range_and_takes_no_time() -> None:
    assert not satisfies((3, 10, 4), "3" + " " * 100_000 + "- 4")
    assert not satisfies((3, 10, 4), "||".join(["1"] * 100_000))


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("3.11.2", (3, 11, 2)),
        ("v20.1", (20, 1, 0)),
        ("5.2.15(1)-release", (5, 2, 15)),
        (None, (0, 0, 0)),
    ],
)
def test_versions_of_tools(said: str | None, version: Version) -> None:
    assert version_of(said) == version
