"""Serve one group of routes, for the tests of one module."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp.test_utils import TestClient, TestServer

import streamer

__all__ = ["served"]


@asynccontextmanager
async def served(name: str, **sections: Any) -> AsyncIterator[TestClient[Any, Any]]:
    """Serve the group at its own prefix, with bwrap unless they say another; `sections` are those of the configuration."""
    compat = {"enabled": [name], **sections.pop("compat", {})}
    server = {"drain_s": 0, **sections.pop("server", {})}
    sandbox = {"backend": "bwrap", **sections.pop("sandbox", {})}
    config = {"sandbox": sandbox, "server": server, "compat": compat, **sections}
    async with TestClient(TestServer(streamer.create_app(config))) as client:
        yield client
