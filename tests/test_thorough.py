"""What `tests.conftest` and `tests.thorough` name is there: a test that was renamed would run always."""

from __future__ import annotations

import pytest

from tests.conftest import COLLECTED, SLOW
from tests.thorough import is_thorough, stale


def test_each_thorough_test_that_is_named_is_there(request: pytest.FixtureRequest) -> None:
    """Only where all tests were collected: what is not there may not have been asked for."""
    collected = request.config.stash[COLLECTED]
    root = request.config.rootpath
    files = {path.relative_to(root).as_posix() for path in (root / "tests").rglob("test_*.py")}
    assert collected
    if {test.partition("::")[0] for test in collected} >= files:
        assert stale(collected) == []


def test_each_slow_file_that_is_named_is_there(pytestconfig: pytest.Config) -> None:
    assert [name for name in SLOW if not (pytestconfig.rootpath / name).exists()] == []


def test_a_name_that_no_test_has_is_told() -> None:
    tests = ["tests/test_soak.py::test_x", "tests/test_load.py::test_1000_readers"]
    told = stale(tests)
    assert "tests/test_soak.py::" not in told
    assert "tests/test_load.py::test_1000_readers" not in told
    assert "tests/test_load.py::test_1000_jobs" in told
    assert r"tests/languages/test_languages.py::.*\[(bwrap-)?go\b" in told


@pytest.mark.parametrize(
    ("test", "thorough"),
    [
        ("tests/languages/test_languages.py::test_hello[bwrap-go]", True),
        ("tests/languages/test_languages.py::test_hello[bwrap-golf]", False),
        ("tests/test_soak.py::test_any", True),
        ("tests/test_load.py::test_1000_jobs_in_a_row_leave_nothing[False]", True),
        ("tests/test_load.py::test_200_jobs_at_once_each_reader_its_own", False),
        ("tests/escape/test_escape.py::TestBwrap::test_x", False),
        ("tests/escape/test_escape.py::TestBwrapWarm::test_x", True),
        ("tests/other/test_soak.py::test_any", False),
    ],
)
def test_which_are_thorough(test: str, *, thorough: bool) -> None:
    assert is_thorough(test) == thorough
