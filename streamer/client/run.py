"""One job of a client and its events, from the submission to the end."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp

from streamer.bounded import ends_in
from streamer.errors import StreamerError
from streamer.model.events import TERMINAL_KINDS, AnyEvent
from streamer.model.job import JobSpec

if TYPE_CHECKING:
    from streamer.client.client import Client

__all__ = ["Run"]

CANCEL_S: Final = 5.0
"""How long closing a run may take to cancel its job."""


class Run:
    """One submission and its events, returned by `Client.run`.

    `job_id` is None until the service has accepted the job. Submitting again with the same
    `idempotency_key` returns the id of the same job, even if the first answer was lost.
    """

    def __init__(
        self,
        client: Client,
        job: JobSpec | None,
        idempotency_key: str | None,
        fields: Mapping[str, Any],
        *,
        cancel_on_close: bool,
        stats: bool,
    ) -> None:
        key = secrets.token_hex(16) if idempotency_key is None else idempotency_key
        self.idempotency_key = key
        # The generator has no reference to this object: if the object is dropped without being
        # closed, the event loop closes the generator at once.
        self._accepted: list[str] = []
        submit = partial(client.submit, job, idempotency_key=key, **fields)
        self._events = _run(client, submit, self._accepted, cancelling=cancel_on_close, stats=stats)

    @property
    def job_id(self) -> str | None:
        """None until the service has accepted the job."""
        return self._accepted[0] if self._accepted else None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AnyEvent:
        return await anext(self._events)

    async def aclose(self) -> None:
        """Stop following; with `cancel_on_close`, also cancel the job."""
        await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


async def _run(
    client: Client,
    submit: Callable[[], Coroutine[Any, Any, str]],
    accepted: list[str],
    *,
    cancelling: bool,
    stats: bool,
) -> AsyncGenerator[AnyEvent, None]:
    async def submitting() -> None:
        accepted.append(await submit())

    async def cancel() -> None:
        await submission
        await client.cancel(accepted[0])

    submission = asyncio.create_task(submitting())
    over = False
    try:
        # A submission that is cancelled half-way may have arrived already, and cancelling the
        # job needs the id in the answer.
        await asyncio.shield(submission)
        async with contextlib.aclosing(client.events(accepted[0], stats=stats)) as events:
            async for event in events:
                over = event.kind in TERMINAL_KINDS
                yield event
    finally:
        if cancelling and not over:
            with contextlib.suppress(aiohttp.ClientError, StreamerError):
                await ends_in(CANCEL_S, cancel())
        submission.cancel()
        await asyncio.gather(submission, return_exceptions=True)
