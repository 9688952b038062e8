"""Find the programs that tests drive from outside: browser, proxy, clients."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

NODE_PACKAGES = Path(__file__).parents[1] / "build" / "node"
"""Where the set-up puts the packages of Node.js: a program that runs here can import them."""

NAMES = {
    "chromium": ("chromium", "chromium-browser", "google-chrome"),
    "redis-server": ("redis-server", "valkey-server"),
}


def required_tools() -> frozenset[str]:
    """Return the tools whose absence fails here instead of skipping."""
    return frozenset(filter(None, os.environ.get("STREAMER_REQUIRE_TOOLS", "").split(",")))


def tool(name: str) -> str:
    """Return the path of a program; skip the test, or fail it, where there is none."""
    if name == "redis-server" and (chosen := os.environ.get("STREAMER_TEST_REDIS_SERVER")):
        return chosen
    # Debian installs servers in /usr/sbin, which is not in an ordinary user's PATH.
    path = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
    for candidate in NAMES.get(name, (name,)):
        if found := shutil.which(candidate, path=path):
            return found
    if name in required_tools():
        pytest.fail(f"{name} is required here (STREAMER_REQUIRE_TOOLS) and is not installed")
    pytest.skip(f"{name} is not installed")


def node_with_packages() -> str:
    """Return the path of Node.js; skip or fail the test also without the packages of `make setup`."""
    node = tool("node")
    if not (NODE_PACKAGES / "node_modules" / "eventsource").is_dir():
        message = "the packages of Node.js are not installed: make setup"
        pytest.fail(message) if "node" in required_tools() else pytest.skip(message)
    return node
