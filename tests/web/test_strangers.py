"""Without tokens or a hook only requests from this machine are accepted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from aiohttp import web

import streamer
from streamer.web.callers.connection import account, is_local
from tests.conftest import Start
from tests.interop.nginx import proxied
from tests.support import AnyClient, other_address
from tests.web import problem, python

PLAIN: Final = {"backend": "bwrap", "allow": ["plain"]}
STRANGER: Final = 60_950
"""An unused user id, below those of jobs."""

Listen = Callable[..., Awaitable[str]]


@pytest.fixture
async def listen(tmp_path: Path) -> AsyncIterator[Listen]:
    """Return a function that mounts the service, listens somewhere, and returns the port or path."""
    runners: list[web.AppRunner] = []

    async def start(host: str = "127.0.0.1", **sections: Any) -> str:
        sandbox = sections.pop("sandbox", {"backend": "bwrap"})
        app = web.Application()
        service = streamer.setup(
            app, {"sandbox": sandbox, "server": {"drain_s": 0}, **sections}, prefix="/code"
        )
        assert service is streamer.get_service(app)
        runner = web.AppRunner(app)
        runners.append(runner)
        await runner.setup()
        if host.startswith("/"):
            await web.UnixSite(runner, host).start()
            return host
        await web.TCPSite(runner, host, 0).start()
        return str(runner.addresses[0][1])

    yield start
    for runner in runners:
        await runner.cleanup()


async def status(url: str, connector: aiohttp.BaseConnector | None = None, **options: Any) -> int:
    """Submit a job and return the answer's status."""
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(f"{url}/code/api/execute", json=python("print(1)"), **options) as response,
    ):
        if response.status == 401:
            document = await problem(response, 401, "unauthorized")
            assert "log" in document["detail"]
        return response.status


async def test_a_mount_is_open_to_this_machine_only(
    listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    port = await listen("0.0.0.0")  # noqa: S104
    assert await status(f"http://127.0.0.1:{port}") == 202
    for headers in ({}, {"Host": f"localhost:{port}"}, {"Host": "127.0.0.1"}):
        assert await status(f"http://{other_address()}:{port}", headers=headers) == 401
    (refused,) = [r for r in caplog.records if r.name == "streamer.web.callers.access"]
    assert refused.levelno == logging.WARNING
    assert "[[auth.tokens]]" in refused.getMessage()
    assert "auth.anonymous" in refused.getMessage()


async def test_an_address_for_others_is_listened_on_over_ipv6_too(listen: Listen) -> None:
    port = await listen("::")
    assert await status(f"http://[::1]:{port}") == 202


async def test_a_connection_to_the_other_family_is_this_machines(listen: Listen) -> None:
    port = await listen("127.0.0.1", sandbox=PLAIN)
    # An IPv6 socket that is connected to an IPv4 server.
    with socket.socket(socket.AF_INET6) as client:
        client.connect(("::ffff:127.0.0.1", int(port)))
        request = f"GET /code/api/jobs HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"
        await asyncio.to_thread(client.sendall, request.encode())
        assert (await asyncio.to_thread(client.recv, 1000)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "path", ["/", "/api/jobs", "/api/queue", "/metrics", "/api/runtimes", "/api/sandboxes", "/no"]
)
async def test_a_stranger_gets_nothing(listen: Listen, path: str) -> None:
    port = await listen()
    async with aiohttp.ClientSession() as session:
        url, host = f"http://127.0.0.1:{port}/code", {"Host": "example.org"}
        async with session.get(f"{url}{path}", headers=host) as response:
            await problem(response, 401, "unauthorized")
        for health in ("/healthz", "/readyz"):
            async with session.get(f"{url}{health}", headers=host) as response:
                assert response.status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",  # resolves to 127.0.0.1, by the owner of the name
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "localhost.",
        "0.0.0.0",  # noqa: S104
        "10.0.0.1",
        "[::ffff:10.0.0.1]",
        "",
    ],
)
async def test_a_name_that_is_not_this_machines_is_refused(listen: Listen, host: str) -> None:
    port = await listen()
    for origin in ({}, {"Origin": f"http://{host}"}, {"Sec-Fetch-Site": "same-origin"}):
        assert await status(f"http://127.0.0.1:{port}", headers={"Host": host, **origin}) == 401


@pytest.mark.parametrize(
    "request_text",
    [
        "GET /code/api/jobs HTTP/1.0\r\n\r\n",
        "GET /code/api/jobs HTTP/1.1\r\n\r\n",
        "GET /code/api/jobs HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    ],
)
async def test_no_name_and_two_names_are_refused(listen: Listen, request_text: str) -> None:
    # Without the header aiohttp uses this machine's own name, often localhost.
    reader, writer = await asyncio.open_connection("127.0.0.1", int(await listen()))
    writer.write(request_text.encode())
    first = await reader.readline()
    assert first.split()[1] in (b"400", b"401")
    writer.close()


async def test_each_request_of_a_connection_is_looked_at(listen: Listen) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(await listen()))
    hosts = ("localhost", "evil.example", "localhost:80", "127.0.0.1", "128.0.0.1", "localhost")
    found = []
    for host in hosts:
        writer.write(f"GET /code/api/jobs HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).decode().lower()
        found.append(int(head.split()[1]))
        await reader.readexactly(int(head.partition("content-length: ")[2].split()[0]))
    assert found == [200, 401, 200, 200, 401, 200]
    writer.close()


@pytest.mark.parametrize(
    "header",
    [
        "X-Forwarded-For: 203.0.113.7",
        "X-Forwarded-Proto: https",
        "x-forwarded-host: localhost",
        "Forwarded: for=127.0.0.1",
        "Via: 1.1 proxy",
        "X-Real-IP: 127.0.0.1",
    ],
)
async def test_what_came_through_a_proxy_is_not_from_this_machine(
    listen: Listen, header: str, caplog: pytest.LogCaptureFixture
) -> None:
    port = await listen()
    name, _, value = header.partition(": ")
    assert await status(f"http://127.0.0.1:{port}", headers={name: value}) == 401
    assert "came through a proxy" in caplog.text


@pytest.mark.slow
async def test_a_proxy_that_adds_nothing_is_known_by_its_version(
    listen: Listen, tmp_path: Path
) -> None:
    port = await listen()
    async with proxied(int(port), tmp_path, bare=True) as address:
        assert await status(address) == 401


async def test_a_unix_socket_is_this_machines(listen: Listen, tmp_path: Path) -> None:
    path = await listen(str(tmp_path / "socket"), sandbox=PLAIN)
    for host, wanted in (("localhost", 202), ("evil.example", 401)):
        assert await status(f"http://{host}", aiohttp.UnixConnector(path)) == wanted


async def test_everybody_is_taken_where_the_configuration_says_so(
    listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    port = await listen("0.0.0.0", auth={"anonymous": True})  # noqa: S104
    (said,) = [r for r in caplog.records if r.name == "streamer.web.callers.access"]
    assert said.levelno == logging.WARNING
    assert "everybody" in said.getMessage()
    for headers in ({}, {"Host": "www.example.org", "X-Forwarded-For": "203.0.113.7"}):
        assert await status(f"http://{other_address()}:{port}", headers=headers) == 202
    # Not a page of another site, though: a browser would come with its user's address.
    headers = {"Origin": "https://evil.example"}
    assert await status(f"http://127.0.0.1:{port}", headers=headers) == 403


def test_tokens_that_nobody_is_asked_for_are_refused() -> None:
    auth = {"anonymous": True, "tokens": [{"tenant": "a", "sha256": "5" * 64}]}
    with pytest.raises(streamer.errors.ConfigError, match=r"auth\.anonymous: .*auth\.tokens"):
        streamer.create_app({"auth": auth})


SUBMIT = """
import json, socket, sys
address, close = json.loads(sys.argv[1]), sys.argv[2]
client = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
client.connect(address if isinstance(address, str) else tuple(address))
body = b'{"language": "python", "code": "print(1)", "sandbox": "plain"}'
client.sendall(
    b"POST /code/api/execute HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Type: application/json\\r\\n"
    b"Content-Length: %d\\r\\n\\r\\n%s" % (len(body), body)
)
if close == "keep":
    print(client.recv(1000).split()[1].decode())
"""


def submit_as(uid: int, address: object, close: str = "keep") -> str:
    """Submit a job as another account and return the answer's status."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", SUBMIT, json.dumps(address), close],
        user=uid,
        group=uid,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another account")


@needs_root
@pytest.mark.parametrize("where", ["tcp", "unix"])
@pytest.mark.parametrize(
    ("sandbox", "others"),
    [
        ({"backend": "bwrap"}, "202"),
        ({"backend": "bwrap", "allow": ["firejail"]}, "202"),
        (PLAIN, "401"),
        ({"backend": "plain"}, "401"),
        ({"backend": "bwrap", "allow_command": True}, "401"),
        ({"backend": "bwrap", "network": "open"}, "401"),
        ({"preset": "dev"}, "401"),
    ],
)
async def test_another_account_of_this_machine_reaches_no_program_without_isolation(
    listen: Listen, tmp_path: Path, where: str, sandbox: dict[str, Any], others: str
) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o001 == 0:
            folder.chmod(folder.stat().st_mode | 0o011)
    address: Any = str(tmp_path / "socket")
    found = await listen(address if where == "unix" else "127.0.0.1", sandbox=sandbox)
    if where == "unix":
        Path(address).chmod(0o777)
    else:
        address = ["127.0.0.1", int(found)]
    # If plain is not allowed, "sandbox": "plain" itself is refused: 403.
    expected = {"202": "403", "401": "401"}[others]
    assert await asyncio.to_thread(submit_as, STRANGER, address) == expected
    mine = await asyncio.to_thread(submit_as, os.geteuid(), address)
    reachable = (
        "plain" in (sandbox.get("backend"), *sandbox.get("allow", ())) or "preset" in sandbox
    )
    assert mine == ("202" if reachable else "403")


@needs_root
async def test_another_account_that_is_gone_before_it_is_looked_at_is_not_root(
    listen: Listen,
) -> None:
    # The kernel shows the end of a connection that no process holds any more as root's.
    port = int(await listen(sandbox=PLAIN))
    for _ in range(20):
        await asyncio.to_thread(submit_as, STRANGER, ["127.0.0.1", port], "leave")
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/code/api/jobs") as response,
    ):
        assert (await response.json())["jobs"] == []


@pytest.fixture(params=["asked", "tables"])
def looked_up(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the kernel for the one connection, or have the tables in /proc read."""
    if request.param == "asked":
        monkeypatch.setattr(
            "streamer.web.callers.connection.TABLES", (Path("/proc/net/no-such-table"),)
        )
    else:
        monkeypatch.setattr("streamer.web.callers.sockdiag.works", lambda: False)


@pytest.mark.usefixtures("looked_up")
def test_an_account_is_not_known_of_an_end_that_was_closed() -> None:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.create_server((host, 0), family=family) as server:
            client = socket.create_connection(server.getsockname()[:2])
            accepted, _ = server.accept()
            with accepted:
                assert is_local(accepted)
                assert account(accepted) == os.geteuid()
                client.shutdown(socket.SHUT_WR)  # still held by a process
                assert account(accepted) == os.geteuid()
                client.close()
                assert account(accepted) is None


def test_a_connection_that_is_over_is_nobodys() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    client.close()
    accepted.close()
    assert not is_local(accepted)
    assert account(accepted) is None


def test_who_listens_where_the_other_end_was_is_not_the_other_end() -> None:
    # A program beside this one may take the port first.
    for _ in range(100):
        with contextlib.suppress(OSError):
            assert listened_where_the_other_end_was() is None
            return
    pytest.fail("no port was free again")


def listened_where_the_other_end_was() -> int | None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        ended = struct.pack("ii", 1, 0)  # immediate, so that nothing is left of the connection
        with accepted:
            name = client.getsockname()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ended)
            seen = Seen(socket.AF_INET, accepted.getsockname(), accepted.getpeername())
            client.close()
            with socket.create_server(name):
                return account(seen)


async def test_without_the_kernels_tables_nobody_is_known(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = await listen(sandbox=PLAIN)
    monkeypatch.setattr(
        "streamer.web.callers.connection.TABLES", (Path("/proc/net/no-such-table"),)
    )
    monkeypatch.setattr("streamer.web.callers.sockdiag.works", lambda: False)
    assert await status(f"http://127.0.0.1:{port}") == 401


@pytest.fixture
async def client(start: Start) -> AnyClient:
    return await start()


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
async def test_a_page_of_another_site_is_known_without_an_origin(
    client: AnyClient, site: str
) -> None:
    # What <img> and <script> in a page send.
    async with client.get("/api/jobs", headers={"Sec-Fetch-Site": site}) as response:
        await problem(response, 403, "forbidden")
    # A link of another page to ours, which the user follows.
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
    async with client.get("/", headers=headers) as response:
        assert response.status == 200
    async with client.post("/api/execute", json=python("1"), headers=headers) as response:
        await problem(response, 403, "forbidden")
    for own in ("same-origin", "none"):
        async with client.get("/api/jobs", headers={"Sec-Fetch-Site": own}) as response:
            assert response.status == 200


class Seen:
    """A connection as a host with unusual routes or user namespaces would show it."""

    def __init__(self, family: int, own: object, peer: object, uid: int = 0) -> None:
        self.family = family
        self._names = (own, peer)
        self._uid = uid

    def getsockname(self) -> object:
        return self._names[0]

    def getpeername(self) -> object:
        return self._names[1]

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        assert (level, optname) == (socket.SOL_SOCKET, socket.SO_PEERCRED)
        return struct.pack("iII", 1, self._uid, 0)


@pytest.mark.parametrize(
    ("own", "peer", "local"),
    [
        (("127.0.0.1", 80), ("127.0.0.1", 5000), True),
        (("127.8.8.8", 80), ("127.0.0.1", 5000), True),
        (("::1", 80, 0, 0), ("::1", 5000, 0, 0), True),
        (("::ffff:127.0.0.1", 80, 0, 0), ("::ffff:127.0.0.1", 5000, 0, 0), True),
        # net.ipv4.conf.all.route_localnet: a packet from elsewhere for 127.0.0.1
        (("127.0.0.1", 80), ("10.0.0.5", 5000), False),
        (("::ffff:127.0.0.1", 80, 0, 0), ("::ffff:10.0.0.5", 5000, 0, 0), False),
        (("192.0.2.2", 80), ("192.0.2.2", 5000), False),
        (("fe80::1%lo", 80, 0, 1), ("fe80::1%lo", 5000, 0, 1), False),
        (None, None, False),
        ("", "", False),
    ],
)
def test_both_ends_of_a_local_connection_are_loopback(
    own: object, peer: object, *, local: bool
) -> None:
    assert is_local(Seen(socket.AF_INET6, own, peer)) is local


def test_an_account_that_is_not_mapped_here_is_nobodys() -> None:
    overflow = int(Path("/proc/sys/kernel/overflowuid").read_text())
    assert account(Seen(socket.AF_UNIX, "", "", 1234)) == 1234
    assert account(Seen(socket.AF_UNIX, "", "", overflow)) is None
