"""A service, a proxy that cuts its streams, and a program that forges its events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from tests.conftest import Start
from tests.interop.cutter import Cutter, cutting


@pytest.fixture
async def client(start: Start) -> TestClient[Any, Any]:
    """Return a client of a service that accepts requests through a proxy."""
    return await start(auth={"anonymous": True})


@pytest.fixture
async def cutter(client: TestClient[Any, Any]) -> AsyncIterator[Cutter]:
    """Return a proxy in front of that service, which cuts connections."""
    async with cutting("127.0.0.1", int(client.port or 0)) as proxy:
        yield proxy
