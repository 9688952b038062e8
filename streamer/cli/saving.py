"""Save those files of a job that a command was asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence

import click

from streamer.model.globs import Glob
from streamer.model.terminal import visible
from streamer.saving import save

__all__ = ["save_all"]

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
