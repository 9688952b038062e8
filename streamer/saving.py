"""Save files beneath a folder of the user, for the client and the command line.

Their names come from a program, or from a service that is not trusted: no link is followed, and
nothing is written outside of the folder.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from streamer.model.filenames import why_not_name

__all__ = ["save"]


async def save(folder: str, name: str, chunks: AsyncGenerator[bytes, None]) -> None:
    """Write a file beneath a folder, which is made if it is missing; an old one is replaced.

    Raises OSError.
    """
    async with aclosing(chunks):
        if why := why_not_name(name):
            raise OSError(errno.EINVAL, why)
        with os.fdopen(_created(folder, name), "wb") as file:
            async for chunk in chunks:
                await asyncio.to_thread(file.write, chunk)


def _created(folder: str, name: str) -> int:
    """Return a descriptor of an empty file beneath a folder."""
    within = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    new = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103 - the user may name a link
    above = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    *folders, last = name.split("/")
    try:
        for part in folders:
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=above)
            inner = os.open(part, within, dir_fd=above)
            os.close(above)
            above = inner
        fd = os.open(last, new, 0o666, dir_fd=above)
    finally:
        os.close(above)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "there is something that is not a file")
    os.ftruncate(fd, 0)
    return fd
