"""Fixtures for all tests: which backends must work here, and a real service."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import settings
from msgspec.structs import replace

import streamer
from streamer.compose import Parts, build
from streamer.config.schema import Config
from streamer.model.runtime import Runtime
from tests.browser.chromium import Browser, chromium
from tests.redisserver import RedisServer, redis_server
from tests.running import reap_adopted
from tests.s3server import S3Server, s3_server
from tests.thorough import is_thorough
from tests.tools import tool

# By default an example that takes 0.2 s fails, as on a busy machine any may.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

BACKENDS = ("plain", "bwrap", "firejail")
ISOLATING = ("bwrap", "firejail")

Start = Callable[..., Awaitable[TestClient[Any, Any]]]
OpenService = Callable[..., Awaitable[Parts]]


SLOW: Final = (
    "tests/backends/",
    "tests/browser/",
    "tests/cli/",
    "tests/compat/test_jobe.py",
    "tests/compat/test_sandboxfusion.py",
    "tests/contract/test_http.py",
    "tests/contract/test_names.py",
    "tests/contract/test_promises.py",
    "tests/docs/test_host.py",
    "tests/docs/test_snippets.py",
    "tests/environments/test_build.py",
    "tests/environments/test_docs.py",
    "tests/escape/",
    "tests/engine/test_weight.py",
    "tests/web/test_access.py",
    "tests/web/test_again.py",
    "tests/web/test_fields.py",
    "tests/web/test_grants.py",
    "tests/web/test_many.py",
    "tests/web/test_nodes.py",
    "tests/web/test_origins.py",
    "tests/web/test_parameters.py",
    "tests/web/test_retention.py",
    "tests/web/test_strangers.py",
    "tests/interop/",
    "tests/mcp/",
    "tests/public/",
    "tests/sse/",
    "tests/sandbox/test_cgroups.py",
    "tests/sandbox/test_group_slots.py",
    "tests/sandbox/test_held_init.py",
    "tests/sandbox/test_held_pool.py",
    "tests/sandbox/test_seccomp.py",
    "tests/sandbox/test_template_faults.py",
    "tests/sandbox/test_template_life.py",
    "tests/sandbox/test_trials.py",
    "tests/sandbox/test_unanswered.py",
    "tests/doctor/test_report.py",
    "tests/supervisor/test_several.py",
    "tests/test_installed.py",
    "tests/test_leases.py",
    "tests/test_linear.py",
    "tests/test_load.py",
    "tests/test_log_secrecy.py",
    "tests/test_neighbours.py",
    "tests/test_process.py",
    "tests/test_roles.py",
    "tests/worker/test_bounds.py",
    "tests/worker/test_kept_bounds.py",
    "tests/worker/test_warm.py",
)
"""Files and folders that take long as a whole, though none of their tests does."""

COLLECTED: Final = pytest.StashKey[frozenset[str]]()
"""All tests that were collected, before any is deselected."""

FULLY: Final = ("tests/backends/test_conformance.py", "tests/contract/", "tests/engine/")
"""Where `make test` tries firejail and all engines too. Elsewhere bwrap and memory stand for them."""

IN_REDIS: Final = tuple(
    f"tests/web/test_{name}.py" for name in ("nodes", "repeats", "resume", "stream", "webhooks")
)
"""What else `make test` tries in Redis: what its engine does with the HTTP interface."""

ISOLATION: Final = re.compile(r"tests/(backends|escape|public|sandbox|worker|test_neighbours\.py)")
"""Thorough tests whose outcome may depend on whether the service runs as root, so CI runs them as both."""

OTHERS: Final = frozenset({"firejail", "plain", "templated", "remote", "redis", "no_groups"})
"""With these the same is tested as with bwrap, the memory engine and what groups the host has."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import what `make test-fast` leaves out as a whole: that takes as long as it runs."""
    if config.option.markexpr == "not slow":
        name = str(collection_path).removeprefix(f"{config.rootpath}/")
        return True if f"{name}/" in SLOW or name.startswith(SLOW) else None
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests as slow, thorough, and such that must run one after another."""
    config.stash[COLLECTED] = frozenset(item.nodeid for item in items)
    for item in items:
        if "doctor" in item.nodeid:
            # It plants files and processes on the host, and one test looks whether any is left.
            item.add_marker(pytest.mark.one_at_a_time("doctor"))
        callspec = getattr(item, "callspec", None)
        of = "" if callspec is None else callspec.id.replace("no-groups", "no_groups")
        with_other = OTHERS & {*of.split("-")}
        fully = (*FULLY, *IN_REDIS) if "redis" in with_other else FULLY
        elsewhere = with_other & {"firejail", "remote", "redis"} and not item.nodeid.startswith(
            fully
        )
        if elsewhere or is_thorough(item.nodeid):
            item.add_marker(pytest.mark.thorough)
            item.add_marker(pytest.mark.slow)
            if not with_other & {"remote", "redis"} and ISOLATION.match(item.nodeid):
                item.add_marker(pytest.mark.isolation)
        if with_other or item.path.relative_to(config.rootpath).as_posix().startswith(SLOW):
            item.add_marker(pytest.mark.slow)


def required_backends() -> frozenset[str]:
    """Return the backends whose absence fails here instead of skipping."""
    return frozenset(filter(None, os.environ.get("STREAMER_REQUIRE_BACKENDS", "").split(",")))


@pytest.fixture(autouse=True)
def one_at_a_time(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let a test that is marked so wait for others with the same name, in whatever process.

    The groups of pytest-xdist 3.8 have no effect in pytest 9.2, which does not use `_nodeid`.
    """
    marker = request.node.get_closest_marker("one_at_a_time")
    if marker is None:
        yield
        return
    path = Path(tempfile.gettempdir(), f"streamer-tests-{os.getuid()}-{marker.args[0]}")
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(autouse=True)
def reaped() -> Iterator[None]:
    """Reap dead processes that a test has adopted: they would count as a later job's."""
    yield
    reap_adopted()


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """Restore the log level, which a command that is called in this process may change."""
    logger = logging.getLogger("streamer")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(scope="session")
def backend_reasons() -> Mapping[str, str]:
    """Test every backend once, and return why each cannot be used, or ``""``."""

    async def attempt() -> Mapping[str, str]:
        service = build()
        async with service.worker.trial() as backends:
            reasons = await backends.reasons()
        await service.engine.close()
        return reasons

    return asyncio.run(attempt())


@pytest.fixture(scope="session")
def need(backend_reasons: Mapping[str, str]) -> Callable[[str], str]:
    """Return a function that skips the test, or fails it, where a backend does not work."""

    def check(name: str) -> str:
        reason = backend_reasons[name]
        if reason and name in required_backends():
            pytest.fail(f"{name} is required here (STREAMER_REQUIRE_BACKENDS): {reason}")
        if reason:
            pytest.skip(f"{name}: {reason}")
        return name

    return check


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, need: Callable[[str], str]) -> str:
    """Return each backend that works here, in turn."""
    return need(request.param)


@pytest.fixture(params=ISOLATING)
def isolating_backend(request: pytest.FixtureRequest, need: Callable[[str], str]) -> str:
    """Return each backend that promises isolation, in turn."""
    return need(request.param)


@pytest.fixture
def engine_plugins() -> tuple[object, ...]:
    """Return the plugins with the engine of a service: none, for the memory engine."""
    return ()


@pytest.fixture
async def start(engine_plugins: tuple[object, ...]) -> AsyncIterator[Start]:
    """Return a function that starts a service on a real socket and returns a client of it.

    Its arguments are sections of the configuration; commands are allowed, since tests say
    what runs.
    """
    async with AsyncExitStack() as stack:

        async def start_service(
            *, plugins: tuple[object, ...] = (), **sections: Mapping[str, Any]
        ) -> TestClient[Any, Any]:
            sandbox = {"backend": "bwrap", "allow_command": True, **sections.pop("sandbox", {})}
            streams = {"grace_s": 0.05, **sections.pop("streams", {})}
            # Do not wait at the end of a test for jobs that it left running.
            server = {"drain_s": 0, **sections.pop("server", {})}
            config = {"sandbox": sandbox, "streams": streams, "server": server, **sections}
            app = streamer.create_app(config, plugins=(*engine_plugins, *plugins))
            # It cancels the handlers of clients that leave, as `streamer serve` does.
            listening = TestServer(app)
            client = TestClient(listening)
            await listening.start_server()
            stack.push_async_callback(client.close)
            return client

        yield start_service


@pytest.fixture
async def open_service() -> AsyncIterator[OpenService]:
    """Return a function that starts a service without HTTP, of one backend.

    Its other arguments are languages of the test's own and sections of the configuration.
    """
    async with AsyncExitStack() as stack:

        async def open_one(
            backend: str,
            *,
            plugins: tuple[object, ...] = (),
            runtimes: tuple[Runtime, ...] = (),
            **sections: Mapping[str, Any],
        ) -> Parts:
            sandbox = {
                "backend": backend,
                "allow_command": True,
                # What waits for a job would look like what one has left.
                "warm": False,
                **sections.pop("sandbox", {}),
            }
            config = Config.from_mapping({"sandbox": sandbox, **sections})
            languages = {**config.runtimes, **{runtime.name: runtime for runtime in runtimes}}
            service = build(replace(config, runtimes=languages), plugins)
            return await stack.enter_async_context(service)

        yield open_one


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """Run one Redis server for the tests of a module; each engine has keys of its own.

    Not for all: it is a child of this process, and tests of other modules count those.
    """
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module", name="s3_server")
def one_s3_server() -> Iterator[S3Server]:
    """Run one server of S3 for the tests of a module; each has a part of its bucket."""
    with s3_server() as server:
        yield server


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder that the users of jobs can reach, with a short path for sockets."""
    # Not one of pytest's: the path of a socket has at most 107 bytes (unix(7)).
    with tempfile.TemporaryDirectory(prefix="streamer-place-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture(scope="module")
def chromium_address() -> Iterator[str]:
    """Run one Chromium for a module's tests; each page of a test is as another person's browser.

    Not for longer: it starts processes as it likes, and other tests look for any that are left.
    """
    executable = tool("chromium")
    # Its helpers may still write there while they end.
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        chromium(executable, Path(profile)) as address,
    ):
        yield address


@pytest.fixture
async def browser(chromium_address: str) -> AsyncIterator[Browser]:
    """Return Chromium; what the test opens in it is closed afterwards."""
    async with Browser.connect(chromium_address) as connected:
        yield connected
