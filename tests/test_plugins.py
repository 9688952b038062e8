"""Which plugins are loaded, which are refused at the start, and whether the message helps."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import streamer
from streamer.errors import PluginError
from streamer.spi import Backend


class Unmarked:
    def streamer_authorize(self, request: object, action: str, job: object) -> bool:
        return False


class Marked:
    @streamer.hookimpl
    def streamer_authorize(self, request: object, action: str, job: object) -> bool:
        return False


class Misspelt:
    @streamer.hookimpl
    def streamer_authorise(self, request: object) -> bool:
        return False


class MisspeltAndUnmarked:
    def streamer_authorise(self, request: object) -> bool:
        return False


class Asynchronous:
    @streamer.hookimpl
    async def streamer_authorize(self, request: object, action: str, job: object) -> bool:
        return False


class RenamedAsynchronous:
    @streamer.hookimpl(specname="streamer_authorize")
    async def who(self, request: object, action: str, job: object) -> bool:
        return False


class WrongArguments:
    @streamer.hookimpl
    def streamer_authorize(self, request: object, user: str) -> bool:
        return False


class OneOfTwo(Marked):
    def streamer_job_finished(self, job: object) -> None:
        """Be forgotten."""


def module(**contents: Any) -> ModuleType:
    made = ModuleType("their_plugin")
    made.__dict__.update(contents)
    return made


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        (Unmarked(), r"streamer_authorize is not decorated: add @streamer\.hookimpl"),
        (OneOfTwo(), r"streamer_job_finished is not decorated: add @streamer\.hookimpl"),
        (MisspeltAndUnmarked(), r"streamer_authorise is not decorated"),
        (SimpleNamespace(streamer_authorize=lambda: False), r"is not decorated"),
        (module(streamer_backends=list), r"their_plugin.* has no hook"),
        (
            module(streamer_backends=lambda: [int]),
            r"their_plugin: streamer_backends is not decorated",
        ),
        (Marked, r"Marked is a class: pass an instance, Marked\(\)"),
        (Unmarked, r"Unmarked is a class: pass an instance"),
        (lambda: 1, r"has no hook: .*streamer_authorize, streamer_backends"),
        (object(), r"has no hook"),
        (None, r"has no hook"),
        ("streamer_backends", r"has no hook"),
        (module(), r"plugin their_plugin has no hook"),
        (Misspelt(), r"unknown hook streamer_authorise \(did you mean streamer_authorize\?\)"),
        (Asynchronous(), r"streamer_authorize is async; hooks are plain functions"),
        (RenamedAsynchronous(), r"who is async; hooks are plain functions"),
        (WrongArguments(), r"cannot be registered: .*user"),
    ],
)
def test_a_plugin_that_would_not_be_asked_is_refused(plugin: object, said: str) -> None:
    with pytest.raises(PluginError, match=rf"(?s){said}"):
        streamer.create_app(plugins=[plugin])


@pytest.mark.parametrize("plugins", ["their_plugin", Marked()])
def test_a_plugin_that_is_in_no_list_is_refused(plugins: Any) -> None:
    with pytest.raises(PluginError, match=r"^plugins = .*: pass a list"):
        streamer.create_app(plugins=plugins)


@pytest.mark.parametrize("returned", [Backend, 5, "Backend"])
def test_backends_that_are_no_list_are_refused(returned: Any) -> None:
    class Single:
        @streamer.hookimpl
        def streamer_backends(self) -> Any:
            return returned

    with pytest.raises(PluginError, match="return a list of classes"):
        streamer.create_app(plugins=[Single()])


def test_a_hook_may_be_a_function_of_another_name() -> None:
    class Renamed:
        streamer_version = "no hook, and no function"

        @streamer.hookimpl(specname="streamer_job_finished")
        def finished(self, job: object) -> None:
            """Hear of it."""

    streamer.create_app(plugins=[Renamed()])


def test_a_plugin_need_not_be_hashable() -> None:
    @streamer.hookimpl
    def streamer_backends() -> list[type[Backend]]:
        return []

    streamer.create_app(plugins=[SimpleNamespace(streamer_backends=streamer_backends)])


def test_the_same_plugin_twice_is_refused() -> None:
    plugin = Marked()
    with pytest.raises(PluginError, match="cannot be registered"):
        streamer.create_app(plugins=[plugin, plugin])
