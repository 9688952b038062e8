"""Run the command line: ``python -m streamer``."""

from __future__ import annotations

from streamer.cli import main

if __name__ == "__main__":
    main()
