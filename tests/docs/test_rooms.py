"""The picture of the rooms is up to date."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rooms", ROOT / "docs" / "rooms.py")
    assert spec
    assert spec.loader
    rooms = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rooms)
    return rooms


def test_the_picture_of_the_rooms_is_true() -> None:
    rooms = load()
    message = "run `make architecture` and commit docs/rooms.svg"
    assert rooms.PICTURE.read_text() == rooms.picture(rooms.imports()), message


def test_a_new_room_needs_a_place_in_the_picture() -> None:
    with pytest.raises(ValueError, match="give attic a place"):
        load().picture(Counter({("web", "attic"): 1}))


@pytest.mark.parametrize("folder", sorted((ROOT / "streamer").glob("*/__init__.py")))
def test_every_room_is_described(folder: Path) -> None:
    assert f"`{folder.parent.name}`" in (ROOT / "docs" / "architecture.md").read_text()
