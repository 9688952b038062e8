"""Run tests that depend on the engine with three: in memory, like a remote one, and in Redis.

What cannot depend on it runs once: see `ONCE`, and the marker ``memory_engine``.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
from msgspec.structs import replace

from streamer.config.schema import Config
from streamer.config.shares import Shares
from streamer.engine.interface import Engine
from streamer.engines import memory_engine, redis_engine
from streamer.spi import hookimpl
from tests.engine.remote.engine import RemoteEngine
from tests.engine.remote.server import Server
from tests.engine.remote.wire import Wire
from tests.redisserver import RedisServer

ONCE: Final[Mapping[str, str]] = {
    "test_access.py": "who may do what, which the engine has no part in",
    "test_again.py": "the pace of what was read from a log, by whatever engine",
    "test_answers.py": "how answers are written, before any job",
    "test_behind.py": "addresses and links behind a proxy",
    "test_bodies.py": "requests that are refused by their bodies",
    "test_connections.py": "how connections are kept and closed",
    "test_disclosure.py": "what answers do not say of the host",
    "test_fields.py": "how a submission is parsed",
    "test_grants.py": "what a link opens; that all nodes share its secret is in tests/web/test_nodes.py",
    "test_log_floods.py": "the log of the process",
    "test_openapi.py": "the document, in which no job has a part",
    "test_origins.py": "pages of other sites, before any handler",
    "test_parameters.py": "how queries and headers are parsed",
    "test_policy.py": "what a submission may ask for",
    "test_service.py": "the routes about the service",
    "test_tokens.py": "which tokens are valid, and for what",
    "test_strangers.py": "who listens and who may connect",
    "test_unhandled.py": "failures of handlers",
}
"""The modules whose tests cannot depend on the engine, and why."""


KINDS: Final = ["memory", "remote", "redis"]

FILES: Final = frozenset({"files", "previews", "projects", "ranges", "sessions"})
"""What is about files runs with a store for them, too."""

ON_DISK: Final = frozenset(
    {
        "test_old_events_go_to_disk_and_come_back_whole",
        "test_all_logs_together_stay_within_their_memory",
    }
)
"""What only the memory engine does: it moves events to disk, where Redis drops them."""


class Remote:
    """A plugin whose engine behaves like a remote one; services with one plugin share it."""

    def __init__(self, seed: int, nodes: int = 1) -> None:
        self._seeds = random.Random(seed)
        self._nodes = nodes
        self._server: Server | None = None

    @hookimpl
    def streamer_engine(self, config: Config) -> RemoteEngine | None:
        """Return the built-in engine behind a connection."""
        if self._server is None:
            shares = Shares.of(config, several_clients=config.auth.tells_apart)
            self._server = Server(memory_engine(config, shares), nodes=self._nodes)
        server = self._server
        if self._nodes == 1:
            self._server = None
        return RemoteEngine(server, Wire(self._seeds.randrange(10**6)))


class InRedis:
    """A plugin whose engines are in a server; services with one plugin share their jobs."""

    def __init__(self, url: str, **engine: str) -> None:
        """`engine` are other keys of that section."""
        self._engine = {"url": url, **engine}

    @hookimpl
    def streamer_engine(self, config: Config) -> Engine | None:
        """Return the built-in engine for the server's address."""
        shares = Shares.of(config, several_clients=config.auth.tells_apart)
        return redis_engine(replace(config, engine=replace(config.engine, **self._engine)), shares)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that starts a service once with each engine that it can be about."""
    own = metafunc.definition.get_closest_marker("memory_engine") is not None
    if "engine_plugins" in metafunc.fixturenames and not own:
        kinds = KINDS[:2] if metafunc.function.__name__ in ON_DISK else KINDS
        file = Path(metafunc.module.__file__ or "")
        if file.name in ONCE:
            kinds = KINDS[:1]
        elif file.stem.removeprefix("test_") in FILES:
            kinds = [*KINDS, "redis-folder"]
        metafunc.parametrize("engine_plugins", kinds, indirect=True)


@pytest.fixture
def engine_plugins(request: pytest.FixtureRequest) -> tuple[object, ...]:
    """Return the plugins that give a service the engine of the test."""
    kind = getattr(request, "param", "memory")
    if kind == "memory":
        return ()
    if kind.startswith("redis"):
        server: RedisServer = request.getfixturevalue("redis")
        folder = request.getfixturevalue("tmp_path") / "store"
        store = {"blobs_url": f"file://{folder}"} if kind == "redis-folder" else {}
        return (InRedis(server.url(), **store),)
    seed = random.randrange(10**6)
    print(f"the connection's seed: {seed}")  # noqa: T201 - shown with a failure
    return (Remote(seed),)
