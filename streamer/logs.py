"""Set up logging for the service when it stands alone; a host application has its own."""

from __future__ import annotations

import json
import logging
import sys
from typing import Final

from streamer.config import LoggingConfig

__all__ = ["configure_logging"]

TEXT_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        document = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document)


class _NoParseErrors(logging.Filter):
    """Drop aiohttp's traceback for each malformed request: a port scan fills a disk with it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether to keep the record."""
        return not record.getMessage().startswith("Error handling request")


def configure_logging(config: LoggingConfig) -> None:
    """Send log records to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = _JsonFormatter() if config.format == "json" else logging.Formatter(TEXT_FORMAT)
    handler.setFormatter(formatter)
    logging.basicConfig(level=config.level.upper(), handlers=[handler])
    logging.getLogger("aiohttp.server").addFilter(_NoParseErrors())
