"""An event loop in a thread of its own, in which blocking callers let coroutines run.

So the asynchronous client also serves plain scripts, threads, and notebooks, where an event loop
runs already in the caller's own thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from streamer.errors import StreamerError

__all__ = ["Portal"]

T = TypeVar("T")
Step = Callable[[], Awaitable[object]]

CLOSE_S: Final = 5.0
"""How long to wait for what was cancelled; then it is left behind."""
END: Final[Any] = object()


class Portal:
    """A thread with an event loop, started by the first call.

    In it `opened` is awaited before everything else, and `closed` after it. Any number of threads
    may call at once. It ends by `close`, when nothing refers to it any more, or with the
    interpreter; after that calls raise `StreamerError`.
    """

    def __init__(self, opened: Step, closed: Step) -> None:
        self._steps = opened, closed
        self._lock = threading.Lock()
        self._loop: _Loop | None = None
        self._over = False
        self._end: Callable[[], object] = _nothing
        self._process = os.getpid()

    def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine to its end, and return its result.

        If the caller is interrupted (Ctrl-C), the coroutine is cancelled, and its end awaited.
        """
        running = self._running()
        done: Future[T] = Future()
        tasks: list[asyncio.Task[T]] = []

        def start() -> None:
            tasks.append(running.loop.create_task(work()))
            tasks[0].add_done_callback(lambda task: _tell(task, done))

        running.awaited.add(done)
        try:
            running.loop.call_soon_threadsafe(start)
        except RuntimeError:
            raise _closed() from None
        finally:
            # The loop of a client that is closed just now may never start it.
            done.add_done_callback(running.awaited.discard)
        try:
            return done.result()
        except BaseException:
            if not done.done():
                running.loop.call_soon_threadsafe(_cancel, tasks)
                with contextlib.suppress(TimeoutError):
                    done.exception(CLOSE_S)
            raise

    def iterate(self, make: Callable[[], AsyncGenerator[T, None]]) -> Generator[T, None, None]:
        """Yield what an asynchronous generator yields; it is closed together with this one."""
        source = make()

        async def following() -> T:
            return await anext(source, END)

        try:
            while (item := self.call(following)) is not END:
                yield item
        finally:
            self.finish(source.aclose)

    def finish(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run what closes something; if all has been closed already, nothing is left to do."""
        running = self._loop
        if running is None or self._process != os.getpid():
            return
        if running.thread is threading.current_thread():  # the garbage collector was there
            running.left.add(task := running.loop.create_task(work()))
            task.add_done_callback(running.left.discard)
            return
        with contextlib.suppress(StreamerError):
            self.call(work)

    def close(self) -> None:
        """End all that runs, and the thread, if it was started."""
        with self._lock:
            self._over, self._loop = True, None
        self._end()

    def _running(self) -> _Loop:
        if self._process != os.getpid():
            raise StreamerError(
                "this client was made before the process forked: make a SyncClient in each process"
            )
        with self._lock:
            if self._over:
                raise StreamerError("the client is closed: make a new one")
            if self._loop is None:
                self._loop = _started(*self._steps)
                self._end = weakref.finalize(self, _end, self._loop, os.getpid())
            running = self._loop
        if running.thread is threading.current_thread():
            raise StreamerError("a SyncClient cannot be called from its own event loop")
        return running


@dataclass(frozen=True, slots=True)
class _Loop:
    """A loop that runs in a thread until `stop` is set.

    `awaited` is what callers wait for, and `left` are tasks for which nobody does.
    """

    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    stop: asyncio.Event
    awaited: set[Future[Any]]
    left: set[asyncio.Task[None]]


def _nothing() -> None:
    pass


def _started(opened: Step, closed: Step) -> _Loop:
    begun: Future[_Loop] = Future()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        stop = asyncio.Event()
        try:
            await opened()
        except BaseException as error:  # noqa: BLE001 - it is raised where the thread was started
            begun.set_exception(error)
            return
        begun.set_result(_Loop(loop, threading.current_thread(), stop, set(), set()))
        await stop.wait()
        # First what is in use, then what it uses.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=CLOSE_S)
        await loop.shutdown_asyncgens()
        await closed()

    def run() -> None:
        # Not asyncio.run: it starts a thread to end those that look up hosts, which an interpreter
        # that ends refuses.
        try:
            loop.run_until_complete(serve())
        finally:
            loop.close()  # from here on nothing can be submitted
            if begun.exception() is None:
                for done in tuple(begun.result().awaited):
                    with contextlib.suppress(InvalidStateError):
                        done.set_exception(_closed())

    threading.Thread(target=run, name="streamer-client", daemon=True).start()
    return begun.result()


def _end(running: _Loop, process: int) -> None:
    if process != os.getpid():
        return
    with contextlib.suppress(RuntimeError):  # it is closed already
        running.loop.call_soon_threadsafe(running.stop.set)
    if running.thread is not threading.current_thread():
        running.thread.join(2 * CLOSE_S)


def _cancel(tasks: list[asyncio.Task[T]]) -> None:
    for task in tasks:
        task.cancel()


def _tell(task: asyncio.Task[T], done: Future[T]) -> None:
    if task.cancelled():
        done.set_exception(_closed())
    elif (error := task.exception()) is not None:
        done.set_exception(error)
    else:
        done.set_result(task.result())


def _closed() -> StreamerError:
    return StreamerError("the client was closed while this call was going on")
