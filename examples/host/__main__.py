"""Run the host on 127.0.0.1:8081, with two users: python examples/host [DATABASE]."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

from aiohttp import web
from webapp import ACCOUNTS, make_app

if __name__ == "__main__":
    app = make_app(Path(sys.argv[1] if len(sys.argv) > 1 else "host.sqlite"))
    for name in ("ann", "bob"):
        password = secrets.token_urlsafe(9)
        app[ACCOUNTS].add(name, password, staff=name == "bob")
        print(f"user {name}, password {password}", flush=True)
    web.run_app(app, host="127.0.0.1", port=8081)
