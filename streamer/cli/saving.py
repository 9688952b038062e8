"""Save the files of jobs beneath a folder of the user.

Their names come from a program, or from a service that is not trusted: no link is followed, and
nothing is written outside of the folder.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing, suppress
from typing import Final

import click

from streamer.model.filenames import why_not_name
from streamer.model.globs import Glob
from streamer.model.terminal import visible

__all__ = ["save", "save_all"]

FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Chunks = AsyncGenerator[bytes, None]


async def save_all(
    folder: str, patterns: Sequence[str], files: Iterable[tuple[str, Chunks]]
) -> bool:
    """Save those files that were asked for; tell, and return False, if one cannot be written."""
    globs = [Glob(pattern) for pattern in patterns]
    saved = True
    for name, chunks in files:
        if not any(glob.matches(name) for glob in globs):
            continue  # an honest service sends no others
        try:
            await save(folder, name, chunks)
        except OSError as error:
            click.echo(f"streamer: {visible(name)}: {error.strerror}", err=True)
            saved = False
    return saved


async def save(folder: str, name: str, chunks: Chunks) -> None:
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
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103 - the user may name a link
    above = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    *folders, last = name.split("/")
    try:
        for part in folders:
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=above)
            inner = os.open(part, FOLDER, dir_fd=above)
            os.close(above)
            above = inner
        fd = os.open(last, NEW, 0o666, dir_fd=above)
    finally:
        os.close(above)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "there is something that is not a file")
    os.ftruncate(fd, 0)
    return fd
