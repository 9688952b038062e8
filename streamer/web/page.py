"""Serve the playground: one page at ``/`` and its assets.

The page is hand-written and has no third-party parts. Its policy allows only its own scripts and
styles and connections to its own origin, so that even a bug in it cannot turn a program's output
into markup or send it elsewhere. All its links are relative: it works below any prefix at which the
service is mounted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import Final

from aiohttp import ETag, hdrs, web

from streamer.web.operations.service import PLAYGROUND

__all__ = ["Asset", "page_routes"]

_TYPES: Final = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

_HEADERS: Final = {
    hdrs.CACHE_CONTROL: "no-cache",
    # With the trusted-types pair the browser refuses to turn text into markup.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    # The page's URL may contain the id of a job, which gives access to the job.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Asset:
    """A body that a browser may keep, and has to ask about."""

    def __init__(self, body: bytes, content_type: str) -> None:
        self._body = body
        self._content_type = content_type
        self._etag = ETag(hashlib.sha256(body).hexdigest()[:32])

    def answer(self, request: web.Request) -> web.Response:
        known = request.if_none_match or ()
        if any(tag.value in (self._etag.value, "*") for tag in known):
            response = web.Response(status=304, headers=_HEADERS)
        else:
            response = web.Response(
                body=self._body,
                content_type=self._content_type,
                charset=None if self._content_type == "application/json" else "utf-8",
                headers=_HEADERS,
            )
        response.etag = self._etag
        return response


def page_routes() -> list[web.RouteDef]:
    """Return the routes of the page; its files are read once, now."""
    return [
        PLAYGROUND.route(_serve("index.html", "text/html")),
        # In a mounted application "/" is "/prefix/", and "" is "/prefix": the page's relative
        # links need the slash. If it is not mounted, "" is "/" and so must come second.
        web.get("", _add_slash),
        *(
            web.get(f"/static/playground/{name}", _serve(name, content_type))
            for name, content_type in _assets(files("streamer.web") / "static")
        ),
    ]


def _assets(folder: Traversable, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield the names of the files below a folder that browsers ask for, and their types."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = place + entry.name
        if entry.is_dir():
            yield from _assets(entry, f"{name}/")
        elif content_type := _TYPES.get(PurePosixPath(name).suffix):
            yield name, content_type


async def _add_slash(request: web.Request) -> web.Response:
    # Relative, since a proxy may add a prefix; with "./", since a name may contain a colon.
    raise web.HTTPTemporaryRedirect(f"./{request.rel_url.raw_name}/")


def _serve(name: str, content_type: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    asset = Asset(files("streamer.web").joinpath("static", name).read_bytes(), content_type)

    async def serve(request: web.Request) -> web.Response:
        return asset.answer(request)

    return serve
