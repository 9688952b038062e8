"""The document of a job is consistent, whatever happens while it is put together."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.conftest import Start
from tests.support import AnyClient, follow, parts_of, received, submit
from tests.web import python, until_output

TWO_LINES = "print('first', flush=True)\ninput()\nprint('last')"


class Interruption:
    """Ends a job just before the `countdown`th call of the engine."""

    def __init__(self, client: AnyClient, job_id: str, countdown: int) -> None:
        self._client = client
        self._job_id = job_id
        self.countdown = countdown

    def before(self, asked: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method of the engine that is interrupted; it may open something as well."""

        async def ask(*arguments: Any, **options: Any) -> Any:
            await self._count(arguments)
            return await asked(*arguments, **options)

        @asynccontextmanager
        async def open_it(*arguments: Any, **options: Any) -> AsyncIterator[Any]:
            await self._count(arguments)
            async with asked(*arguments, **options) as opened:
                yield opened

        return ask if inspect.iscoroutinefunction(asked) else open_it

    async def _count(self, arguments: tuple[Any, ...]) -> None:
        if self._job_id not in arguments:
            return
        self.countdown -= 1
        if self.countdown != 0:
            return
        async with self._client.post(f"/api/jobs/{self._job_id}/stdin?close=1", data=b"\n"):
            pass
        await follow(self._client, self._job_id)


def _asks(member: object) -> bool:
    """Tell whether an attribute is a coroutine method, or returns a context manager."""
    return inspect.iscoroutinefunction(member) or getattr(member, "__name__", "") == "follow"


async def test_a_result_comes_with_all_of_the_text_whenever_the_job_ends(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await start()
    engine = parts_of(client).engine
    methods = inspect.getmembers(engine, _asks)
    told: list[bool] = []
    for countdown in itertools.count(1):
        job_id = await submit(client, **python(TWO_LINES, interactive=True))
        async with client.get(f"/api/stream/{job_id}") as response:
            await until_output(received(response), "first\n")
        interruption = Interruption(client, job_id, countdown)
        with monkeypatch.context() as patch:
            for name, method in methods:
                patch.setattr(engine, name, interruption.before(method))
            async with client.get(f"/api/jobs/{job_id}") as response:
                document = await response.json()
        if interruption.countdown > 0:
            break  # there are fewer calls of the engine
        over = "result" in document
        text = document["result"] if over else document
        assert text["stdout"] in (("first\nlast\n",) if over else ("first\n", "first\nlast\n"))
        told.append(over)
    assert told[0], "it was over before anything was asked"
    assert not told[-1], "it was over after its state was known"
