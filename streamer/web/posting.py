"""Send a webhook: one request, to an address that was checked, and no further.

The name is resolved here and its addresses are checked; only these can be connected to, whatever
the name leads to a moment later. Proxies of the environment are not used, no redirect is followed,
and of the answer only the head is read, up to some KiB. A client library reads interim answers
(1xx) as long as there are any: a receiver could take this process from all others.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from asyncio import StreamReader
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address
from typing import Final

from yarl import URL

from streamer.client.problem import retry_after_s
from streamer.jobs.webhooks.deliveries import Answered, Unreachable
from streamer.jobs.webhooks.target import Targets, place_of
from streamer.model.hosts import Place, address_refusal

__all__ = ["Poster", "Resolve"]

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a name, as text. Raises OSError."""

LOOKUPS: Final = 16
"""Names that are looked up at a time: a name server may take its time, and so hold a thread."""
HEAD_BYTES: Final = 16 * 1024
"""The most of one head, and twice as much is read ahead at most."""
MOST_HEADS: Final = 8
"""How many interim answers there may be, with the answer."""
STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n]*)?\r\n")
RETRY_AFTER: Final = re.compile(rb"(?im)^retry-after:[ \t]*([^\r\n]{1,100})\r$")
MOST_ADDRESSES: Final = 4
"""How many of a name are tried: its owner must not have us ask a whole network."""
SWITCHING: Final = 101
"""The one interim answer that is final: nothing of HTTP comes after it."""
NO_ANSWER: Final = "the receiver has not answered as HTTP has it"
NOWHERE: Final = "the name of the receiver leads to no address that is allowed"


class Poster:
    """Sends the requests of one process; see `streamer.jobs.webhooks.deliveries.Post`."""

    def __init__(
        self,
        targets: Targets,
        timeout_s: float,
        *,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._targets = targets
        self._timeout_s = timeout_s
        self._resolve = resolve or _lookup(ThreadPoolExecutor(LOOKUPS, "streamer-webhook-names"))
        self._tls = tls

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Answered:
        try:
            async with asyncio.timeout(self._timeout_s):
                place = place_of(url)
                addresses = await self._addresses(place)
                if not addresses:
                    raise Unreachable(NOWHERE)
                return await self._posted(url, place, addresses[:MOST_ADDRESSES], headers, body)
        except TimeoutError:
            raise Unreachable(f"there was no answer within {self._timeout_s:g} s") from None
        except ssl.SSLCertVerificationError:
            raise Unreachable("the certificate of the receiver is not valid") from None
        except OSError:
            raise Unreachable("the receiver cannot be connected to") from None
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            raise Unreachable(NO_ANSWER) from None

    async def _addresses(self, place: Place) -> list[str]:
        """Return the addresses of a host that may be connected to."""
        if place.address is not None:
            found: Sequence[str] = [place.host]
        else:
            try:
                found = await self._resolve(place.host, place.port)
            except OSError:
                return []  # not told apart: who asks must not learn which internal names there are
        if self._targets.allows(place):
            return [*found]
        return [one for one in found if not address_refusal(ip_address(one))]

    async def _posted(
        self,
        url: str,
        place: Place,
        addresses: Sequence[str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> Answered:
        target, tls = URL(url, encoded=True), None
        if target.scheme == "https":
            if self._tls is None:  # it takes a while to read them
                self._tls = await asyncio.to_thread(ssl.create_default_context)
            tls = self._tls
        sock = await self._connected(addresses, place.port)
        try:
            # A connection for each: one that stays open would go on to an address of another time.
            reader, writer = await asyncio.open_connection(
                sock=sock, ssl=tls, server_hostname=place.host if tls else None, limit=HEAD_BYTES
            )
        except BaseException:
            sock.close()
            raise
        try:
            writer.write(_request(target, headers, body))
            return await _answer(reader)
        finally:
            writer.transport.abort()  # nothing more of the answer is read

    async def _connected(self, addresses: Sequence[str], port: int) -> socket.socket:
        """Connect to the first address that answers; each has its share of the time."""
        *others, last = addresses
        for address in others:
            with contextlib.suppress(OSError):  # TimeoutError, too
                async with asyncio.timeout(self._timeout_s / 2 / len(addresses)):
                    return await _connect(address, port)
        return await _connect(last, port)


async def _connect(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _request(target: URL, headers: Mapping[str, str], body: bytes) -> bytes:
    said = {
        "Host": target.host_port_subcomponent or "",
        "Accept": "*/*",
        "Connection": "close",
        "Content-Length": str(len(body)),
        **headers,
    }
    lines = (f"POST {target.raw_path_qs} HTTP/1.1", *(f"{key}: {said[key]}" for key in said))
    return "\r\n".join((*lines, "", "")).encode("ascii") + body


async def _answer(reader: StreamReader) -> Answered:
    """Read the head of an answer. Raises what `StreamReader.readuntil` does, and `Unreachable`."""
    for _ in range(MOST_HEADS):
        head = await reader.readuntil(b"\r\n\r\n")
        found = STATUS.match(head)
        if found is None:
            break
        status = int(found[1])
        if status >= 200 or status == SWITCHING:
            asked = RETRY_AFTER.search(head)
            return Answered(status, retry_after_s(asked and asked[1].decode("latin-1").strip()))
    raise Unreachable(NO_ANSWER)


def _lookup(threads: ThreadPoolExecutor) -> Resolve:
    async def resolve(host: str, port: int) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await loop.run_in_executor(threads, ask)
        return [*dict.fromkeys(str(name[0]) for *_, name in found)]

    return resolve
