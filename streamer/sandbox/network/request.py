"""Parse the head of a proxy request, and write the head for the server.

Two forms are accepted (RFC 9112, 3.2): ``CONNECT host:port`` and ``METHOD http://host/path``.
Everything ambiguous is refused and never repaired.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from streamer.model.hosts import Place

__all__ = ["ProxyRequest", "Refused", "parse_request"]

# A job chooses the input, so no two neighbouring parts of a pattern may match the same bytes: on
# 16 KiB, backtracking would take seconds.
REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/1\.([01])")
HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t -~\x80-\xff]*)")
ABSOLUTE: Final = re.compile(r"http://([^/?#]*)((?:[/?][^#]*)?)", re.IGNORECASE)
LENGTH: Final = re.compile(rb"[0-9]{1,15}")
MAX_HEADERS: Final = 100
HTTP_PORT: Final = 80

HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"upgrade",
    )
)
"""Headers that are only between the client and us (RFC 9110, 7.6.1)."""
OURS: Final = frozenset((b"host", b"content-length"))
"""Headers that are written anew, so that the server cannot read them otherwise than we did."""


class Refused(Exception):
    """A refused request. The response has `phrase` in its first line, and `text` as its body.

    For CONNECT most programs show the first line only.
    """

    def __init__(self, status: int, phrase: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.phrase = phrase
        self.text = text


@dataclass(frozen=True, slots=True)
class ProxyRequest:
    """A parsed request: a tunnel to `place`, or a `head` and a body for it.

    `body_bytes` is None for a tunnel.
    """

    place: Place
    head: bytes = b""
    body_bytes: int | None = None


def parse_request(head: bytes) -> ProxyRequest:
    """Parse a head that ends with an empty line. Raises `Refused`."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    matched = REQUEST_LINE.fullmatch(first)
    if matched is None:
        raise _malformed("the first line is not a request of HTTP/1.0 or 1.1")
    method, target, minor = matched[1], matched[2].decode(), matched[3]
    headers = _headers(lines)
    if method == b"CONNECT":
        return ProxyRequest(_place(target, None))
    absolute = ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise _malformed("a proxy accepts CONNECT host:port and METHOD http://host/path only")
    place = _place(absolute[1], HTTP_PORT)
    rest = absolute[2] if absolute[2].startswith("/") else f"/{absolute[2]}"
    length = _length(headers)
    named = {
        name.strip().lower()
        for header, value in headers
        if header in (b"connection", b"proxy-connection")
        for name in value.split(b",")
    }
    written = [b"%b %b HTTP/1.%b" % (method, rest.encode(), minor)]
    authority = str(place).removesuffix(f":{HTTP_PORT}")
    written.append(b"Host: " + authority.encode())
    if any(header == b"content-length" for header, _ in headers):
        written.append(b"Content-Length: %d" % length)
    written += [
        b"%b: %b" % (header, value)
        for header, value in headers
        if header not in HOP_BY_HOP | OURS | named
    ]
    written += [b"Via: 1.%b streamer" % minor, b"Connection: close", b"", b""]
    return ProxyRequest(place, b"\r\n".join(written), length)


def _headers(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    if len(lines) > MAX_HEADERS:
        raise _malformed(f"there are more than {MAX_HEADERS} headers")
    headers = []
    for line in lines:
        matched = HEADER.fullmatch(line)
        if matched is None:
            raise _malformed("a header is malformed")
        headers.append((matched[1].lower(), matched[2].strip(b" \t")))
    return headers


def _length(headers: list[tuple[bytes, bytes]]) -> int:
    """Return the size of the body. Two different sizes would allow request smuggling."""
    if any(header == b"transfer-encoding" for header, _ in headers):
        raise Refused(411, "Length Required", "send the size of the body in Content-Length")
    sizes = [value for header, value in headers if header == b"content-length"]
    if len(sizes) > 1 or not all(LENGTH.fullmatch(size) for size in sizes):
        raise _malformed("Content-Length is not one number")
    return int(sizes[0]) if sizes else 0


def _place(text: str, default_port: int | None) -> Place:
    try:
        return Place.parse(text, default_port)
    except ValueError as error:
        raise _malformed(f"{text[:100]!r}: {error}") from None


def _malformed(text: str) -> Refused:
    return Refused(400, "Bad Request", text)
