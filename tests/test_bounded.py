"""A wait has an end, whatever the awaited coroutine does."""

from __future__ import annotations

import asyncio

import pytest

from streamer import bounded
from streamer.bounded import ends_in, within
from tests.support import in_cancelled_task


class Stubborn:
    """A coroutine that goes on when it is cancelled, until it is told to end."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.told = asyncio.Event()
        self.ended = asyncio.Event()

    async def run(self) -> None:
        try:
            while not self.told.is_set():
                try:
                    await self.told.wait()
                except asyncio.CancelledError:
                    self.cancelled += 1
            raise RuntimeError("too late")
        finally:
            self.ended.set()


@pytest.mark.parametrize("cancelled", [False, True], ids=["running", "in-a-cancelled-task"])
async def test_who_does_not_end_when_cancelled_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, cancelled: bool
) -> None:
    unseen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    monkeypatch.setattr(bounded, "UNWIND_S", 0.01)
    stubborn = Stubborn()

    async def wait() -> bool:
        return await ends_in(0.01, stubborn.run())

    ended = asyncio.wait_for(in_cancelled_task(wait) if cancelled else wait(), 20)
    assert not await ended
    assert "this was cancelled and goes on" in caplog.text
    assert stubborn.cancelled == 1
    assert len(bounded._left) == 1, "or it could be collected"
    stubborn.told.set()
    await asyncio.wait_for(stubborn.ended.wait(), 20)
    await asyncio.sleep(0)
    assert not bounded._left
    assert unseen == []


async def test_the_clean_up_of_what_was_cancelled_is_waited_for() -> None:
    over = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(3):
                await asyncio.sleep(0)
            over.append(True)

    with pytest.raises(TimeoutError, match=r"no end within 0\.01 s"):
        await within(0.01, work())
    assert over == [True]
    waiting = asyncio.create_task(within(600, work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert over == [True, True]


async def test_a_result_and_an_exception_are_passed_on() -> None:
    async def fail() -> None:
        raise TimeoutError("its own")

    async def answer() -> int:
        return 3

    assert await within(20, answer()) == 3
    with pytest.raises(TimeoutError, match="its own"):
        await within(20, fail())
