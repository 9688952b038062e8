"""Run the coroutine of a command."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click

__all__ = ["work"]

T = TypeVar("T")


def work(coroutine: Coroutine[Any, Any, T], *, quick: bool = False) -> T:
    """Run a coroutine; if `quick`, by uvloop if it is installed (the extra ``uvloop``)."""
    import asyncio

    run = asyncio.run
    if quick:
        with contextlib.suppress(ImportError):
            from uvloop import run
    on_work: Callable[[], object] = click.get_current_context().obj
    on_work()
    return run(coroutine)
