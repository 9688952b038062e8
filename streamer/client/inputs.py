"""Talk to the program of a job: its standard input, signals, the size of its terminal."""

from __future__ import annotations

import asyncio
import json
from typing import Final

import aiohttp

from streamer.client.connection import TRANSIENT, Verbs, pause_s
from streamer.client.documents import Nothing
from streamer.client.jobs import job_path
from streamer.client.problem import ServiceProblem
from streamer.model.typed import as_bytes

__all__ = ["InputVerbs"]

MAX_INPUT_PAUSE_S: Final = 1.0


class InputVerbs(Verbs):
    """What can be sent to the program of a job."""

    async def write(
        self, job_id: str, data: bytes | str, *, close: bool = False, seq: int | None = None
    ) -> None:
        """Send bytes, or text as UTF-8, to the program's standard input; `close` ends the input.

        Waits while the program has not read its earlier input and the job runs. `seq` is where the
        data begins in all input of the job: then it is sent again if there was no answer, and the
        program gets it once.
        """
        path = job_path(job_id, "/stdin")
        query = {"close": "1"} if close else {}
        if seq is not None:
            query["seq"] = str(seq)
        sent = as_bytes(data)
        waits = 0
        left = 0 if seq is None else self._connection.retries
        while True:
            try:
                await self._connection.call(
                    "POST", path, Nothing, body=sent, params=query, twice=False, retries=0
                )
            except ServiceProblem as problem:
                if problem.status != 429:
                    if not left or problem.status not in TRANSIENT:
                        raise
                    left -= 1
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError):
                if not left:
                    raise
                left -= 1
            else:
                return
            await asyncio.sleep(min(pause_s(waits), MAX_INPUT_PAUSE_S))
            waits += 1

    async def end_input(self, job_id: str) -> None:
        """Close the program's standard input. Raises `ServiceProblem` (409) if it is closed."""
        await self.write(job_id, b"", close=True)

    async def signal(self, job_id: str, name: str) -> None:
        """Send a signal by name (``SIGINT``). Raises `ServiceProblem` (409) if the job is over."""
        body = json.dumps({"signal": name}).encode()
        path = job_path(job_id, "/signal")
        await self._connection.call("POST", path, Nothing, body=body, twice=False)

    async def resize(self, job_id: str, cols: int, rows: int) -> None:
        """Give the job's terminal another size.

        Raises `ServiceProblem` (409) if the job has none, or is over.
        """
        body = json.dumps({"cols": cols, "rows": rows}).encode()
        await self._connection.call("POST", job_path(job_id, "/resize"), Nothing, body=body)
