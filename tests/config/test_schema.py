"""The configuration: one strict tree, and messages that name place, key and remedy."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamer
from streamer.config.load import effective, load_config
from streamer.config.schema import (
    OF_PLUGINS,
    AuthConfig,
    Config,
    EngineConfig,
    ServerConfig,
    TokenConfig,
    is_loopback,
    without_password,
)
from streamer.config.tree import leaves, merge
from streamer.errors import ConfigError
from streamer.model.job import MOST, Limits
from streamer.model.runtime import Runtime
from streamer.plugins import load_backends, load_plugins

DOCUMENT = Path(__file__).parents[2] / "config.toml"
DIGEST = "0d1ee1fb8dcee1b5a1eb2a66f1cb58a14d2fd9ee7e6fdc6a5bd7f6d4fd3d2e5b"


def refusal(tree: Mapping[str, Any]) -> str:
    with pytest.raises(ConfigError) as refused:
        Config.from_mapping(tree)
    return refused.value.message


# -- the documented defaults -----------------------------------------------------------


def test_the_document_says_the_defaults() -> None:
    documented = load_config(DOCUMENT, environ={})
    options = documented.sandbox.options
    plain = msgspec.structs.replace(documented.sandbox, options={})
    assert msgspec.structs.replace(documented, sandbox=plain) == Config()
    manager = load_plugins((), ())
    assert load_backends(manager, options) == load_backends(manager, {})


def test_the_document_has_every_key() -> None:
    documented = {key for key, _ in leaves(tomllib.loads(DOCUMENT.read_text()))}
    runtime = {key.name: key.default for key in fields(Runtime)}
    missing = [
        key
        for key, value in leaves(as_tree(Config()))
        # One runtime is shown completely, the others only with the keys that they set.
        if key not in documented
        and not (key[0] == "runtimes" and key[1] != "python" and value in (runtime[key[2]], {}))
    ]
    assert missing == []
    backends = load_backends(load_plugins((), ()), {})
    options = {
        ("sandbox", name, key) for name, backend in backends.items() for key in vars(backend)
    }
    assert options - documented == set()


def test_the_document_explains_every_key() -> None:
    lines = DOCUMENT.read_text().splitlines()
    shown_whole = lines[: lines.index("[runtimes.javascript]")]
    unexplained = [
        line
        for above, line in pairwise(shown_whole)
        if re.match(r"\w+ = ", line) and not above.startswith("# ")
    ]
    assert unexplained == []


def as_tree(config: Config) -> dict[str, Any]:
    tree: dict[str, Any] = msgspec.to_builtins(config)
    for section in OF_PLUGINS:
        del tree[section]["options"]
    for runtime in tree["runtimes"].values():
        del runtime["name"]
    return tree


def test_the_defaults_that_others_build_on() -> None:
    config = Config()
    assert (config.server.host, config.server.port) == ("127.0.0.1", 8080)
    assert config.sandbox.backend == "auto"
    assert not config.sandbox.allow_command
    assert (config.sandbox.network, config.sandbox.allow_hosts) == ("none", ())
    assert config.limits.default == Limits()
    assert config.limits.default.memory_bytes == 256 * 2**20
    assert (config.limits.max.wall_time_s, config.limits.max.memory_bytes) == (600, 2 * 2**30)
    assert config.queue.max_waiting == 1000
    assert (config.streams.heartbeat_s, config.streams.retention_s) == (30, 600)


def test_the_configuration_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Config().server.port = 1  # type: ignore[misc]


# -- values ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("server", "port", 65536),
        ("server", "port", 80.0),
        ("server", "port", True),
        ("server", "host", ""),
        ("server", "max_body_bytes", 0),
        ("server", "body_timeout_s", 0),
        ("server", "drain_s", -1),
        ("server", "allowed_origins", "https://example.org"),
        ("server", "allowed_origins", ["https://example.org/"]),
        ("server", "allowed_origins", ["example.org"]),
        ("server", "allowed_origins", ["https://"]),
        ("server", "allowed_origins", ["https://["]),
        ("server", "allowed_origins", ["https://Example.org"]),
        ("server", "frame_ancestors", "https://example.org"),
        ("server", "frame_ancestors", ["https://example.org/page"]),
        ("server", "frame_ancestors", ["https://example.org; script-src *"]),
        ("server", "frame_ancestors", ["'self'"]),
        ("sandbox", "backend", ""),
        ("sandbox", "allow_command", "yes"),
        ("sandbox", "uid_base", 0),
        ("sandbox", "cgroup", "user.slice"),
        ("sandbox", "cpu_weight", 0),
        ("sandbox", "cpu_weight", 10_001),
        ("sandbox", "path", "/usr/bin:"),
        ("sandbox", "path", "/usr/bin:bin"),
        ("queue", "concurrency", -1),
        ("queue", "max_waiting", 0),
        ("streams", "heartbeat_s", 0),
        ("streams", "heartbeat_s", -math.inf),
        ("streams", "retention_bytes", 2**70),
        ("streams", "on_output_limit", "drop"),
        ("engine", "url", "memory"),
        ("metrics", "enabled", 1),
        ("logging", "level", "INFO"),
        ("logging", "format", 1),
        ("plugins", "disabled", [""]),
    ],
)
def test_a_value_out_of_range_is_refused(section: str, key: str, value: object) -> None:
    assert re.match(rf"{section}\.{key}(\[0\])?: ", refusal({section: {key: value}}))


@pytest.mark.parametrize("which", ["default", "max"])
@pytest.mark.parametrize("limit", [key.name for key in fields(Limits)])
def test_no_limit_is_zero_negative_or_not_a_number(which: str, limit: str) -> None:
    for value in (0, -1, "x", "0", None, True, math.nan, math.inf):
        assert refusal({"limits": {which: {limit: value}}}).startswith(f"limits.{which}.{limit}: ")


@pytest.mark.parametrize("which", ["default", "max"])
@pytest.mark.parametrize("limit", [key.name for key in fields(Limits)])
def test_no_limit_is_larger_than_can_be_set(which: str, limit: str) -> None:
    most = getattr(MOST, limit)
    both = {"default": {limit: most}, "max": {limit: most}}
    Config.from_mapping({"limits": both})
    message = refusal({"limits": {**both, which: {limit: most + 1}}})
    assert message == f"limits.{which}.{limit}: too large; {most:.0f} is the most"
    for value in (2**63, 2**64 + 1, 10**400, 10**5000):
        message = refusal({"limits": {**both, which: {limit: value}}})
        assert message.startswith(f"limits.{which}.{limit}: ")


@pytest.mark.parametrize("limit", [key.name for key in fields(Limits)])
def test_a_default_never_exceeds_its_maximum(limit: str) -> None:
    most = getattr(Config().limits.max, limit)
    Config.from_mapping({"limits": {"default": {limit: most}}})
    message = refusal({"limits": {"default": {limit: most + 1}}})
    assert message.startswith(f"limits: default.{limit} is {most + 1} and max.{limit} only {most};")


def test_origins_are_those_that_browsers_send() -> None:
    origins = ["*", "https://example.org", "http://localhost:8080", "http://[::1]:80", "app://x"]
    assert list(ServerConfig(allowed_origins=tuple(origins)).allowed_origins) == origins


def test_frames_are_allowed_to_origins() -> None:
    origins = ("self", "*", "https://example.org", "https://*.example.org", "http://[::1]:80")
    assert ServerConfig(frame_ancestors=origins).frame_ancestors == origins


def test_an_unknown_value_lists_the_known() -> None:
    assert refusal({"streams": {"on_output_limit": "drop"}}) == (
        "streams.on_output_limit: unknown value; known: kill, truncate"
    )


def test_what_python_gives_is_checked_too() -> None:
    assert ServerConfig(allowed_origins=["*"]).allowed_origins == ("*",)  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match=r"^ServerConfig\.port: expected a whole number <= 65535$"
    ):
        ServerConfig(port=65536)
    with pytest.raises(ConfigError, match=r"^Config\.server: contains unknown key prot$"):
        Config(server={"prot": 1})  # type: ignore[arg-type]


KEYS = st.sampled_from(
    ["server", "port", "limits", "default", "runtimes", "python", "sandbox", "bwrap", "x"]
)
VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, 1, 2**70, -1.5, math.nan, "", "1", [], [1], {}]
)
TREES = st.recursive(VALUES, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=8)


@given(st.dictionaries(KEYS, TREES, max_size=3))
def test_any_tree_is_a_configuration_or_a_refusal_by_key(tree: dict[str, Any]) -> None:
    try:
        config = Config.from_mapping(tree)
    except ConfigError as error:
        at_fault = error.message.partition(":")[0].partition(".")[0]
    else:
        at_fault = ""
        assert Config.from_mapping(restored(config)) == config
    assert at_fault in {"", *tree}


def restored(config: Config) -> dict[str, Any]:
    options = {name: getattr(config, name).options for name in OF_PLUGINS}
    return merge(as_tree(config), options)


# -- secrets ---------------------------------------------------------------------------

SECRETS = Config(
    engine=EngineConfig(url="other://user:hunter2@host/0?password=hunter2&x=1"),
    auth=AuthConfig(tokens=(TokenConfig(tenant="school", sha256=DIGEST),)),
)


def test_secrets_are_shown_nowhere() -> None:
    config = Config.from_mapping(
        {
            "engine": {"url": SECRETS.engine.url},
            "auth": {"tokens": [{"tenant": "school", "sha256": DIGEST}]},
            "sandbox": {"own": {"api_key": "hunter2", "level": 3}},
            "runtimes": {"python": {"env": {"PYPI_TOKEN": "hunter2"}}},
        }
    )
    shown = effective(config)
    for text in (repr(config), str(config), f"{config.auth} {config.engine}", str(shown)):
        assert "hunter2" not in text
        assert DIGEST not in text
    assert shown["auth.tokens"] == [{"tenant": "school", "sha256": "***"}]
    assert shown["engine.url"] == "other://user:***@host/0?password=***&x=1"
    assert shown["sandbox.own.level"] == 3
    assert shown["runtimes.python.env.PYTHONUNBUFFERED"] == "1"
    assert shown["server.body_timeout_s"] == 10


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory://", "memory://"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://user@host", "redis://user@host"),
        ("redis://:p@ss:w/rd@host/0", "redis://:***@host/0"),
        ("redis://host?db=1&SSL_PASSWORD=x", "redis://host?db=1&SSL_PASSWORD=***"),
    ],
)
def test_a_password_in_a_url_is_hidden(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_one_token_of_two_tenants_is_refused() -> None:
    tokens = [{"tenant": "a", "sha256": DIGEST}, {"tenant": "b", "sha256": DIGEST.upper()}]
    assert refusal({"auth": {"tokens": tokens}}).startswith(
        "auth.tokens: 'a' and 'b' have the same"
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "a.localhost"])
def test_what_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.org"])  # noqa: S104
def test_what_is_not(host: str) -> None:
    assert not is_loopback(host)


# -- on the command line ---------------------------------------------------------------


def test_the_command_shows_values_with_their_origins(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[server]\nport = 1\n")
    shown = streamer_config(tmp_path, "--show-origin", "--set", "queue.concurrency=3")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert "server.port = 1  # config.toml" in lines
    assert "queue.concurrency = 3  # command line" in lines
    assert 'logging.level = "debug"  # environment STREAMER_LOGGING__LEVEL' in lines
    assert 'server.host = "127.0.0.1"  # default' in lines


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[server]\nprot = 1\n")
    refused = streamer_config(tmp_path)
    assert refused.returncode == 2
    assert refused.stderr == (
        "streamer: config.toml: server.prot: unknown key; did you mean server.port?\n"
    )


def streamer_config(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if "STREAMER" not in name}
    package = str(Path(streamer.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, "-m", "streamer", "config", *options],
        cwd=folder,
        env={**environ, "PYTHONPATH": package, "STREAMER_LOGGING__LEVEL": "debug"},
        capture_output=True,
        text=True,
        check=False,
    )
