"""Run the service alone, under aiohttp's own runner instead of `streamer serve`."""

from __future__ import annotations

import sys

from aiohttp import web

import streamer

app = streamer.create_app({"queue": {"concurrency": 2}})

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8081)
