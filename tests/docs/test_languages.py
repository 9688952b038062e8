"""The table of languages is up to date."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from streamer.model.languages import DEFAULT_RUNTIMES

ROOT = Path(__file__).parents[2]


def test_the_table_of_languages_is_true() -> None:
    spec = importlib.util.spec_from_file_location("languages", ROOT / "docs" / "languages.py")
    assert spec
    assert spec.loader
    languages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(languages)
    written = languages.MARKED.search(languages.PAGE.read_text())
    assert written
    message = "run `make languages` and commit docs/languages.md"
    assert written[0] == languages.table(), message
    assert languages.PACKAGES.keys() == DEFAULT_RUNTIMES.keys()


def test_ci_requires_twelve_languages_and_more() -> None:
    required = (ROOT / ".ci" / "languages").read_text().split()
    assert set(required) <= DEFAULT_RUNTIMES.keys()
    assert len(set(required)) >= 12
