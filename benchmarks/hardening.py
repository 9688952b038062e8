"""Time each layer of the bwrap backend's hardening over a minimal bwrap.

    python -m benchmarks.hardening [ROUNDS]

For echo and for python: the program alone, in a minimal bwrap, with all our arguments, with our
init, with the system call filter, and as a job over HTTP to its last event. All take turns within a
round, so that the ratios of medians to the minimal bwrap are right even if the machine's speed
drifts.
"""

from __future__ import annotations

import asyncio
import functools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Final

from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

import streamer
from sandboxes.bwrap import Bwrap
from streamer.model.job import Limits
from streamer.sandbox.host.rootfs import shown
from streamer.sandbox.host.users import JobUsers
from streamer.sandbox.pool import Pool, open_pool
from streamer.sandbox.shape import Run, Shape
from streamer.sandbox.stdio import Stdio
from streamer.spi import Host, Identity, SandboxJob
from streamer.sse import EventParser

PROGRAMS: Final[Mapping[str, tuple[str, ...]]] = {
    "echo": ("/usr/bin/echo", "hi"),
    "python": ("/usr/bin/python3", "-I", "-c", "print('hi')"),
}
MINIMAL: Final = ("/usr/bin/bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--")
REFERENCE: Final = "minimal bwrap"
ENV: Final = {"PATH": "/usr/bin:/bin"}
FIRST_UID: Final = 60706


class Unfiltered(Bwrap):
    """The backend without its system call filter."""

    seccomp = False


def described(argv: tuple[str, ...], identity: Identity | None, host: Host) -> SandboxJob:
    """Return the job that a backend has to plan."""
    return SandboxJob(
        name="benchmark",
        argv=argv,
        env=ENV,
        limits=Limits(),
        network=False,
        shown=shown(host, (), (), network=False),
        identity=identity,
        host=host,
    )


def run_command(argv: Sequence[str]) -> None:
    """Run a command to its end and the end of its output."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=ENV) as process:
        output, _ = process.communicate()
    assert output == b"hi\n", output
    assert process.returncode == 0


def as_jobs_user(argv: Sequence[str], identity: Identity | None, host: Host) -> list[str]:
    """Return the command that changes to the job's user first, as a root service does."""
    if identity is None:
        return [*argv]
    user = [f"--uid={identity.uid}", f"--gid={identity.gid}"]
    return [str(host.init), "enter", *user, "--", *argv]


def bare_plan(argv: tuple[str, ...], identity: Identity | None, host: Host) -> list[str]:
    """Return our argument list with the program where the init would be."""
    plan = Bwrap().plan(described((str(host.init), "serve"), identity, host), Path("/"))
    return [*plan.argv[: plan.argv.index("--")], "--", *argv]


async def run_in_sandbox(pool: Pool, backend: str, argv: tuple[str, ...]) -> None:
    """Run a program in a sandbox with the init, as the service does."""
    sandbox = await pool.lend(Shape(backend, Limits()))
    stdio = Stdio.pipes()
    try:
        running = await sandbox.run(Run(argv, ENV, Limits(), stdio))
        end = await running.ended
        assert end.status == 0
        reading = stdio.take("stdout")
        assert os.read(reading, 10) == b"hi\n"
        os.close(reading)
    finally:
        stdio.close()
        await sandbox.close()


async def run_as_job(session: ClientSession, argv: tuple[str, ...]) -> None:
    """Run a program through the service, and follow it to its last event."""
    parser = EventParser()
    headers = {"Accept": "text/event-stream"}
    async with session.post("/api/execute", json={"command": argv}, headers=headers) as response:
        async for chunk in response.content.iter_any():
            if any(kind == "complete" for _, kind, _ in parser.feed(chunk)):
                return
    raise RuntimeError("the stream ended without a terminal event")


async def at_once(argv: Sequence[str]) -> None:
    """Run a command, blocking the loop: nothing else runs."""
    run_command(argv)


def ways_to_run(
    argv: tuple[str, ...], identity: Identity | None, pool: Pool, session: ClientSession
) -> Mapping[str, Callable[[], Awaitable[None]]]:
    """Return the ways to run one program that are compared, by name."""
    host = pool.folder.host
    commands: Mapping[str, Sequence[str]] = {
        "alone": argv,
        REFERENCE: (*MINIMAL, *argv),
        "all our arguments": bare_plan(argv, identity, host),
    }
    inside = {"and our init": "unfiltered", "and the filter": "bwrap"}
    return {
        **{
            way: functools.partial(at_once, as_jobs_user(command, identity, host))
            for way, command in commands.items()
        },
        **{
            way: functools.partial(run_in_sandbox, pool, backend, argv)
            for way, backend in inside.items()
        },
        "as a job over HTTP": functools.partial(run_as_job, session, argv),
    }


async def main(rounds: int) -> None:
    async with AsyncExitStack() as stack:
        pool = stack.enter_context(
            open_pool(
                {"bwrap": Bwrap(), "unfiltered": Unfiltered()},
                state_dir="",
                cgroup="off",
                cpu_weight=12,
                uid_base=FIRST_UID,
                places=1,
                users=1,
                strict_filter=False,
            )
        )
        identity = None
        if pool.folder.host.root:
            users = stack.enter_context(closing(JobUsers(FIRST_UID, 1)))
            identity = await stack.enter_async_context(users.lend())
        config = {"sandbox": {"backend": "bwrap", "allow_command": True}}
        server = TestServer(streamer.create_app(config))
        await server.start_server()
        stack.push_async_callback(server.close)
        session = await stack.enter_async_context(ClientSession(str(server.make_url("/"))))
        compared = {
            name: ways_to_run(argv, identity, pool, session) for name, argv in PROGRAMS.items()
        }
        times = {name: await time_in_turns(ways, rounds) for name, ways in compared.items()}
    print(f"{os.cpu_count()} cores, uid {os.getuid()}, {rounds} rounds, milliseconds")
    for name, measured in times.items():
        floor = statistics.median(measured[REFERENCE])
        print(f"\n{name:24}{'p50':>8}{'p95':>8}{'ratio':>8}")
        for way, seconds in measured.items():
            p50, p95 = statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1]
            print(f"{way:24}{p50 * 1e3:8.2f}{p95 * 1e3:8.2f}{p50 / floor:8.2f}")


async def time_in_turns(
    ways: Mapping[str, Callable[[], Awaitable[None]]], rounds: int
) -> Mapping[str, Sequence[float]]:
    """Return the seconds of each attempt, by the name of the way."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, attempt in ways.items():
            started = time.perf_counter()
            await attempt()
            if turn:  # the first warms up
                times[way].append(time.perf_counter() - started)
    return times


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
