"""Responses with JSON documents."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from streamer.web import wire

__all__ = ["json_answer"]


def json_answer(
    document: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.Response(
        body=wire.dump(document), status=status, headers=headers, content_type="application/json"
    )
