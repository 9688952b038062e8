"""Answer a request with a download that is a session like any event stream."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from streamer.sse.response import MAX_SEND_TIMEOUT_S, StreamedResponse, StreamOptions

__all__ = ["ByteStream"]


class ByteStream(StreamedResponse):
    """A response of plain bytes. It cannot carry heartbeats; the kernel detects lost clients.

    If it is cut, the last chunk or a part of Content-Length is missing, so the client notices.
    """

    heartbeat = b""
    lingers = False

    def __init__(
        self, request: web.BaseRequest, options: StreamOptions, headers: Mapping[str, str]
    ) -> None:
        super().__init__(headers={**options.headers, **headers})
        if request.version < HttpVersion11:
            self.force_close()  # the end of the connection is the end of the body
        self._options = options

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        sock = request.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            _notice_silence(sock, self._options)
        return await super().prepare(request)

    def cut(self) -> None:
        self.abort()

    def opening(self, _: StreamOptions) -> bytes:
        """Return nothing: a download has no preamble."""
        return b""

    def stop_streaming(self) -> None:
        """Do nothing: the end is written by aiohttp."""

    def is_connected(self) -> bool:
        return self.prepared


def _notice_silence(sock: socket.socket, options: StreamOptions) -> None:
    """Have the kernel close the connection if the peer is gone, even while it is idle (tcp(7))."""
    timeout_ms = int(min(options.write_timeout_s, MAX_SEND_TIMEOUT_S) * 1000)
    idle_s = max(1, int(min(options.heartbeat_s, 32_767)))
    with contextlib.suppress(OSError):  # the client has left
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, idle_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
