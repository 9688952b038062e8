"""The site of the documents: its navigation has every page, and its pages ask no other server."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CONF = load("conf")
OUTSIDE = load("outside")
INDEX = ROOT / "docs" / "README.md"


def test_the_navigation_has_every_page_once_in_four_parts() -> None:
    navigation = CONF.navigation(INDEX.read_text())
    lines = navigation.splitlines()
    captions = [line.split(": ")[1] for line in lines if line.startswith(":caption:")]
    assert captions == ["Tutorial", "How to", "Reference", "Explanation"]
    pages = [
        (INDEX.parent / f"{found[1]}.md").resolve()
        for line in lines
        if (found := re.fullmatch("[^:].* <(.+)>", line))
    ]
    there = {
        path
        for pattern in CONF.include_patterns
        for path in ROOT.glob(pattern)
        if not path.is_relative_to(ROOT / "examples")
    } - {INDEX}
    assert sorted(pages) == sorted(there)


def test_ci_builds_the_site() -> None:
    assert "make docs" in (ROOT / ".ci" / "run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"sphinx-build .*-W ", makefile)
    assert "docs/outside.py" in makefile


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ('<script src="https://cdn.example.org/x.js"></script>', ["https://cdn.example.org/x.js"]),
        ('<link rel="stylesheet" href="//example.org/x.css">', ["//example.org/x.css"]),
        ('<img srcset="a.png 1x,https://example.org/b.png 2x">', ["https://example.org/b.png 2x"]),
        ("<style>@import 'https://example.org/f'</style>", ["https://example.org/f"]),
        ('<p style="background: url(http://example.org/p)">', ["http://example.org/p"]),
        ('<a href="https://example.org/">elsewhere</a>', []),
        ('<link rel="canonical" href="https://example.org/">', []),
        ('<script src="_static/furo.js"></script><img src="../a.png">', []),
    ],
)
def test_what_a_page_fetches_from_elsewhere_is_found(page: str, found: list[str]) -> None:
    assert OUTSIDE.fetched(page) == found


def test_a_site_that_fetches_or_has_no_page_is_refused(tmp_path: Path) -> None:
    assert OUTSIDE.main(tmp_path) == 1
    (tmp_path / "index.html").write_text("<p>hello")
    assert OUTSIDE.main(tmp_path) == 0
    (tmp_path / "x.css").write_text("@font-face { src: url('https://example.org/f.woff2') }")
    assert OUTSIDE.main(tmp_path) == 1
