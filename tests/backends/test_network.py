"""Reach out of sandboxes: through the allow-list's proxy, and around it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

import streamer
from streamer.compose import Parts
from streamer.errors import BackendUnavailable, Forbidden, SandboxFailure
from streamer.model.hosts import Address, address_refusal
from streamer.model.job import JobSpec
from streamer.model.session import SessionSpec
from streamer.sandbox import trial
from streamer.sandbox.drivers.channel import InitChannel
from streamer.sandbox.drivers.netns import check_own_network
from streamer.sandbox.network.proxy import PROXY_PORT, Outbound
from streamer.spi import Backend, Isolation, LaunchPlan, SandboxJob
from tests.backends.conftest import checked_runs
from tests.conftest import OpenService
from tests.running import descriptors, ended, program, run_job

HERE = "127.0.0.1"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
ANSWERS = {"ok.test": [HERE], "a.wild.test": [HERE], "inside.test": ["10.0.0.1"]}

# The result of each attempt as the program sees it: an HTTP status, or an error's name.
TRY = """
import json, os, socket, urllib.request, urllib.error

def get(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError as error:
        return str(error)

def raw(line, host="127.0.0.1", port=int(os.environ.get("http_proxy", ":3128")[-4:])):
    try:
        with socket.create_connection((host, port), timeout=10) as sock:
            sock.sendall(line + b"\\r\\n\\r\\n")
            return sock.recv(100).split(b"\\r\\n")[0].decode() or "closed"
    except OSError as error:
        return type(error).__name__
"""


def but_loopback(address: Address) -> str:
    """Judge addresses as the proxy does, but allow the test's own server."""
    return "" if str(address) == HERE else address_refusal(address)


async def addresses(host: str) -> Sequence[str]:
    return ANSWERS[host]


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Return the port of a server on the host's loopback that answers ok, then echoes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            await reader.read()
        writer.close()

    listening = await asyncio.start_server(serve, HERE, 0)
    async with listening:
        yield int(listening.sockets[0].getsockname()[1])


async def filtered(
    open_service: OpenService, backend: str, *entries: str, plugins: tuple[object, ...] = ()
) -> Parts:
    """Start a service with an allow-list, and a resolver with the test's names."""
    sandbox = {"network": "allow-list", "allow_hosts": list(entries)}
    service = await open_service(backend, sandbox=sandbox, plugins=plugins)
    service.worker._settings = replace(
        service.worker._settings, outbound=Outbound(addresses, but_loopback)
    )
    return service


async def outcome(service: Parts, source: str, **spec: Any) -> Any:
    """Run a program with network access and return what it printed as JSON."""
    ran = await run_job(service, network=True, **program(TRY + source), **spec)
    return json.loads(ran.out)


async def test_the_list_is_what_a_program_can_reach(
    open_service: OpenService, isolating_backend: str, port: int
) -> None:
    service = await filtered(
        open_service, isolating_backend, f"ok.test:{port}", f"*.wild.test:{port}", "inside.test"
    )
    async for run in checked_runs(service):
        source = f"""
port = {port}
served = socket.create_server(("127.0.0.1", 0))
print(json.dumps({{
    "allowed": get(f"http://ok.test:{{port}}/"),
    "below": get(f"http://a.wild.test:{{port}}/"),
    "tunnel": raw(b"CONNECT ok.test:%d HTTP/1.1" % port),
    "parent": get(f"http://wild.test:{{port}}/"),
    "other": get("http://other.test/"),
    "port": raw(b"CONNECT ok.test:22 HTTP/1.1"),
    "metadata": get("http://169.254.169.254/latest/meta-data"),
    "literal": raw(b"CONNECT 127.0.0.1:%d HTTP/1.1" % port),
    "points inside": get("http://inside.test/"),
    "nul": raw(b"CONNECT evil\\0.ok.test:%d HTTP/1.1" % port),
    "suffix": get(f"http://ok.test.evil.test:{{port}}/"),
    "userinfo": raw(b"GET http://ok.test@evil.test/ HTTP/1.1"),
    "around": raw(b"GET / HTTP/1.1", port=port),
    "far around": raw(b"GET / HTTP/1.1", "192.0.2.1", 80),
    "by its name": raw(b"", "ok.test", port),
    "its own server": socket.create_connection(served.getsockname()).close(),
    "variables": sorted(k for k in os.environ if k.lower().endswith("_proxy")),
}}))
"""
        ran = await run(network=True, **program(TRY + source))
    assert json.loads(ran.out) == {
        "allowed": 200,
        "below": 200,
        "tunnel": "HTTP/1.1 200 Connection established",
        "parent": 403,
        "other": 403,
        "port": "HTTP/1.1 403 Not in sandbox.allow_hosts",
        "metadata": 403,
        "literal": "HTTP/1.1 403 Not in sandbox.allow_hosts",
        "points inside": 403,
        "nul": "HTTP/1.1 400 Bad Request",
        "suffix": 403,
        "userinfo": "HTTP/1.1 400 Bad Request",
        "around": "ConnectionRefusedError",
        "far around": "OSError",
        "by its name": "gaierror",
        "its own server": None,
        "variables": [
            *("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"),
            *("all_proxy", "http_proxy", "https_proxy", "no_proxy"),
        ],
    }


async def test_what_a_job_left_open_is_closed_with_it(
    open_service: OpenService, isolating_backend: str, port: int
) -> None:
    service = await filtered(open_service, isolating_backend, f"ok.test:{port}")
    async for run in checked_runs(service):
        source = f"""
kept = [socket.create_connection(("127.0.0.1", {PROXY_PORT})) for _ in range(40)]
for sock in kept[:10]:
    sock.sendall(b"CONNECT ok.test:{port} HTTP/1.1\\r\\n\\r\\n")
for sock in kept[:10]:
    assert b" 200 " in sock.recv(100)
for sock in kept[10:20]:
    sock.sendall(b"CONNECT ok.te")
print(len(kept), flush=True)
os._exit(0)
"""
        for _ in range(2):
            ran = await run(network=True, **program(TRY + source))
            assert ran.out == "40\n"


async def test_a_job_cannot_use_the_proxy_of_another(
    open_service: OpenService, isolating_backend: str, port: int
) -> None:
    service = await filtered(open_service, isolating_backend, f"ok.test:{port}")
    wait = f"print(get('http://ok.test:{port}/'), flush=True); input()"
    holder = await service.jobs.submit(
        JobSpec(network=True, interactive=True, **program(f"{TRY}\n{wait}"))
    )
    async for event in holder.events():
        if event.kind == "output":
            break
    source = f"""
names = [k for k in os.environ if k.lower().endswith("_proxy")]
print(json.dumps([names, raw(b"CONNECT ok.test:{port} HTTP/1.1")]))
"""
    ran = await run_job(service, **program(TRY + source))
    assert json.loads(ran.out) == [[], "ConnectionRefusedError"]
    await holder.write(b"\n")
    assert (await ended(holder)).out == "200\n"


async def test_a_socket_of_the_hosts_network_is_refused() -> None:
    ours, theirs = socket.socketpair()
    channel = InitChannel(ours)
    with socket.create_server((HERE, 0)) as listener:
        listening = asyncio.create_task(channel.listen(PROXY_PORT))
        assert await asyncio.get_running_loop().sock_recv(nonblocking(theirs), 100)
        socket.send_fds(theirs, [struct.pack("<I", 1) + b"L"], [listener.fileno()])
        handed_out = await listening
    with handed_out, pytest.raises(SandboxFailure, match="shares the host's network"):
        check_own_network(handed_out)
    channel.close()
    theirs.close()


async def test_descriptors_that_nobody_asked_for_are_closed() -> None:
    ours, theirs = socket.socketpair()
    before = descriptors()
    channel = InitChannel(ours)
    with socket.create_server((HERE, 0)) as listener:
        for kind in (b"?", b"L"):
            socket.send_fds(theirs, [struct.pack("<I", 1) + kind], [listener.fileno()])
    with pytest.raises(SandboxFailure, match="a descriptor without a question"):
        await channel.listen(PROXY_PORT)
    channel.close()
    assert len(descriptors()) == len(before) - 1  # its own end of the channel
    theirs.close()


def nonblocking(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    return sock


async def test_the_list_is_part_of_the_policy(
    open_service: OpenService, need: Callable[[str], str]
) -> None:
    need("bwrap")
    digests = set()
    for entries in (["ok.test"], ["ok.test", "a.test"]):
        service = await filtered(open_service, "bwrap", *entries)
        for network in (False, True):
            job = await service.jobs.submit(JobSpec(network=network, **program("")))
            await job.result()
            digests.add((await job.view()).job.policy)
    assert len(digests) == 3


async def test_no_network_without_a_word(open_service: OpenService, isolating_backend: str) -> None:
    service = await open_service(isolating_backend, sandbox={"allow_hosts": ["ok.test"]})
    with pytest.raises(Forbidden, match=r"sandbox\.network") as refused:
        await service.jobs.submit(JobSpec(network=True, **program("")))
    assert refused.value.path == "$.network"


async def test_an_empty_list_is_none(open_service: OpenService, backend: str) -> None:
    service = await filtered(open_service, backend)
    with pytest.raises(Forbidden, match=r"sandbox\.allow_hosts"):
        await service.jobs.submit(JobSpec(network=True, **program("")))


async def test_plain_cannot_hold_a_job_to_a_list(open_service: OpenService) -> None:
    service = await filtered(open_service, "plain", "ok.test")
    with pytest.raises(Forbidden, match="'plain' cannot enforce that"):
        await service.jobs.submit(JobSpec(network=True, **program("")))


async def test_an_open_network_is_the_hosts(
    open_service: OpenService, backend: str, port: int
) -> None:
    service = await open_service(backend, sandbox={"network": "open"})
    said = await outcome(service, f"print(json.dumps(raw(b'GET / HTTP/1.1', port={port})))")
    assert said == "HTTP/1.1 200 OK"
    if backend != "plain":  # unless it is asked for
        ran = await run_job(
            service, **program(f"{TRY}\nprint(raw(b'GET / HTTP/1.1', port={port}))")
        )
        assert ran.out == "ConnectionRefusedError\n"


@dataclass(frozen=True)
class Boaster(Backend):
    """A backend that claims a separate network namespace and shares the host's."""

    name: ClassVar[str] = "boaster"
    isolation: ClassVar[Isolation] = Isolation.NAMESPACES

    def plan(self, job: SandboxJob, workspace: Path) -> LaunchPlan:
        return LaunchPlan(
            argv=job.argv,
            cwd=str(workspace),
            workspace=str(workspace),
            start_as=job.identity,
            own_pid_namespace=True,
        )


class BoasterPlugin:
    @streamer.hookimpl
    def streamer_backends(self) -> list[type[Backend]]:
        return [Boaster]


async def test_a_sandbox_in_the_hosts_network_is_refused_where_hosts_are_listed(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The start-up test of its claims would refuse it, so it is skipped here.
    monkeypatch.setattr(trial, "broken_claim", lambda *_, **__: "")
    await open_service("boaster", plugins=(BoasterPlugin(),))
    with pytest.raises(BackendUnavailable, match="shares the host's network"):
        await filtered(open_service, "boaster", "ok.test", plugins=(BoasterPlugin(),))


async def test_each_job_of_a_session_has_its_own_proxy(
    open_service: OpenService, isolating_backend: str, port: int
) -> None:
    service = await filtered(open_service, isolating_backend, f"ok.test:{port}")
    session = await service.jobs.sessions.open(SessionSpec(network=True))
    session_id = session.session.session_id
    for _ in range(3):
        source = f'print(json.dumps([get("http://ok.test:{port}/"), get("http://other.test/")]))'
        assert await outcome(service, source, session_id=session_id) == [200, 403]
