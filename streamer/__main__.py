"""Start the command line: ``streamer``, or ``python -m streamer``."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main"]

OF_THE_COMMAND_LINE = ("click", "rich")
"""What the extra ``cli`` installs."""


def main() -> NoReturn:
    """Run the command of `sys.argv`, or say that the packages for it are missing."""
    try:
        from streamer.cli.main import main as run  # noqa: PLC0415 - it may be missing
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in OF_THE_COMMAND_LINE:
            raise
        sys.stderr.write(
            f"streamer: the command needs {package}: pip install 'aiohttp-streamer[cli]'\n"
        )
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
