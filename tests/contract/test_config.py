"""Compare the table of configuration keys with the real default configuration."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import streamer
from streamer.compose import build
from streamer.config.load import effective
from streamer.config.schema import Config, TenantConfig
from streamer.errors import ConfigError
from streamer.web.app import SERVICE
from tests.contract import ADDED, KEPT, differences, table_config

KEYS = {key: mark for key, (mark, _) in table_config.KEYS.items()}


def in_force() -> dict[str, Any]:
    """Return the default configuration, key by key, without the languages."""
    values = effective(Config.from_mapping({}))
    return {key: value for key, value in values.items() if not key.startswith("runtimes.")}


def test_sections() -> None:
    assert differences(table_config.SECTIONS, Config.__struct_fields__) == []
    for section, mark in table_config.SECTIONS.items():
        if mark in (KEPT, ADDED):
            Config.from_mapping({section: {}})
        else:
            with pytest.raises(ConfigError, match=section):
                Config.from_mapping({section: {}})


def test_keys() -> None:
    assert differences(KEYS, in_force()) == []


def test_defaults_that_others_build_on() -> None:
    values = in_force()
    wrong = {
        key: values[key]
        for key, (mark, default) in table_config.KEYS.items()
        if mark in (KEPT, ADDED)
        and default is not table_config.ANY
        and (values[key] != default or type(values[key]) is not type(default))
    }
    assert wrong == {}


def test_a_key_that_is_not_built_yet_stops_the_start() -> None:
    for key in (key for key, mark in KEYS.items() if mark not in (KEPT, ADDED)):
        section, *parents, name = key.split(".")
        tree: dict[str, Any] = {name: 1}
        for parent in reversed(parents):
            tree = {parent: tree}
        with pytest.raises(ConfigError, match=name):
            Config.from_mapping({section: tree})


def test_keys_of_a_language() -> None:
    runtime = {"run": ["x", "{entry}"], "entry": "main.x"}
    values = effective(
        Config.from_mapping(
            {
                "runtimes": {
                    "x": {
                        **runtime,
                        "env": {"A": "b"},
                        "files": {"b": "c"},
                        "limits": {"processes": 70},
                    }
                }
            }
        )
    )
    found = {key.split(".")[2] for key in values if key.startswith("runtimes.x.")}
    assert differences(table_config.RUNTIME_KEYS, found) == []


def test_keys_of_an_environment() -> None:
    table = {"languages": ["python"], "variables": {"A": "b"}}
    values = effective(Config.from_mapping({"environments": {"x": table}}))
    found = {key.split(".")[2] for key in values if key.startswith("environments.x.")}
    assert differences(table_config.ENVIRONMENT_KEYS, found) == []


def test_keys_of_a_tenant() -> None:
    found = TenantConfig.__struct_fields__
    assert differences(table_config.TENANT_KEYS, found) == []
    table = {key: 1 for key in table_config.TENANT_KEYS if key != "rate"}
    values = effective(Config.from_mapping({"auth": {"tenants": {"a b": table}}}))
    assert {key for key in values if "tenants" in key} == {
        f"auth.tenants.a b.{key}" for key in table
    }


@pytest.mark.parametrize("backend", table_config.BACKEND_TABLES)
def test_a_backend_has_a_table_of_options(backend: str) -> None:
    with pytest.raises(ConfigError, match=rf"sandbox\.{backend}.*nonsense"):
        streamer.create_app({"sandbox": {backend: {"nonsense": 1}}})
    assert backend in build({"sandbox": {backend: {}}}).worker.backends


def test_the_engine_of_a_url() -> None:
    assert SERVICE in streamer.create_app({"engine": {"url": "memory://"}})
    for scheme in ("redis", "rediss"):
        assert SERVICE in streamer.create_app({"engine": {"url": f"{scheme}://example.org"}})
    with pytest.raises(ConfigError, match="no plugin serves other://"):
        streamer.create_app({"engine": {"url": "other://localhost"}})


@pytest.mark.parametrize("package", ["redis", "hiredis"])
def test_an_engine_without_its_packages(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in [name for name in sys.modules if f".{name}".startswith(f".{package}")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith("streamer.engine.redis.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ConfigError, match=rf'{package} is not .*pip install "aiohttp-streamer\[redis'
    ):
        streamer.create_app({"engine": {"url": "redis://example.org"}})


def test_concurrency_is_twice_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(7)))
    assert build().worker.places == 14


def test_what_is_stronger(tmp_path: Any) -> None:
    """Built-in < file < profile < environment < command line."""
    file = tmp_path / "config.toml"
    file.write_text("[server]\nport = 1001\n[profiles.p.server]\nport = 1002\n")
    environ = {"STREAMER_SERVER__PORT": "1003"}
    over = ["server.port=1004"]
    load = streamer.load_config
    none: dict[str, str] = {}
    ports = [
        load(None, environ=none),
        load(file, environ=none),
        load(file, environ=none, profile="p"),
        load(file, environ=environ, profile="p"),
        load(file, environ=environ, profile="p", overrides=over),
    ]
    assert [config.server.port for config in ports] == [8080, 1001, 1002, 1003, 1004]
