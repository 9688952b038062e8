"""Refuse a built site whose pages would make a browser ask another server for anything.

`make docs` runs it:

    python docs/outside.py build/docs

A link to another site is no such request; a script, style sheet, font, picture or frame is.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

ELSEWHERE = re.compile(r"\s*(?:\w+:)?//")
IN_STYLES = re.compile(r"(?:url\(|@import)\s*[\"']?\s*((?:\w+:)?//[^\"')\s;]*)")
NOT_FETCHED = frozenset({"alternate", "author", "canonical", "license", "next", "prev", "search"})
"""Relations of a ``link`` for which a browser fetches nothing."""


class Fetched(HTMLParser):
    """Collects the addresses at other servers that a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        addresses = [values.get("src", ""), values.get("poster", "")]
        addresses += [part for part in values.get("srcset", "").split(",") if part]
        if tag == "link" and not set(values.get("rel", "").split()) <= NOT_FETCHED:
            addresses.append(values.get("href", ""))
        if tag == "object":
            addresses.append(values.get("data", ""))
        self.found += [address for address in addresses if ELSEWHERE.match(address)]
        self.found += IN_STYLES.findall(values.get("style", ""))


def fetched(page: str) -> list[str]:
    """Return what the text of a page fetches from other servers, with its own styles."""
    parser = Fetched()
    parser.feed(page)
    return parser.found + IN_STYLES.findall(page if "<style" in page else "")


def main(folder: Path) -> int:
    """Print what pages and styles in a folder fetch; return 1 for anything, or for no page."""
    pages = sorted(folder.rglob("*.html"))
    found = [f"{page}: {address}" for page in pages for address in fetched(page.read_text())]
    for sheet in sorted(folder.rglob("*.css")):
        found += [f"{sheet}: {address}" for address in IN_STYLES.findall(sheet.read_text())]
    for line in found if pages else [f"{folder}: there is no page"]:
        print(line, file=sys.stderr)  # noqa: T201 - a program
    return 1 if found or not pages else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
