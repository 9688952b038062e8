"""Languages that a group of routes brings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

import streamer
from streamer.compose import build
from streamer.errors import ConfigError


@dataclass(frozen=True)
class Options:
    word: str = "before"


class Group:
    """A plugin with one group, and these languages."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self._table = table

    @streamer.hookimpl
    def streamer_routes(self) -> list[streamer.RouteGroup]:
        def runtimes(options: Options) -> Mapping[str, Mapping[str, Any]]:
            return {"python@mine": {"run": ["python3", options.word], **self._table}}

        return [streamer.RouteGroup("mine", lambda _: (), Options, runtimes=runtimes)]


def test_a_group_that_is_switched_on_brings_its_languages() -> None:
    config = {"compat": {"enabled": ["mine"], "mine": {"word": "{entry}"}}}
    runtimes = build(config, [Group({})]).config.runtimes
    assert runtimes["python@mine"].run == ("python3", "{entry}")
    # It is a version of the language, and has what that has.
    assert runtimes["python@mine"].env == runtimes["python"].env
    assert "python@mine" not in build({}, [Group({})]).config.runtimes


def test_a_configured_language_takes_the_place_of_one() -> None:
    own = {"python@mine": {"run": ["python3", "-I", "{entry}"]}}
    config = {"compat": {"enabled": ["mine"]}, "runtimes": own}
    runtimes = build(config, [Group({})]).config.runtimes
    assert runtimes["python@mine"].run == ("python3", "-I", "{entry}")


def test_a_language_that_is_not_valid_stops_the_start() -> None:
    with pytest.raises(ConfigError, match=r"runtimes\.python@mine\.entry"):
        build({"compat": {"enabled": ["mine"]}}, [Group({"entry": 3})])


def test_a_version_command_that_is_given_is_kept() -> None:
    table = {"run": ["sh", "-c", "exec python3 $1"], "version": ["python3", "--version"]}
    config = {"runtimes": {"python@mine": table}}
    assert build(config).config.runtimes["python@mine"].version == ("python3", "--version")
