"""Serve the playground: one page at ``/`` and its assets.

The page is hand-written but for its bundle, which is built from npm's packages (`frontend/`) and
may be missing. Its policy allows only its own scripts and styles and connections to its own origin,
so that even a bug in it cannot turn a program's output into markup or send it elsewhere. All its
links are relative: it works below any prefix at which the service is mounted.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
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
    ".txt": "text/plain",
}
_BUNDLE: Final = "bundle/"
_ENTRIES: Final = ("editor", "terminal")
"""What of the bundle the page asks for by name."""
_NO_BUNDLE: Final = '<meta name="streamer-bundle" content="">'
"""In the page as it is written; which of the bundle's entries there are takes its place."""
_LEAST_PACKED: Final = 1024
"""A smaller body is as quickly sent as it is."""
_IMMUTABLE: Final = "public, max-age=31536000, immutable"
"""For chunks of the bundle, whose names have a hash of what is in them."""


def _headers(ancestors: Sequence[str] = ()) -> dict[str, str]:
    """Return the headers of a page that may be shown in frames of the given origins."""
    framed = " ".join("'self'" if one == "self" else one for one in ancestors) or "'none'"
    return {
        hdrs.CACHE_CONTROL: "no-cache",
        # With the trusted-types pair the browser refuses to turn text into markup.
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
            f"img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors {framed}; "
            "require-trusted-types-for 'script'; trusted-types 'none'"
        ),
        # The page's URL may contain the id of a job, which gives access to the job.
        "Referrer-Policy": "no-referrer",
        hdrs.VARY: hdrs.ACCEPT_ENCODING,
        "X-Content-Type-Options": "nosniff",
    }


class Asset:
    """A body that a browser may keep, and has to ask about."""

    def __init__(
        self, body: bytes, content_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._body = body
        self._content_type = content_type
        self._headers = _headers() | dict(headers or {})
        self._tag = hashlib.sha256(body).hexdigest()[:32]

    def answer(self, request: web.Request) -> web.Response:
        packed = len(self._body) >= _LEAST_PACKED and _takes_gzip(request)
        etag = ETag(f"{self._tag}-gzip" if packed else self._tag)
        if any(tag.value in (etag.value, "*") for tag in request.if_none_match or ()):
            response = web.Response(status=304, headers=self._headers)
        else:
            response = web.Response(
                body=_packed(self._body) if packed else self._body,
                content_type=self._content_type,
                charset=None if self._content_type == "application/json" else "utf-8",
                headers=self._headers,
            )
            if packed:
                response.headers[hdrs.CONTENT_ENCODING] = "gzip"
        response.etag = etag
        return response


def _takes_gzip(request: web.Request) -> bool:
    for one in request.headers.get(hdrs.ACCEPT_ENCODING, "").split(","):
        name, _, weight = one.partition(";")
        if name.strip().lower() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


# When it is first asked for: a start that compressed all would take a tenth of a second longer.
@functools.lru_cache(maxsize=256)
def _packed(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


def page_routes(frame_ancestors: Sequence[str] = ()) -> list[web.RouteDef]:
    """Return the routes of the page; its files are read once, now.

    Pages of the origins `frame_ancestors` may show it in a frame.
    """
    folder = files("streamer.web") / "static"
    assets = dict(_assets(folder))
    return [
        PLAYGROUND.route(_serve(_page(folder, assets, frame_ancestors))),
        # In a mounted application "/" is "/prefix/", and "" is "/prefix": the page's relative
        # links need the slash. If it is not mounted, "" is "/" and so must come second.
        web.get("", _add_slash),
        *(web.get(f"/static/playground/{name}", _serve(asset)) for name, asset in assets.items()),
    ]


def _page(folder: Traversable, assets: Mapping[str, Asset], ancestors: Sequence[str]) -> Asset:
    """Return the page; it says which of its bundle there is, and so never asks in vain."""
    there = [name for name in _ENTRIES if f"{_BUNDLE}{name}.js" in assets]
    said = _NO_BUNDLE.replace('""', f'"{" ".join(there)}"')
    text = (folder / "index.html").read_text("utf-8").replace(_NO_BUNDLE, said)
    return Asset(text.encode(), "text/html", _headers(ancestors))


def _assets(folder: Traversable, place: str = "") -> Iterator[tuple[str, Asset]]:
    """Yield the files below a folder that browsers ask for, with their names."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = place + entry.name
        if entry.is_dir():
            yield from _assets(entry, f"{name}/")
        elif content_type := _TYPES.get(PurePosixPath(name).suffix):
            kept: dict[str, str] = {}
            if name.startswith(f"{_BUNDLE}chunk-"):
                kept[hdrs.CACHE_CONTROL] = _IMMUTABLE
            yield name, Asset(entry.read_bytes(), content_type, kept)


async def _add_slash(request: web.Request) -> web.Response:
    # Relative, since a proxy may add a prefix; with "./", since a name may contain a colon.
    raise web.HTTPTemporaryRedirect(f"./{request.rel_url.raw_name}/")


def _serve(asset: Asset) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def serve(request: web.Request) -> web.Response:
        return asset.answer(request)

    return serve
