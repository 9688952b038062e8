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
        # To import what a command needs takes a while, and an exception could come up anywhere
        # in it. What has something to clean up sets the handler back before it begins.
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        from streamer.cli.main import main as run  # noqa: PLC0415 - it may be missing

        run(on_work=lambda: signal.signal(signal.SIGINT, before))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in OF_THE_COMMAND_LINE:
            raise
        sys.stderr.write(
            f"streamer: the command needs {package}: pip install 'aiohttp-streamer[cli]'\n"
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
