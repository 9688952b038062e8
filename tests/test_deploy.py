"""The files of deploy/ for a service in parts: what they name fits together, and they are taken."""

from __future__ import annotations

import asyncio
import io
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from aiohttp import ClientError, ClientSession, ClientTimeout

import streamer
from streamer.errors import ConfigError
from tests.interop.nginx import serving
from tests.nodes import Node, node
from tests.redisserver import free_port, redis_server
from tests.support import Received, received

DEPLOY: Final = Path(streamer.__file__).parent.parent / "deploy"
COMPOSE: Final = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: Final = COMPOSE["services"]
FLEET: Final = DEPLOY / "fleet.toml"
NGINX: Final = (DEPLOY / "nginx.conf").read_text()
DOCKERFILE: Final = (DEPLOY / "Dockerfile").read_text()
OURS: Final = ("api1", "api2", "worker")
LINES: Final = 6
ECHO: Final = f"""
import os
for number in range({LINES}):
    os.write(1, b"line %d\\n" % number)
    input()
"""
NAP: Final = "import time; time.sleep(4); print('once')"


def test_there_are_two_api_nodes_and_three_workers() -> None:
    assert SERVICES.keys() == {"nginx", "redis", *OURS}
    assert SERVICES["worker"]["deploy"]["replicas"] == 3
    roles = {name: SERVICES[name]["command"][1:] for name in OURS}
    assert roles == {
        "api1": ["--role", "api"],
        "api2": ["--role", "api"],
        "worker": ["--role", "worker"],
    }
    assert set(re.findall(r"^  server (\w+):8080 ", NGINX, re.MULTILINE)) == {"api1", "api2"}


@pytest.mark.parametrize("name", OURS)
def test_the_service_takes_its_configuration(name: str) -> None:
    given = {
        key: re.sub(r"\$\{REDIS_PASSWORD:\?[^}]*\}", "0a1b", value)
        for key, value in SERVICES[name]["environment"].items()
    }
    # What an image sets for all of its containers.
    given |= dict(re.findall(r"(STREAMER_SERVER__\w+)=(\S+)", DOCKERFILE))
    with pytest.raises(ConfigError, match="no_such_key"):
        streamer.load_config(FLEET, environ={**given, "STREAMER_SERVER__NO_SUCH_KEY": "1"})
    config = streamer.load_config(FLEET, environ=given)
    assert config.engine.url == "redis://:0a1b@redis:6379/0"
    assert config.server.host == "0.0.0.0"  # noqa: S104 - that of a container
    (front,) = COMPOSE["networks"]["front"]["ipam"]["config"]
    assert front["subnet"] in config.server.trusted_proxies
    volumes = dict(volume.split(":")[:2] for volume in SERVICES[name]["volumes"])
    assert config.engine.blobs_url == f"file://{volumes['files']}"
    assert Path(config.auth.tokens_file).parent == Path(volumes["tokens"])
    assert f"{volumes['files']} {volumes['tokens']}" in DOCKERFILE


def test_what_the_parts_name_is_there() -> None:
    for name, service in SERVICES.items():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            known = source in COMPOSE["volumes"] or (DEPLOY / source).is_file()
            assert known, (name, volume)
        assert set(service["networks"]) <= COMPOSE["networks"].keys()
        assert set(service.get("depends_on", ())) <= SERVICES.keys()
        if build := service.get("build"):
            assert (DEPLOY / build["context"] / build["dockerfile"]).samefile(DEPLOY / "Dockerfile")
            assert re.search(rf"^FROM \w+ AS {build['target']}$", DOCKERFILE, re.MULTILINE)
    copied = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    sources = [line[1:] for line in copied if line.startswith("!")]
    assert [name for name in sources if not (DEPLOY.parent / name).exists()] == []
    locks = re.findall(r"-r (requirements/\S+)", DOCKERFILE)
    assert [name for name in locks if not (DEPLOY.parent / name).is_file()] == []


def test_nothing_has_more_rights_than_it_needs() -> None:
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["user"] not in {"root", "0"}, name
        assert not service.keys() & {"privileged", "cap_add", "devices", "pid", "network_mode"}
        loosened = [one for one in service["security_opt"] if "unconfined" in one]
        assert bool(loosened) is (name == "worker")
        assert "no-new-privileges:true" in service["security_opt"]
    assert {name for name, one in SERVICES.items() if "ports" in one} == {"nginx"}
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["nginx"]["ports"])
    assert SERVICES["worker"]["networks"] == SERVICES["redis"]["networks"] == ["back"]


def test_redis_takes_its_configuration() -> None:
    text = (DEPLOY / "redis.conf").read_text()
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    set_by_file = [(line[0], line[1]) for line in lines if line]
    options = [word for key, value in set_by_file for word in (f"--{key}", value)]
    with redis_server(*options) as server:
        for key, value in set_by_file:
            expected = b"%d" % 2**30 if value == "1gb" else value.encode()
            assert server.said("CONFIG", "GET", key).split(b"\r\n")[-2] == expected, key


@pytest.mark.parametrize("part", ["api", "worker"])
def test_a_unit_starts_what_a_container_does(part: str) -> None:
    unit = (DEPLOY / f"streamer-{part}@.service").read_text()
    (command,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    name = "worker" if part == "worker" else "api1"
    assert command.split()[1:] == [*SERVICES[name]["command"], "--port", "%i"]


@dataclass
class Behind:
    """A service of two API nodes and a worker, and nginx before it."""

    session: ClientSession
    nodes: tuple[Node, Node]

    async def submit(self, **job: Any) -> str:
        async with self.session.post("/api/execute", json=job) as answer:
            assert answer.status == 202, await answer.text()
            return str((await answer.json())["jobId"])

    async def jobs(self) -> list[str]:
        async with self.session.get("/api/jobs") as answer:
            return [job["status"] for job in (await answer.json())["jobs"]]

    async def until_running(self, count: int) -> None:
        while (await self.jobs()).count("running") < count:
            await asyncio.sleep(0.02)

    def kill_the_node_that_answers(self) -> None:
        """Kill the one node to which nginx has a connection."""
        ports = {int(each.url.rpartition(":")[2]): each for each in self.nodes}
        (port,) = {port for port in connected() if port in ports}
        ports[port].process.kill()
        ports[port].process.wait()


def connected() -> Iterator[int]:
    """Yield the remote ports of all established connections of IPv4."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, state, *_ = line.split()
        if state == "01":
            yield int(remote.rpartition(":")[2], 16)


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder that the users of jobs can pass through."""
    with tempfile.TemporaryDirectory(prefix="streamer-deploy-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def settings(place: Path) -> tuple[str, ...]:
    """Return what differs from fleet.toml here: its folders."""
    (place / "files").mkdir(mode=0o700)
    return (f"engine.blobs_url=file://{place}/files", f"auth.tokens_file={place}/tokens.json")


@pytest.fixture
def token(settings: tuple[str, ...]) -> str:
    command = [sys.executable, "-m", "streamer", "token", "create", "--tenant", "school"]
    options = [*("--config", str(FLEET)), *(word for one in settings for word in ("--set", one))]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
async def behind(
    place: Path, settings: tuple[str, ...], token: str, backend_reasons: dict[str, str]
) -> AsyncIterator[Behind]:
    if backend_reasons["bwrap"]:
        pytest.skip(f"bwrap: {backend_reasons['bwrap']}")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        engine = stack.enter_context(redis_server()).url()
        patch.setenv("STREAMER_CONFIG", str(FLEET))
        one, other, worker = (
            stack.enter_context(node(place / name, role, engine, *settings))
            for name, role in (("one", "api"), ("other", "api"), ("worker", "worker"))
        )
        assert all(each.url for each in (one, other, worker))
        async with proxied((one, other), place, token) as session:
            async with asyncio.timeout(60):
                while True:
                    async with session.get("/readyz") as answer:
                        if answer.status == 200:
                            break
                    await asyncio.sleep(0.02)
            yield Behind(session, (one, other))


@asynccontextmanager
async def proxied(
    nodes: tuple[Node, Node], folder: Path, token: str
) -> AsyncIterator[ClientSession]:
    """Run nginx as it is deployed, but with these nodes, and a port and a log of its own."""
    port = free_port()
    text = NGINX.replace("listen 8080;", f"listen 127.0.0.1:{port};")
    text = text.replace("/var/log/nginx/access.log", str(folder / "access.log"))
    for name, each in zip(("api1", "api2"), nodes, strict=True):
        text = text.replace(f"{name}:8080", each.url.removeprefix("http://"))
    async with (
        serving(text, folder),
        ClientSession(
            f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=ClientTimeout(90),
        ) as session,
    ):
        yield session


async def test_a_stream_is_live_and_goes_on_at_the_other_node(behind: Behind) -> None:
    job_id = await behind.submit(language="python", code=ECHO, interactive=True)
    seen: list[Received] = []

    async def follow(lines: int) -> None:
        """Read until there are so many lines in all, and answer each but the last."""
        last = seen[-1].id if seen else 0
        async with behind.session.get(
            f"/api/stream/{job_id}", headers={"Last-Event-ID": str(last)}
        ) as stream:
            assert stream.status == 200, await stream.text()
            async for event in received(stream):
                if event.id:
                    seen.append(event)
                if event.kind != "output":
                    continue
                if len(outputs(seen)) == lines:
                    behind.kill_the_node_that_answers()
                else:
                    await answer()

    async def answer() -> None:
        # The program writes its next line only after this.
        async with behind.session.post(f"/api/jobs/{job_id}/stdin", data=b"\n") as written:
            assert written.status == 202, await written.text()

    async with asyncio.timeout(80):
        with pytest.raises(ClientError):  # it breaks off, and does not seem to have ended
            await follow(3)
        assert outputs(seen) == [f"line {number}\n" for number in range(3)]
        await answer()
        await follow(LINES + 1)
    assert outputs(seen) == [f"line {number}\n" for number in range(LINES)]
    assert [event.id for event in seen] == list(range(1, len(seen) + 1))
    assert [event.kind for event in seen].count("complete") == 1


def outputs(events: list[Received]) -> list[str]:
    return [event.data["data"] for event in events if event.kind == "output"]


async def test_a_submission_is_not_run_twice(behind: Behind) -> None:
    job = {"language": "python", "code": NAP}

    async def post(**headers: str) -> tuple[int, Any]:
        prefer = {"Prefer": "wait=60", **headers}
        async with behind.session.post("/api/execute", json=job, headers=prefer) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if answer.status == 200 else text

    async with asyncio.timeout(80):
        waiting = asyncio.create_task(post())
        await behind.until_running(1)
        behind.kill_the_node_that_answers()
        # It was sent, so nginx gives it to no other node.
        status, text = await waiting
        assert status == 502, text
        while await behind.jobs() != ["complete"]:
            await asyncio.sleep(0.05)


async def test_a_submission_with_a_key_is_answered_by_the_other_node(behind: Behind) -> None:
    headers = {"Prefer": "wait=60", "Idempotency-Key": "lesson-3"}
    job = {"language": "python", "code": NAP}
    async with asyncio.timeout(80):
        waiting = asyncio.create_task(
            behind.session.post("/api/execute", json=job, headers=headers)
        )
        await behind.until_running(1)
        behind.kill_the_node_that_answers()
        async with await waiting as answer:
            assert answer.status == 200, await answer.text()
            assert answer.headers["Idempotency-Replayed"] == "true"
            assert (await answer.json())["result"]["stdout"] == "once\n"
        assert await behind.jobs() == ["complete"]


async def test_what_nginx_answers_itself(behind: Behind, place: Path) -> None:
    for path, status in (("/nginx-health", 204), ("/metrics", 404), ("/healthz?grant=secret", 200)):
        async with behind.session.get(path) as answer:
            assert answer.status == status, path
    async with behind.session.post(
        "/api/projects", data=io.BytesIO(bytes(66 << 20)), expect100=True
    ) as answer:
        assert answer.status == 413
        assert answer.headers["Server"] == "nginx"
    behind.nodes[0].process.kill()
    behind.nodes[0].process.wait()
    for _ in range(4):  # nothing was sent to a node that cannot be reached, so the other gets it
        await behind.submit(language="python", code="1")
    log = (place / "access.log").read_text()
    assert " GET /healthz 200 " in log
    assert "secret" not in log
