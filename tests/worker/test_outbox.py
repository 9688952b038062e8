"""Events on their way to an engine that takes its time, or fails."""

from __future__ import annotations

import asyncio

import pytest

from streamer.worker.outbox import PENDING_BYTES, Batch, Outbox


class Slow:
    """An engine that answers when it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[str, bytes]]] = []
        self.answer = asyncio.Event()
        self.failure: Exception | None = None
        self.failures = 0
        self.outbox = Outbox(self.send, self.fail)

    async def send(self, batch: Batch) -> None:
        self.batches.append(list(batch))
        await self.answer.wait()
        if self.failure is not None:
            raise self.failure

    def fail(self) -> None:
        self.failures += 1


def event(text: str, size: int = 1) -> tuple[str, bytes]:
    return ("output", text.encode() * size)


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_comes_meanwhile_is_sent_together_and_in_order() -> None:
    engine = Slow()
    for text in "abc":
        await engine.outbox.put([event(text)])
        await turns()
    assert engine.batches == [[event("a")]], "one call at a time"
    engine.answer.set()
    await engine.outbox.flush()
    assert engine.batches == [[event("a")], [event("b"), event("c")]]
    await engine.outbox.put([event("d")])
    await engine.outbox.flush()
    assert engine.batches[2:] == [[event("d")]]
    await engine.outbox.close()


async def test_with_too_much_unanswered_nothing_more_is_taken() -> None:
    engine = Slow()
    await engine.outbox.put([event("a", PENDING_BYTES // 2)])
    putting = asyncio.create_task(engine.outbox.put([event("b", PENDING_BYTES // 2)]))
    await turns()
    assert not putting.done()
    engine.answer.set()
    await asyncio.wait_for(putting, 30)
    await engine.outbox.flush()
    assert engine.outbox._bytes == 0
    await engine.outbox.close()


@pytest.mark.parametrize("waiting", [False, True])
async def test_a_failure_is_told_at_once_and_raised_by_every_further_call(*, waiting: bool) -> None:
    engine = Slow()
    engine.failure = RuntimeError("the engine is broken")
    await engine.outbox.put([event("a")])
    if waiting:
        putting = asyncio.create_task(engine.outbox.put([event("b", PENDING_BYTES)]))
        await turns()
    engine.answer.set()
    await turns()
    assert engine.failures == 1
    if waiting:
        with pytest.raises(RuntimeError, match="broken"):
            await asyncio.wait_for(putting, 30)
    for call in (engine.outbox.flush(), engine.outbox.put([event("c")]), engine.outbox.flush()):
        with pytest.raises(RuntimeError, match="broken"):
            await call
    await engine.outbox.close()
    assert engine.batches == [[event("a")]], "nothing follows what was not accepted"


async def test_what_is_given_up_is_not_sent() -> None:
    engine = Slow()
    for text in "ab":
        await engine.outbox.put([event(text)])
        await turns()
    await engine.outbox.close()
    engine.answer.set()
    await turns()
    assert engine.batches == [[event("a")]]
    assert engine.failures == 0


async def test_what_need_not_wait_keeps_its_place_behind_what_waits() -> None:
    class Prompt(Slow):
        """It appends at once while it has room."""

        def __init__(self) -> None:
            super().__init__()
            self.room = True
            self.outbox = Outbox(self.send, self.fail, self.send_now)

        def send_now(self, batch: Batch) -> bool:
            if self.room:
                self.batches.append(list(batch))
            return self.room

    engine = Prompt()
    assert engine.outbox.put_now([event("a")])
    assert engine.batches == [[event("a")]]
    engine.room = False
    assert engine.outbox.put_now([event("b")])
    await turns()
    engine.room = True
    assert engine.outbox.put_now([event("c")])
    assert not engine.outbox.put_now([event("d", PENDING_BYTES)]), "it would have to wait"
    assert engine.batches == [[event("a")], [event("b")]]
    putting = asyncio.create_task(engine.outbox.put([event("d", PENDING_BYTES)]))
    await turns()
    assert not putting.done()
    engine.answer.set()
    await asyncio.wait_for(putting, 30)
    await engine.outbox.flush()
    assert engine.outbox.put_now([event("e")])
    assert "".join(data[:1].decode() for batch in engine.batches for _, data in batch) == "abcde"
    engine.room = False
    engine.failure = RuntimeError("the engine is broken")
    assert engine.outbox.put_now([event("f")])
    await turns()
    with pytest.raises(RuntimeError, match="broken"):
        engine.outbox.put_now([event("g")])
    await engine.outbox.close()
