"""Attach to a job: bytes of its output come out, bytes go in, and its terminal has a size."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import aiohttp

from streamer.bounded import ends_in
from streamer.client.problem import not_a_service
from streamer.errors import StreamerError
from streamer.model.events import Complete, Error, Output
from streamer.model.typed import as_bytes

if TYPE_CHECKING:
    from streamer.client.client import Client

__all__ = ["Attached"]

CANCEL_S: Final = 5.0
"""How long leaving may take to cancel the job."""


class Attached:
    """A job with a terminal, or another interactive one, as a pair of byte streams.

    Returned by `Client.attach` and `Client.terminal`. Iterate over it for what the program writes,
    from its beginning, over lost connections, to the end of the job; write to it meanwhile. Of a
    job that has no terminal, standard output and standard error come as one. `job_id` is None until
    the job is submitted, and `end` until the output has ended.
    """

    def __init__(
        self,
        client: Client,
        job_id: str | None,
        submit: Callable[[], Awaitable[str]] | None = None,
        *,
        cancel_on_close: bool,
    ) -> None:
        self.job_id = job_id
        self.end: Complete | Error | None = None
        self._client = client
        self._submit = submit
        self._cancelling = cancel_on_close
        # Where the next input begins; unknown where others may have sent some before.
        self._sent = None if submit is None else 0
        self._writing = asyncio.Lock()
        self._output = self._bytes()

    async def __aenter__(self) -> Self:
        if self.job_id is None and self._submit is not None:
            self.job_id = await self._submit()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._output)

    async def write(self, data: bytes | str) -> None:
        """Type bytes, or text as UTF-8: a carriage return is Enter, 3 is Ctrl-C, 4 is Ctrl-D.

        Waits while the program has not read its earlier input. Raises `ServiceProblem` (409) if the
        job is over. Into a job of `Client.terminal` each byte is typed once, even if an answer was
        lost and it is sent again.
        """
        sent = as_bytes(data)
        async with self._writing:
            await self._client.write(self._job, sent, seq=self._sent)
            if self._sent is not None:
                self._sent += len(sent)

    async def end_input(self) -> None:
        """End the input of the program: on a terminal as Ctrl-D does in an empty line."""
        async with self._writing:
            await self._client.write(self._job, b"", close=True, seq=self._sent)

    async def resize(self, cols: int, rows: int) -> None:
        """Give the terminal another size, in characters."""
        await self._client.resize(self._job, cols, rows)

    async def signal(self, name: str) -> None:
        """Send a signal by name (``SIGINT``)."""
        await self._client.signal(self._job, name)

    async def aclose(self) -> None:
        """Stop reading; with `cancel_on_close` also cancel a job that is not over."""
        await self._output.aclose()
        if self._cancelling and self.end is None and self.job_id is not None:
            with contextlib.suppress(aiohttp.ClientError, StreamerError):
                await ends_in(CANCEL_S, self._client.cancel(self.job_id))

    @property
    def _job(self) -> str:
        if self.job_id is None:
            raise StreamerError("open it first: `async with client.terminal(...) as terminal:`")
        return self.job_id

    async def _bytes(self) -> AsyncGenerator[bytes, None]:
        async with contextlib.aclosing(self._client.events(self._job)) as events:
            async for event in events:
                if isinstance(event.data, Output):
                    try:
                        data = event.data.raw
                    except ValueError:
                        raise not_a_service(200) from None
                    yield data
                elif isinstance(event.data, Complete | Error):
                    self.end = event.data
