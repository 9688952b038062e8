"""Every route has an example that the suite runs: a command of curl in a document."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from streamer.web.operations.operation import Operation
from streamer.web.operations.table import OPERATIONS

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = re.compile(r"(?:\$url|http://127\.0\.0\.1:8080)(/[^\s?\"')|;]*)")
METHOD = re.compile(r" -X (\w+)")
WITH_BODY = re.compile(r" (?:-d|-F|--data-binary) ")


def shown() -> set[tuple[str, str]]:
    """Return method and path of each command; an id is a variable of the shell."""
    found = set()
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for snippet in FENCE.findall(document.read_text()):
            for command in re.split(r"\bcurl\b", snippet)[1:]:
                method = METHOD.search(command)
                implied = "POST" if WITH_BODY.search(command) else "GET"
                for path in ADDRESS.findall(command):
                    found.add((method[1] if method else implied, path))
    return found


SHOWN = shown()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.id)
def test_it_is_shown(operation: Operation) -> None:
    form = re.sub(r"{(\w+)}", lambda place: ".+" if place[1] == "path" else "[^/]+", operation.path)
    matching = [path for method, path in SHOWN if method == operation.method]
    assert [path for path in matching if re.fullmatch(form, path)], operation.path
