"""Read the files of finished jobs; a lost connection is continued where it broke."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final
from urllib.parse import quote

import aiohttp
from yarl import URL

from streamer.client.problem import check, not_a_service
from streamer.errors import InvalidRequest
from streamer.model.filenames import why_not_name

__all__ = ["files_of", "path_of", "pieces"]

UNKNOWN: Final = -1


def files_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the files in the answer of a service. Raises `ServiceProblem` if there are none."""
    files = document.get("files")
    if not isinstance(files, list) or not all(
        isinstance(file, dict) and isinstance(file.get("name"), str) for file in files
    ):
        raise not_a_service(200)
    return files


def path_of(name: str) -> str:
    """Return the name of a file as a part of an address. Raises `InvalidRequest`."""
    if why := why_not_name(name):  # `..` would lead to other addresses
        raise InvalidRequest(why)
    return quote(name)


async def pieces(
    session: aiohttp.ClientSession, url: URL, retries: int, pause_s: Callable[[int], float]
) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of the file at `url`.

    After `retries` failures in a row what aiohttp raises is raised; `pause_s` tells how long to
    wait after so many.
    """
    download = _Download(session, url)
    failures = 0
    while not download.complete:
        before = download.at
        try:
            async with aclosing(download.attempt()) as chunks:
                async for chunk in chunks:
                    yield chunk
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError):
            failures = 0 if download.at > before else failures + 1
            if failures > retries:
                raise
            await asyncio.sleep(pause_s(failures))


class _Download:
    """One file that is being read. `at` is how many of its bytes have come."""

    def __init__(self, session: aiohttp.ClientSession, url: URL) -> None:
        self._session = session
        self._url = url
        self._tag = ""
        self._size = UNKNOWN
        self.at = 0

    @property
    def complete(self) -> bool:
        return self.at == self._size

    async def attempt(self) -> AsyncGenerator[bytes, None]:
        """Yield what has not come yet, as far as the connection lasts."""
        headers = {"Accept-Encoding": "identity"}
        goes_on = self.at > 0
        if goes_on:
            headers |= {"Range": f"bytes={self.at}-", "If-Range": self._tag}
        async with self._session.get(self._url, headers=headers) as response:
            await check(response)
            wanted = 206 if goes_on else 200
            if response.status != wanted or response.content_length is None:
                raise not_a_service(response.status)  # or it is not the same file any more
            if not goes_on:
                self._size = response.content_length
                self._tag = response.headers.get("ETag", "")
            async for chunk in response.content.iter_any():
                self.at += len(chunk)
                yield chunk
        if not self.complete:
            raise aiohttp.ClientPayloadError("the end of the file is missing")
