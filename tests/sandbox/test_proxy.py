"""Talk to a job's proxy over loopback, as a hostile program would."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest

from streamer.model.hosts import Address, HostRule, address_refusal
from streamer.sandbox.network.proxy import Outbound, Proxy, ProxyLimits, SystemAddresses
from tests.running import descriptors

HERE = "127.0.0.1"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SAID_ALL_S = 5.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def but_loopback(address: Address) -> str:
    """Judge addresses as the proxy does, but allow the test's own servers."""
    return "" if str(address) == HERE else address_refusal(address)


@dataclass
class Names:
    """A resolver with the test's names, which counts its queries."""

    answers: Mapping[str, Sequence[str]]
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return self.answers[host]

    def outbound(self) -> Outbound:
        return Outbound(self, but_loopback)


@dataclass
class Server:
    """A server that answers each head, then echoes; it records what it got."""

    port: int = 0
    heads: list[bytes] = field(default_factory=list)
    rest: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    """The bytes of each connection after its head."""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = b""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            if head.startswith((b"GET", b"POST")):
                size = head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]
                writer.write(OK)
                got = await reader.readexactly(int(size or 0))
                # Anything beyond the body, which must not arrive.
                with contextlib.suppress(TimeoutError):
                    got += await asyncio.wait_for(reader.read(1), 0.05)
            else:
                while data := await reader.read(65536):
                    got += data
                    writer.write(data)
                    await writer.drain()
        self.rest.put_nowait(got)
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    served = Server()
    listening = await asyncio.start_server(served, HERE, 0)
    served.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield served


Open = Callable[..., Awaitable[Callable[[], Awaitable[Streams]]]]


@pytest.fixture
async def proxied() -> AsyncIterator[Open]:
    """Return a function that opens a proxy and returns how to connect to it."""
    async with AsyncExitStack() as stack:

        async def open_proxy(
            names: Names, *entries: str, **limits: float
        ) -> Callable[[], Awaitable[Streams]]:
            listener = socket.create_server((HERE, 0))
            port = listener.getsockname()[1]
            rules = [HostRule.parse(entry) for entry in entries]
            bounds = ProxyLimits(**limits)  # type: ignore[arg-type]
            outbound = names.outbound()
            proxy = Proxy(listener, rules, job_id="j", outbound=outbound, limits=bounds)
            await stack.enter_async_context(proxy)

            async def connect() -> Streams:
                reader, writer = await asyncio.open_connection(HERE, port)
                stack.callback(writer.close)
                return reader, writer

            return connect

        yield open_proxy


async def ask(streams: Streams, request: bytes) -> bytes:
    """Send a request and return all that is answered."""
    reader, writer = streams
    writer.write(request)
    async with asyncio.timeout(SAID_ALL_S):
        return await reader.read()


async def tunnel(streams: Streams, place: str) -> bytes:
    """Ask for a tunnel and return the head of the answer."""
    reader, writer = streams
    writer.write(f"CONNECT {place} HTTP/1.1\r\n\r\n".encode())
    async with asyncio.timeout(SAID_ALL_S):
        return await reader.readuntil(b"\r\n\r\n")


async def test_a_request_reaches_an_allowed_host(server: Server, proxied: Open) -> None:
    connect = await proxied(Names({"ok.test": [HERE]}), f"ok.test:{server.port}")
    request = f"GET http://OK.test.:{server.port}/a HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    assert await ask(await connect(), request.encode()) == OK
    assert server.heads == [
        b"GET /a HTTP/1.1\r\nHost: ok.test:%d\r\nVia: 1.1 streamer\r\n"
        b"Connection: close\r\n\r\n" % server.port
    ]


async def test_a_second_request_on_a_connection_is_not_passed_on(
    server: Server, proxied: Open
) -> None:
    connect = await proxied(Names({"ok.test": [HERE]}), f"ok.test:{server.port}")
    first = f"POST http://ok.test:{server.port}/ HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody"
    assert await ask(await connect(), f"{first}GET http://evil.test/ HTTP/1.1\r\n\r\n".encode())
    assert await server.rest.get() == b"body"


async def test_a_tunnel_carries_both_ways_and_ends_half_by_half(
    server: Server, proxied: Open
) -> None:
    connect = await proxied(Names({"ok.test": [HERE]}), f"ok.test:{server.port}")
    reader, writer = streams = await connect()
    assert b" 200 " in await tunnel(streams, f"ok.test:{server.port}")
    payload = b"\0\r\n\r\n" + bytes(range(256)) * 16384
    writer.write(b"TUNNEL\r\n\r\n" + payload)
    writer.write_eof()
    async with asyncio.timeout(SAID_ALL_S):
        assert await reader.read(-1) == payload
    assert server.heads == [b"TUNNEL\r\n\r\n"]


@pytest.mark.slow
async def test_a_reader_that_does_not_read_holds_back_the_sender(
    server: Server, proxied: Open
) -> None:
    connect = await proxied(Names({"ok.test": [HERE]}), f"ok.test:{server.port}", idle_s=0.2)
    reader, writer = streams = await connect()
    await tunnel(streams, f"ok.test:{server.port}")
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b"TUNNEL\r\n\r\n")
    sent = 0
    with pytest.raises(OSError, match=r"reset|Broken|lost"):
        # Until the pipes are full, and the idle limit ends it.
        while True:
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536
    assert sent < 64 * 1024 * 1024


@pytest.mark.parametrize(
    "place",
    [
        "other.test:80",
        "ok.test.evil.test:80",
        "evilok.test:80",
        "below.ok.test:80",
        "wild.test:80",
        "evilwild.test:80",
        "ok.test:22",
        f"{HERE}:80",
        "[::1]:80",
        "[::ffff:7f00:1]:80",
        "169.254.169.254:80",
        "8.8.8.8:443",
        "localhost:80",
    ],
)
async def test_what_the_list_does_not_name_is_not_even_looked_up(
    proxied: Open, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "streamer.sandbox.network.proxy")
    names = Names({})
    connect = await proxied(names, "ok.test", "*.wild.test")
    for _ in range(2):
        answer = await ask(await connect(), f"CONNECT {place} HTTP/1.1\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 403 Not in sandbox.allow_hosts\r\n")
        assert f"{place} is not in the allow-list".encode() in answer
    assert names.asked == []
    why = f"{place} is not in the allow-list of this service (sandbox.allow_hosts)"
    assert [record.message for record in caplog.records] == [
        f"job j: network access refused: {why}"
    ]


@pytest.mark.parametrize(
    "target",
    [
        "evil\0.ok.test:80",
        "ok.test@evil.test:80",
        "ok.test\\@evil.test:80",
        "0x7f.1:80",
        "2130706433:80",
        "ok.test:80-90",
        "ok.test%00:80",
        "ök.test:80",
    ],
)
async def test_a_strange_target_is_no_request(proxied: Open, target: str) -> None:
    names = Names({})
    connect = await proxied(names, "ok.test", "evil.test")
    for line in (f"CONNECT {target}", f"GET http://{target}/"):
        answer = await ask(await connect(), f"{line} HTTP/1.1\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert names.asked == []


@pytest.mark.parametrize(
    "address",
    ["127.0.0.2", "10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "fd00:ec2::254"],
)
async def test_a_name_that_points_inside_is_refused(proxied: Open, address: str) -> None:
    connect = await proxied(Names({"ok.test": [address]}), "ok.test")
    answer = await ask(await connect(), b"GET http://ok.test/ HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 Address not allowed\r\n")
    assert b"which is always refused" in answer


async def test_only_addresses_that_pass_are_connected_to(server: Server, proxied: Open) -> None:
    # A server on the address that is refused, on the same port: it must not be reached.
    inside: list[bytes] = []

    async def reached(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inside.append(b"!")
        writer.close()

    names = Names({"ok.test": ["127.0.0.2", HERE]})
    connect = await proxied(names, f"ok.test:{server.port}")
    async with await asyncio.start_server(reached, "127.0.0.2", server.port):
        request = f"GET http://ok.test:{server.port}/ HTTP/1.1\r\n\r\n".encode()
        assert await ask(await connect(), request) == OK
    assert inside == []


async def test_the_answer_that_was_checked_is_used_and_no_other(
    server: Server, proxied: Open
) -> None:
    class Rebinding(Names):
        async def __call__(self, host: str) -> Sequence[str]:
            self.asked.append(host)
            return [HERE] if len(self.asked) == 1 else ["10.0.0.1"]

    names = Rebinding({})
    connect = await proxied(names, f"ok.test:{server.port}")
    request = f"GET http://ok.test:{server.port}/ HTTP/1.1\r\n\r\n".encode()
    assert await ask(await connect(), request) == OK
    assert names.asked == ["ok.test"]
    assert b" 403 Address not allowed" in await ask(await connect(), request)


async def test_what_cannot_be_reached_is_said(proxied: Open) -> None:
    unused = socket.create_server((HERE, 0))
    port = unused.getsockname()[1]
    unused.close()
    names = Names({"ok.test": [HERE], "none.test": []})
    connect = await proxied(names, f"ok.test:{port}", "gone.test", "none.test")
    for host in (f"ok.test:{port}", "gone.test:80", "none.test:80"):
        answer = await ask(await connect(), f"CONNECT {host} HTTP/1.1\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert host.encode() in answer


async def test_a_head_that_does_not_end_is_cut_off(proxied: Open) -> None:
    connect = await proxied(Names({}), "ok.test", head_s=0.1)
    assert (await ask(await connect(), b"GET http://ok.test/ HT")).startswith(b"HTTP/1.1 408 ")
    big = b"GET http://ok.test/ HTTP/1.1\r\nA: " + b"a" * 20_000
    assert (await ask(await connect(), big)).startswith(b"HTTP/1.1 431 ")


async def test_an_idle_tunnel_is_closed(server: Server, proxied: Open) -> None:
    connect = await proxied(Names({"ok.test": [HERE]}), f"ok.test:{server.port}", idle_s=0.1)
    reader, _ = streams = await connect()
    assert b" 200 " in await tunnel(streams, f"ok.test:{server.port}")
    async with asyncio.timeout(SAID_ALL_S):
        assert await reader.read() == b""


async def test_a_name_that_takes_too_long_is_given_up(proxied: Open) -> None:
    class Silent(Names):
        async def __call__(self, host: str) -> Sequence[str]:
            await asyncio.Event().wait()
            raise AssertionError

    connect = await proxied(Silent({}), "ok.test", connect_s=0.1)
    answer = await ask(await connect(), b"CONNECT ok.test:443 HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 504 Gateway Timeout\r\n")


async def test_more_connections_than_allowed_wait(server: Server, proxied: Open) -> None:
    names = Names({"ok.test": [HERE]})
    connect = await proxied(names, f"ok.test:{server.port}", connections=2)
    held = [await connect(), await connect()]
    for streams in held:
        assert b" 200 " in await tunnel(streams, f"ok.test:{server.port}")
    late = await connect()
    request = f"GET http://ok.test:{server.port}/ HTTP/1.1\r\n\r\n".encode()
    answered = asyncio.create_task(ask(late, request))
    done, _ = await asyncio.wait({answered}, timeout=0.1)
    assert not done
    held[0][1].close()
    assert await answered == OK


async def test_closing_ends_everything(server: Server) -> None:
    before = descriptors()
    listener = socket.create_server((HERE, 0))
    port = listener.getsockname()[1]
    outbound = Names({"ok.test": [HERE]}).outbound()
    rules = [HostRule.parse(f"ok.test:{server.port}")]
    async with Proxy(listener, rules, job_id="j", outbound=outbound):
        streams = await asyncio.open_connection(HERE, port)
        await tunnel(streams, f"ok.test:{server.port}")
        streams[1].write(b"TUNNEL\r\n\r\nx")
        assert await streams[0].readexactly(1) == b"x"
    assert await streams[0].read() == b""
    assert await server.rest.get() == b"x"
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HERE, port)
    streams[1].close()
    await asyncio.sleep(0)
    assert descriptors() == before


async def test_the_systems_resolver_is_asked_for_the_whole_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def getaddrinfo(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        return [(0, 0, 0, "", ("192.0.2.1", 0)), (0, 0, 0, "", ("2001:db8::1", 0, 0, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert await SystemAddresses()("a.org") == ["192.0.2.1", "2001:db8::1"]
    assert asked == ["a.org."]


async def test_a_name_server_that_does_not_answer_holds_two_threads_of_a_job_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held, asked = threading.Event(), 0

    def getaddrinfo(*_: object, **__: object) -> list[object]:
        nonlocal asked
        asked += 1
        held.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    listener = socket.create_server((HERE, 0))
    port = listener.getsockname()[1]
    limits = ProxyLimits(connect_s=0.1)
    rules = [HostRule.parse("*.ok.test:80")]
    try:
        outbound = Outbound()
        async with Proxy(listener, rules, job_id="j", outbound=outbound, limits=limits):
            for number in range(6):
                streams = await asyncio.open_connection(HERE, port)
                request = f"CONNECT n{number}.ok.test:80 HTTP/1.1\r\n\r\n"
                assert (await ask(streams, request.encode())).startswith(b"HTTP/1.1 504")
                streams[1].close()
            assert asked == 2
            # The threads of everything else are free, as many as there are.
            async with asyncio.timeout(30):
                await asyncio.gather(*(asyncio.to_thread(int) for _ in range(64)))
    finally:
        held.set()
