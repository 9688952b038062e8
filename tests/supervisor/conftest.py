"""Several processes share a Redis server, which they start."""

from __future__ import annotations

import pytest

from tests.tools import tool


@pytest.fixture(autouse=True, scope="session")
def executable() -> str:
    return tool("redis-server")
