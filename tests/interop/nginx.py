"""Run nginx with the configuration of docs/clients.md, as the present user."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.interop.clients import snippet
from tests.redisserver import free_port
from tests.tools import tool

__all__ = ["GZIP", "proxied", "serving"]

GZIP: Final = "gzip on; gzip_types *; gzip_min_length 1;"

# Only what it needs to run beside another nginx and as any user: its own files, and no log.
FRAME: Final = """
daemon off; pid {folder}/pid; error_log stderr notice; {user}
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  {more}
  {server}
}}
"""


@asynccontextmanager
async def proxied(
    upstream: int, folder: Path, more: str = "", *, prefix: str = "", bare: bool = False
) -> AsyncIterator[str]:
    """Put nginx before a port and yield its address; a prefix is taken off on the way.

    With `bare` it adds no header.
    """
    port = free_port()
    server = snippet("nginx").replace("127.0.0.1:8081", f"127.0.0.1:{port}")
    server = server.replace("127.0.0.1:8080", f"127.0.0.1:{upstream}")
    if bare:
        server = server.replace("proxy_set_header", "# proxy_set_header")
    if prefix:
        server = server.replace("location / {", f"location {prefix} {{")
        server = server.replace(f":{upstream};", f":{upstream}/;")
    async with serving(server, folder, more):
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def serving(server: str, folder: Path, more: str = "") -> AsyncIterator[None]:
    """Run nginx with what is in its block ``http``, until it is left."""
    executable = tool("nginx")
    user = "user root;" if os.getuid() == 0 else ""
    conf = folder / "nginx.conf"
    conf.write_text(FRAME.format(folder=folder, user=user, more=more, server=server))
    process = await asyncio.create_subprocess_exec(
        *(executable, "-p", str(folder), "-e", "stderr", "-c", str(conf)),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    said = b""
    try:
        async with asyncio.timeout(30):
            while b"start worker process " not in said:
                line = await process.stderr.readline()
                said += line
                assert line, said.decode()
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.communicate()
