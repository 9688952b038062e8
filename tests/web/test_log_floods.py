"""The log of a standalone service stays short under attack, and a record is one line."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
from collections.abc import Iterator

import pytest

from streamer.config.schema import LoggingConfig
from streamer.web.server.logs import configure_logging


@pytest.fixture(params=["text", "json"])
def said(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """Configure logging, and undo it; yields what standard error gets."""
    root = logging.getLogger()
    before, root.handlers, level = root.handlers, [], root.level
    error = io.StringIO()
    try:
        with contextlib.redirect_stderr(error):
            configure_logging(LoggingConfig(format=request.param))
        yield error
    finally:
        root.handlers = before
        root.setLevel(level)
        for name in ("aiohttp.server", "asyncio"):
            logging.getLogger(name).filters.clear()


def test_a_message_is_one_line_whatever_is_in_it(said: io.StringIO) -> None:
    forged = "a\n2026-01-01 00:00:00 ERROR streamer: forged\r\x1b[2J\x85\u2028b"
    logging.getLogger("streamer.test").error("from %s", forged)
    assert len(said.getvalue().splitlines()) == 1
    assert "\x1b" not in said.getvalue()
    assert "forged" in said.getvalue()


def test_failed_accepts_are_told_once_a_minute_and_in_one_line(said: io.StringIO) -> None:
    logger = logging.getLogger("asyncio")
    for _ in range(100):
        logger.error(
            "socket.accept() out of system resource\nsocket: <socket>",
            exc_info=OSError(errno.EMFILE, "Too many open files"),
        )
    assert said.getvalue().count("\n") == 1
    assert "Too many open files" in said.getvalue()
    logger.error("something else")
    assert "something else" in said.getvalue()
