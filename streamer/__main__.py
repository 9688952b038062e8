"""Start the command line: ``streamer``, or ``python -m streamer``."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # as in the package itself

if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["main"]

INTERRUPTED = 130
OF_THE_COMMAND_LINE = ("click", "rich")
"""What the extra ``cli`` installs."""


def main() -> NoReturn:
    """Run the command of `sys.argv`, or say that the packages for it are missing."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        # To import everything takes a while, and an exception could come up anywhere in it.
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
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
    try:
        signal.signal(signal.SIGINT, before)
        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
