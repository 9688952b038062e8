"""Store what is uploaded as it arrives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

from streamer.engine.blobs import BlobWriter
from streamer.errors import TooLarge

__all__ = ["PIECE_BYTES", "receive"]

PIECE_BYTES: Final = 1024 * 1024
"""What is handed to a blob at once; each piece takes a turn of the event loop and a thread."""


async def receive(
    data: AsyncIterator[bytes], writer: BlobWriter, most: int, too_large: Callable[[], TooLarge]
) -> None:
    """Write all of it to a blob. Raises `too_large` if it is more than `most` bytes."""
    size, piece = 0, bytearray()
    async for chunk in data:
        size += len(chunk)
        # Before it is kept: a chunk of a host's code may be as large as it likes.
        if size > most:
            raise too_large()
        piece += chunk
        if len(piece) >= PIECE_BYTES:
            await writer.write(bytes(piece))
            piece.clear()
    await writer.write(bytes(piece))
