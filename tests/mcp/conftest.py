"""A real `streamer mcp`, and clients of it by the SDK's own."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

COMMAND = (sys.executable, "-m", "streamer", "mcp", "--sandbox", "bwrap", "--config", os.devnull)
MODES = ("auto", "legacy")
"""The protocol of 2026, and the earlier one with a handshake."""
LISTENS = re.compile(r"MCP clients connect to (http://[^/]+)/mcp")


@dataclass
class Said:
    """What a call has told of its progress."""

    messages: list[str]
    seconds: list[float]

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        self.messages.append(message or "")
        self.seconds.append(progress)

    @property
    def job_id(self) -> str:
        return self.messages[0].split()[1].rstrip(",")


@pytest.fixture
def said() -> Said:
    return Said([], [])


def over_stdio(mode: str, *options: str) -> Client:
    """Return a client, not entered, that starts the command."""
    parameters = StdioServerParameters(
        command=COMMAND[0], args=[*COMMAND[1:], *options], cwd="/", env=dict(os.environ)
    )
    return Client(parameters, mode=mode)


@dataclass(frozen=True)
class Served:
    """A server over HTTP."""

    address: str
    process: subprocess.Popen[str]

    @asynccontextmanager
    async def client(self, mode: str = "auto", token: str | None = None) -> AsyncIterator[Client]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(60)) as http:
            transport = streamable_http_client(f"{self.address}/mcp", http_client=http)
            async with Client(transport, mode=mode) as client:
                yield client


@contextmanager
def served(*options: str, environment: Mapping[str, str] | None = None) -> Iterator[Served]:
    """Run the command with `--http` until the end."""
    argv = [*COMMAND, "--http", "--port", "0", "--set", "server.drain_s=0", *options]
    env = {**os.environ, **(environment or {})}
    with subprocess.Popen(argv, cwd="/", env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                if found := LISTENS.search(line):
                    break
            else:
                pytest.fail("".join(said))
            yield Served(found[1], process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.stderr.read()


@pytest.fixture(scope="module")
def with_tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that only lets in alice and bob, by the tokens `alice-token` and `bob-token`."""
    file = tmp_path_factory.mktemp("mcp") / "config.toml"
    tokens = [
        f'[[auth.tokens]]\ntenant = "{name}"\n'
        f'sha256 = "{hashlib.sha256(f"{name}-token".encode()).hexdigest()}"\n'
        for name in ("alice", "bob")
    ]
    file.write_text("\n".join(tokens))
    with served("--config", str(file)) as server:
        yield server


@pytest.fixture(scope="module")
def without_tokens() -> Iterator[Served]:
    """A server for this machine."""
    with served() as server:
        yield server


def text(result: Any) -> str:
    """Return the text of an answer, which must be no error."""
    assert not result.is_error, result.content[0].text
    return str(result.content[0].text)


def refusal(result: Any) -> str:
    """Return the text of an answer, which must be an error."""
    assert result.is_error, result.content[0].text
    return str(result.content[0].text)
