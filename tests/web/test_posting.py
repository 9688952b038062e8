"""A webhook is sent to addresses that were checked, and to nothing else."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from streamer.jobs.webhooks.deliveries import Answered, Unreachable
from streamer.jobs.webhooks.target import Targets
from streamer.web.posting import NOWHERE, Poster

Serve = Callable[..., Awaitable[int]]
OK = b"HTTP/1.1 204 No Content\r\n\r\n"


class Heard(list[bytes]):
    """The heads of requests that arrived, and how many connections there were."""

    connections = 0


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def serve(heard: Heard) -> AsyncIterator[Serve]:
    """Return a function that answers each request on a port of 127.0.0.1 with some bytes."""
    async with AsyncExitStack() as stack:

        async def start(
            *answer: bytes, endless: bool = False, tls: ssl.SSLContext | None = None
        ) -> int:
            async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                heard.connections += 1
                try:
                    heard.append(await reader.readuntil(b"\r\n\r\n"))
                    for part in answer:
                        writer.write(part)
                        await writer.drain()
                    while endless:
                        writer.write(b"x" * 65536)
                        await writer.drain()
                    if not answer:
                        await reader.read()
                except (ConnectionError, asyncio.IncompleteReadError):
                    pass
                finally:
                    writer.close()

            server = await asyncio.start_server(answering, "127.0.0.1", 0, ssl=tls)
            await stack.enter_async_context(server)
            return int(server.sockets[0].getsockname()[1])

        yield start


def names(**known: Sequence[str]) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    """Return a resolver in which a name has these addresses; in one lookup after another."""
    asked: dict[str, int] = {}

    async def resolve(host: str, port: int) -> Sequence[str]:
        key = host.partition(".")[0]
        if key not in known:
            raise OSError("there is no such name")
        found = known[key]
        number = asked[key] = asked.get(key, -1) + 1
        return found[min(number, len(found) - 1)].split(" ")

    return resolve


def poster(*allowed: str, timeout_s: float = 30, **known: Sequence[str]) -> Poster:
    return Poster(Targets(allowed), timeout_s, resolve=names(**known))


async def post(one: Poster, url: str) -> Answered:
    return await one(url, {"X-A": "b"}, b"{}")


async def test_an_answer_is_its_status(serve: Serve, heard: Heard) -> None:
    port = await serve(b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n")
    answer = await post(poster(f"127.0.0.1:{port}"), f"http://127.0.0.1:{port}/a%2Fb?c=%41")
    assert answer == Answered(503, 7.0)
    (head,) = heard
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /a%2Fb?c=%41 HTTP/1.1"
    assert b"X-A: b" in lines
    assert f"Host: 127.0.0.1:{port}".encode() in lines


async def test_a_name_that_leads_inwards_is_refused(serve: Serve, heard: Heard) -> None:
    port = await serve(OK)
    inward = "127.0.0.1 127.0.0.2 ::1 10.0.0.1 0.0.0.0 ::ffff:127.0.0.1 fe80::1%1 64:ff9b::7f00:1"
    one = poster(inward=[inward], public=["192.88.99.1 100.64.1.1", "127.0.0.1"])
    for host in ("inward", "public", "public"):
        with pytest.raises(Unreachable, match=NOWHERE):
            await post(one, f"https://{host}.example.org:{port}/")
    assert heard.connections == 0


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the addresses that were to be connected to; none is."""
    asked: list[str] = []

    async def none(address: str, port: int) -> socket.socket:
        asked.append(address)
        raise OSError("this is a test")

    monkeypatch.setattr("streamer.web.posting._connect", none)
    return asked


async def test_what_was_checked_is_connected_to_whatever_the_name_says_later(
    connected: list[str],
) -> None:
    one = poster(rebinding=["203.0.114.1", "127.0.0.1"])
    for addresses in (["203.0.114.1"], []):
        connected.clear()
        with pytest.raises(Unreachable):
            await post(one, "https://rebinding.example.org/")
        assert connected == addresses


async def test_of_several_addresses_only_those_outside_are_tried(connected: list[str]) -> None:
    one = poster(several=["127.0.0.1 203.0.114.1 10.0.0.1 2606:2800:21f::1 ::1"])
    with pytest.raises(Unreachable, match="cannot be connected to"):
        await post(one, "https://several.example.org/")
    assert {*connected} == {"203.0.114.1", "2606:2800:21f::1"}


@pytest.mark.parametrize(
    "form", ["2606:4700::abcd", "2606:4700:0:0::ABCD", "2606:4700::0.0.171.205"]
)
async def test_an_address_may_be_written_in_any_form(connected: list[str], form: str) -> None:
    with pytest.raises(Unreachable):
        await post(poster(), f"https://[{form}]/a%2Fb")
    assert connected == ["2606:4700::abcd"]


async def test_a_name_that_is_listed_may_lead_inwards_and_no_other(
    serve: Serve, heard: Heard
) -> None:
    port = await serve(OK)
    one = poster(f"hooks.internal:{port}", hooks=["127.0.0.1"], other=["127.0.0.1"])
    assert await post(one, f"http://hooks.internal:{port}/") == Answered(204)
    assert heard[0].startswith(b"POST / HTTP/1.1\r\nHost: hooks.internal")
    with pytest.raises(Unreachable, match=NOWHERE):
        await post(one, f"http://other.internal:{port}/")
    with pytest.raises(Unreachable, match=NOWHERE):
        await post(one, f"http://unknown.internal:{port}/")
    assert heard.connections == 1


async def test_names_are_looked_up_as_this_host_does(serve: Serve) -> None:
    port = await serve(OK)
    with pytest.raises(Unreachable, match=NOWHERE):
        await post(Poster(Targets(()), 30), f"https://localhost:{port}/")
    listed = Poster(Targets((f"localhost:{port}",)), 30)
    assert await post(listed, f"http://localhost:{port}/") == Answered(204)


async def test_no_redirect_is_followed(serve: Serve, heard: Heard) -> None:
    inner = await serve(OK)
    place = f"http://127.0.0.1:{inner}/".encode()
    port = await serve(b"HTTP/1.1 307 Go\r\nLocation: " + place + b"\r\nContent-Length: 0\r\n\r\n")
    assert (await post(poster(f"127.0.0.1:{port}"), f"http://127.0.0.1:{port}/")).status == 307
    assert heard.connections == 1


async def test_proxies_and_passwords_of_the_environment_are_not_used(
    serve: Serve, heard: Heard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proxy = await serve(OK)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        for one in (name, name.lower()):
            monkeypatch.setenv(one, f"http://127.0.0.1:{proxy}")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    port = await serve(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert (await post(poster(f"127.0.0.1:{port}"), f"http://127.0.0.1:{port}/")).status == 200
    assert len(heard) == 1
    assert b"Authorization" not in heard[0]


async def test_of_an_answer_only_its_head_is_read(serve: Serve) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: x\r\nContent-Encoding: gzip\r\n\r\n"
    port = await serve(head, endless=True)
    assert await post(poster(f"127.0.0.1:{port}"), f"http://127.0.0.1:{port}/") == Answered(200)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
    ],
)
async def test_what_is_no_answer_is_told(serve: Serve, answer: bytes) -> None:
    port = await serve(answer)
    with pytest.raises(Unreachable, match="has not answered as HTTP has it"):
        await post(poster(f"127.0.0.1:{port}"), f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize("interim", [b"100 Continue\r\n", b"103 Early Hints\r\nLink: </a>\r\n"])
async def test_interim_answers_come_to_an_end(serve: Serve, interim: bytes) -> None:
    one = b"HTTP/1.1 " + interim + b"\r\n"
    port = await serve(one * 3, OK)
    assert await post(poster(f"127.0.0.1:{port}"), f"http://127.0.0.1:{port}/") == Answered(204)
    port = await serve(*[one * 1000] * 1000)
    with pytest.raises(Unreachable, match="has not answered as HTTP has it"):
        await post(poster(f"127.0.0.1:{port}"), f"http://127.0.0.1:{port}/")


async def test_another_address_is_tried_if_one_does_not_answer(serve: Serve) -> None:
    port = await serve(OK)
    one = poster(f"two.internal:{port}", two=["127.0.0.2 127.0.0.1"])
    assert await post(one, f"http://two.internal:{port}/") == Answered(204)


@pytest.mark.parametrize("answer", [(), (b"HTTP/1.1 100 Continue\r\n\r\n",), (b"HTTP/1.1 2",)])
async def test_an_answer_has_its_time(serve: Serve, answer: tuple[bytes, ...]) -> None:
    port = await serve(*answer)
    with pytest.raises(Unreachable, match=r"no answer within 0\.2 s|not answered as HTTP"):
        await post(poster(f"127.0.0.1:{port}", timeout_s=0.2), f"http://127.0.0.1:{port}/")


async def test_a_lookup_has_its_time_too() -> None:
    async def never(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return ()

    with pytest.raises(Unreachable, match=r"no answer within 0\.1 s"):
        await post(Poster(Targets(()), 0.1, resolve=never), "https://example.org/")


async def test_nobody_listens() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(Unreachable, match="cannot be connected to"):
        await post(poster(f"127.0.0.1:{port}"), f"http://127.0.0.1:{port}/")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Return a folder with the key and certificate of ``good.example.org``."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=good.example.org", "-addext", "subjectAltName=DNS:good.example.org"),
            *("-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "certificate.pem")),
        ],
        check=True,
        capture_output=True,
    )
    return tmp_path


async def test_a_certificate_is_checked_with_its_name(
    serve: Serve, heard: Heard, certificate: Path
) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate / "certificate.pem", certificate / "key.pem")
    port = await serve(OK, tls=tls)
    hosts = (f"good.example.org:{port}", f"other.example.org:{port}")
    resolve = names(good=["127.0.0.1"], other=["127.0.0.1"])
    trusting = ssl.create_default_context(cafile=str(certificate / "certificate.pem"))
    one = Poster(Targets(hosts), 30, resolve=resolve, tls=trusting)
    assert await post(one, f"https://good.example.org:{port}/") == Answered(204)
    for wrong, name in ((one, "other"), (Poster(Targets(hosts), 30, resolve=resolve), "good")):
        with pytest.raises(Unreachable, match="certificate of the receiver is not valid"):
            await post(wrong, f"https://{name}.example.org:{port}/")
    assert len(heard) == 1
