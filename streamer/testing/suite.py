"""The base of both suites: an event loop, and a service that stays open between tests.

A backend's author derives a suite in a test module of pytest. Its tests are plain functions that
run on the suite's own event loop, so no plugin or mode of pytest is needed; pytest collects them
by their names, so this package need not import it.
"""

from __future__ import annotations

import asyncio
import unittest
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any, ClassVar, TypeVar

from streamer.errors import BackendUnavailable
from streamer.spi import Backend

__all__ = ["Suite"]

T = TypeVar("T")


class Suite:
    """One event loop and one open service for all tests of a class."""

    backend: ClassVar[type[Backend]]
    """The class under test."""
    options: ClassVar[Mapping[str, Any]] = {}
    """The backend's options, as in ``[sandbox.NAME]``."""
    config: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Further sections of the configuration."""
    required: ClassVar[bool] = True
    """Whether the tests fail if the backend does not work; otherwise they are skipped."""

    _runner: ClassVar[asyncio.Runner | None]
    _stack: ClassVar[AsyncExitStack]
    _reason: ClassVar[str]

    @classmethod
    def setup_class(cls) -> None:
        cls._runner = None
        cls._stack = AsyncExitStack()
        cls._reason = ""

    @classmethod
    def teardown_class(cls) -> None:
        if cls._runner is not None:
            try:
                cls._runner.run(cls._stack.aclose())
            finally:
                cls._runner.close()

    @classmethod
    async def start(cls) -> None:
        """Open what the tests need on `_stack`. Raises `BackendUnavailable`."""
        raise NotImplementedError

    @classmethod
    def wait(cls, awaited: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop of the class, with the service started."""
        if cls._runner is None and not cls._reason:
            cls._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
            try:
                cls._runner.run(cls.start())
            except BackendUnavailable as unavailable:
                cls._reason = unavailable.message
        if cls._reason:
            awaited.close()
            if cls.required:
                raise AssertionError(f"{cls.backend.name} does not work here: {cls._reason}")
            raise unittest.SkipTest(f"{cls.backend.name}: {cls._reason}")
        assert cls._runner is not None
        return cls._runner.run(awaited)
