"""Let one job reach the hosts of an allow-list, and nothing else.

The job's sandbox has no network but its own loopback. There our init listens and passes the
listening socket out of the sandbox to this module. So the job connects to this proxy, which runs in
the service's process and network; there is no proxy process inside.

A name is resolved only if it is in the allow-list, each address is checked, and the connection goes
to the very address that was checked: resolving twice could give another answer (DNS rebinding).
The proxy cannot look into a tunnel, so other hosts at the same address as an allowed one can be
reached.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final, Self

from streamer.model.hosts import Address, HostRule, Place, address_refusal
from streamer.model.logfields import about
from streamer.sandbox.network.request import ProxyRequest, Refused, parse_request

__all__ = ["PROXY_PORT", "Outbound", "Proxy", "ProxyLimits", "SystemAddresses", "proxy_environment"]

log: Final = logging.getLogger(__name__)

PROXY_PORT: Final = 3128
"""The port on the loopback of each sandbox; the usual port of a proxy."""

CHUNK: Final = 64 * 1024
HEAD_BYTES: Final = 16 * 1024
MAX_ADDRESSES: Final = 4
MAX_LOOKUPS: Final = 2
"""DNS queries of one job at a time, with abandoned ones: their threads run on."""
LOOKUP_THREADS: Final = 16
"""Threads for the DNS queries of all jobs."""
MAX_NOTES: Final = 100
"""Refusals of one job that are logged."""
ACCEPT_RETRY_S: Final = 1.0
LINGER_S: Final = 1.0


def proxy_environment() -> dict[str, str]:
    """Return the variables that make programs use the proxy, in both cases."""
    address = f"http://127.0.0.1:{PROXY_PORT}"
    direct = "localhost,127.0.0.1,::1"
    lower = {"http_proxy": address, "https_proxy": address, "all_proxy": address}
    both = {**lower, "no_proxy": direct}
    return {**both, **{name.upper(): value for name, value in both.items()}}


class SystemAddresses:
    """The system's resolver, in separate threads.

    A name server that does not answer blocks a thread for long; other work must not wait for it.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKUP_THREADS, "streamer-dns")

    async def __call__(self, host: str) -> Sequence[str]:
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host)
        return [str(address[0]) for *_, address in found]


def _look_up(host: str) -> list[Any]:
    # The trailing dot turns off the search domains of resolv.conf.
    return socket.getaddrinfo(f"{host}.", None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)


@dataclass(frozen=True, slots=True)
class Outbound:
    """How names are resolved and which addresses are refused; tests replace it."""

    addresses: Callable[[str], Awaitable[Sequence[str]]] = field(default_factory=SystemAddresses)
    refusal: Callable[[Address], str] = address_refusal


@dataclass(frozen=True, slots=True)
class ProxyLimits:
    """The limits of one job's proxy. Times in seconds; further connections wait."""

    connections: int = 32
    head_s: float = 10.0
    connect_s: float = 10.0
    idle_s: float = 300.0


class Proxy:
    """The proxy of one job. An asynchronous context manager that owns `listener`."""

    def __init__(
        self,
        listener: socket.socket,
        rules: Sequence[HostRule],
        *,
        job_id: str,
        tenant: str = "",
        outbound: Outbound | None = None,
        limits: ProxyLimits | None = None,
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._rules = rules
        self._job_id = job_id
        self._about = about(job_id, tenant)
        self._outbound = outbound or Outbound()
        self._limits = limits or ProxyLimits()
        self._loop = asyncio.get_running_loop()
        self._lookups = asyncio.Semaphore(MAX_LOOKUPS)
        self._looking: set[asyncio.Future[Sequence[str]]] = set()
        self._open: set[asyncio.Task[None]] = set()
        self._noted: set[str] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        self._resume()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        self._loop.remove_reader(self._listener)
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        self._listener.close()

    def _resume(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            log.warning(
                "job %s: the proxy cannot accept: %s", self._job_id, error, extra=self._about
            )
            self._loop.remove_reader(self._listener)
            self._loop.call_later(ACCEPT_RETRY_S, self._resume)
            return
        task = asyncio.create_task(self._serve(sock))
        self._open.add(task)
        if len(self._open) >= self._limits.connections:
            self._loop.remove_reader(self._listener)

        def ended(task: asyncio.Task[None]) -> None:
            sock.close()  # needed if the task was cancelled before it began
            self._open.discard(task)
            self._resume()

        task.add_done_callback(ended)

    async def _serve(self, sock: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=sock, limit=HEAD_BYTES)
        # So that `drain` returns when everything is sent, and closing loses nothing.
        writer.transport.set_write_buffer_limits(0)
        try:
            await self._answer(reader, writer)
        except Refused as refused:
            if refused.status == 403:
                self._note(refused.text)
            with contextlib.suppress(OSError):
                async with asyncio.timeout(LINGER_S):
                    await _refuse(reader, writer, refused)
        except (OSError, asyncio.IncompleteReadError):
            pass  # one of the two sides left, or the connection was idle for too long
        except Exception:
            log.exception(
                "job %s: unexpected failure of the proxy", self._job_id, extra=self._about
            )
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self._limits.head_s):
                head = await reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            text = f"no complete request came within {self._limits.head_s:g} s"
            raise Refused(408, "Request Timeout", text) from None
        except asyncio.LimitOverrunError:
            text = f"the head of a request has at most {HEAD_BYTES} bytes"
            raise Refused(431, "Request Header Fields Too Large", text) from None
        request = parse_request(head)
        from_server, to_server = await self._connect(request.place)
        try:
            to_server.transport.set_write_buffer_limits(0)
            if request.body_bytes is None:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                to_server.write(request.head)
            await self._relay(request, reader, writer, from_server, to_server)
        finally:
            to_server.transport.abort()

    async def _connect(self, place: Place) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not any(rule.allows(place) for rule in self._rules):
            text = f"{place} is not in the allow-list of this service (sandbox.allow_hosts)"
            raise Refused(403, "Not in sandbox.allow_hosts", text)
        why = "it has no address"
        for address in (await self._addresses(place))[:MAX_ADDRESSES]:
            try:
                async with asyncio.timeout(self._limits.connect_s):
                    return await asyncio.open_connection(str(address), place.port, limit=CHUNK)
            except TimeoutError:
                why = "it does not answer"
            except OSError as error:
                why = error.strerror or "it cannot be reached"
        raise Refused(502, "Bad Gateway", f"{place}: {why}")

    async def _addresses(self, place: Place) -> Sequence[Address]:
        """Return those addresses of a place that may be connected to."""
        if place.address is not None:
            found: Sequence[Address] = (place.address,)
        else:
            try:
                async with asyncio.timeout(self._limits.connect_s):
                    answers = await self._look_up(place.host)
            except TimeoutError:
                raise Refused(504, "Gateway Timeout", f"{place}: the DNS did not answer") from None
            except (OSError, UnicodeError):
                raise Refused(502, "Bad Gateway", f"{place}: the name is unknown") from None
            found = tuple(dict.fromkeys(ip_address(answer) for answer in answers))
        refusals = [self._outbound.refusal(address) for address in found]
        passed = [address for address, why in zip(found, refusals, strict=True) if not why]
        if found and not passed:
            text = f"{place}: its address {found[0]} is {refusals[0]}, which is always refused"
            raise Refused(403, "Address not allowed", text)
        return passed

    async def _look_up(self, host: str) -> Sequence[str]:
        await self._lookups.acquire()
        looking = asyncio.ensure_future(self._outbound.addresses(host))
        self._looking.add(looking)
        # Not when the waiting ends: the thread is free only when it has its answer.
        looking.add_done_callback(self._looked_up)
        return await asyncio.shield(looking)

    def _looked_up(self, looking: asyncio.Future[Sequence[str]]) -> None:
        self._lookups.release()
        self._looking.discard(looking)
        if not looking.cancelled():
            looking.exception()  # marked as retrieved, since nobody may be waiting

    async def _relay(
        self,
        request: ProxyRequest,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        from_server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        """Copy bytes in both directions until the server has sent everything."""
        async with asyncio.timeout(self._limits.idle_s) as idle:

            def busy() -> None:
                idle.reschedule(self._loop.time() + self._limits.idle_s)

            sending = asyncio.create_task(_copy(reader, to_server, busy, request.body_bytes))
            try:
                await _copy(from_server, writer, busy)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    def _note(self, text: str) -> None:
        if text not in self._noted and len(self._noted) < MAX_NOTES:
            self._noted.add(text)
            log.info("job %s: network access refused: %s", self._job_id, text, extra=self._about)


async def _copy(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    busy: Callable[[], None],
    size: int | None = None,
) -> None:
    """Copy `size` bytes, or all and then the end."""
    while size is None or size > 0:
        await writer.drain()
        data = await reader.read(CHUNK if size is None else min(CHUNK, size))
        if not data:
            if writer.can_write_eof():
                writer.write_eof()
            break
        busy()
        writer.write(data)
        size = None if size is None else size - len(data)
    await writer.drain()


async def _refuse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, refused: Refused
) -> None:
    body = f"{refused.text}\n".encode()
    head = (
        f"HTTP/1.1 {refused.status} {refused.phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    writer.write_eof()
    # Closing with unread bytes would reset the connection before the client has read the answer.
    while await reader.read(CHUNK):
        pass
