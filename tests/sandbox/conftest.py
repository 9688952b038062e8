"""Inits whose socket the test itself has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox.init_peer import Init, served_init


@pytest.fixture
def init(tmp_path: Path) -> Iterator[Init]:
    """An init that is served by the test, not as pid 1."""
    with served_init(tmp_path) as served:
        yield served
