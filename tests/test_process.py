"""Start `streamer serve` as a separate process, and end it in every way."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import resource
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from yarl import URL

from tests.support import Received, open_to_all, other_address, processes_with, received

FAST = {"streams": {"grace_s": 0.05}}


class Server:
    """A running service, and an HTTP session."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        session: ClientSession,
        listens: str,
        log: asyncio.Task[bytes],
    ) -> None:
        self.process = process
        self.session = session
        self.listens = listens
        """The line of the log with the address."""
        self.log = log
        """The rest of its log, complete once it has ended."""

    async def submit(self, code: str, sandbox: str | None = None) -> str:
        job = {"language": "bash", "code": code, "sandbox": sandbox}
        async with self.session.post("/api/execute", json=job) as response:
            body = await response.json()
            assert response.status == 202, body
            return str(body["jobId"])

    async def events(self, job_id: str) -> list[Received]:
        async with self.session.get(f"/api/stream/{job_id}") as response:
            return [event async for event in received(response)]


@contextlib.asynccontextmanager
async def serving(
    folder: Path, *options: str, prefix: tuple[str, ...] = (), state: Path | None = None
) -> AsyncIterator[Server]:
    """Start the service on a free port, with its own state in `folder`, or in `state`."""
    process = await asyncio.create_subprocess_exec(
        *(*prefix, sys.executable, "-m", "streamer", "serve", "--port", "0"),
        *(
            "--set",
            f"server.state_dir={state or folder}",
            "--set",
            "streams.grace_s=0.05",
            *options,
        ),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    found = None
    said = ""
    while not found:
        line = (await asyncio.wait_for(process.stderr.readline(), 30)).decode()
        said += line
        assert line, f"the service ended at its start: {said}"
        found = re.search(r"listens on (http://[\d.]+:\d+)", line)
    # Read on, or the pipe fills; the rest is the operator's.
    draining = asyncio.create_task(process.stderr.read())
    async with ClientSession(found[1]) as session:
        try:
            yield Server(process, session, line, draining)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await draining


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return a folder that every user may pass through, as jobs do on their way."""
    folder = tmp_path / "state"
    folder.mkdir()
    return open_to_all(folder)


@pytest.mark.parametrize("umask", ["022", "027", "077"])
async def test_a_service_works_under_any_umask(
    state: Path, need: Callable[[str], str], umask: str
) -> None:
    options = ("--set", f"sandbox.backend={need('bwrap')}", "--set", 'sandbox.allow=["plain"]')
    under = ("sh", "-c", f'umask {umask}; exec "$@"', "sh")
    async with serving(state, *options, prefix=under, state=state / "made" / "here") as server:
        for sandbox in ("bwrap", "plain"):
            events = await server.events(await server.submit("echo x > f; cat f", sandbox))
            assert [e.data["data"] for e in events if e.kind == "output"] == ["x\n"], events
            assert events[-1].data["exitCode"] == 0


@pytest.mark.slow
async def test_a_flood_to_a_reader_that_hardly_reads_stays_out_of_memory(state: Path) -> None:
    mib = 1024 * 1024
    settings = {
        "streams.retention_bytes": 8 * mib,
        "streams.log_memory_bytes": 2 * mib,
        "limits.default.output_bytes": 256 * mib,
    }
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    async with serving(state, *options) as server:
        for event in await server.events(await server.submit("echo warm")):
            assert event.kind != "error"
        before = peak_bytes(server.process.pid)
        job_id = await server.submit(f"yes {'x' * 200} | head -c {200 * mib}")
        async with server.session.get(f"/api/stream/{job_id}") as slow:
            assert await slow.content.read(1024)  # and no more
            size = 0
            async with server.session.get(f"/api/jobs/{job_id}/output/stdout") as quick:
                async for chunk in quick.content.iter_any():
                    size += len(chunk)
        assert size == 200 * mib
        # The bound that the configuration names, a few reads and writes under way, and what the
        # allocator does not give back.
        assert peak_bytes(server.process.pid) - before < 40 * mib


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process ever had resident."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


async def until_gone(mark: str) -> None:
    """Wait until no process of the host bears a mark."""
    for _ in range(500):
        if not processes_with(mark):
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"still alive: {processes_with(mark)}")


async def test_sigterm_ends_every_stream_and_everything_started(state: Path) -> None:
    mark = secrets.token_hex(8)
    code = f"trap '' TERM; echo up; bash -c 'exec -a {mark} sleep 600' & sleep 600"
    async with serving(
        state, "--set", "queue.concurrency=2", "--set", "server.drain_s=0.2"
    ) as server:
        jobs = [await server.submit(code) for _ in range(4)]
        streams = [asyncio.create_task(server.events(job)) for job in jobs]
        while len(processes_with(mark)) < 2:  # both are up, two are waiting
            await asyncio.sleep(0.01)
        server.process.terminate()
        for stream in streams:
            events = await asyncio.wait_for(stream, 45)
            terminal = [event for event in events if event.kind in ("complete", "error")]
            assert terminal == events[-1:]
            assert terminal[0].data["code"] == "shutting_down"
        assert await asyncio.wait_for(server.process.wait(), 45) == 0
    assert processes_with(mark) == []
    assert list(state.glob("streamer-*")) == []


async def test_a_job_may_end_within_the_drain_time(state: Path) -> None:
    async with serving(state) as server:
        job = await server.submit("echo up; read -t 1; echo done")
        stream = asyncio.create_task(server.events(job))
        while (await (await server.session.get("/api/queue")).json())["running"] == 0:
            await asyncio.sleep(0.01)
        server.process.terminate()
        events = await asyncio.wait_for(stream, 45)
        assert events[-1].data["reason"] == "exited"
        assert await asyncio.wait_for(server.process.wait(), 45) == 0


async def test_while_it_drains_it_takes_nothing_new_and_a_second_signal_hurries(
    state: Path,
) -> None:
    async with serving(state, "--set", "server.drain_s=600") as server:
        job = await server.submit("echo up; sleep 600")
        stream = asyncio.create_task(server.events(job))
        while (await (await server.session.get("/api/queue")).json())["running"] == 0:
            await asyncio.sleep(0.01)
        server.process.terminate()
        while (await server.session.get("/readyz")).status == 200:
            await asyncio.sleep(0.01)
        body = {"language": "bash", "code": "true"}
        async with server.session.post("/api/execute", json=body) as response:
            assert (response.status, (await response.json())["code"]) == (503, "shutting_down")
            assert int(response.headers["Retry-After"]) >= 1
        assert not stream.done()
        server.process.terminate()
        events = await asyncio.wait_for(stream, 45)
        assert events[-1].kind == "error"
        assert await asyncio.wait_for(server.process.wait(), 45) == 0


async def test_a_killed_server_leaves_no_job_alive(
    backend: str, need: Callable[[str], str], state: Path
) -> None:
    need(backend)
    mark = secrets.token_hex(8)
    code = f"""
trap '' TERM HUP INT
(setsid bash -c 'exec -a {mark} sleep 600' &)
bash -c 'exec -a {mark} sleep 600' & echo up; wait"""
    async with serving(state, "--sandbox", backend) as server:
        await server.submit(code)
        while len(processes_with(mark)) < 2:
            await asyncio.sleep(0.01)
        server.process.kill()
        await server.process.wait()
        await until_gone(mark)
    # The next service removes what it could not.
    left = list(state.glob("streamer-*"))
    assert len(left) == 1
    os.utime(left[0], (0, 0))
    async with serving(state, "--sandbox", backend):
        assert not left[0].exists()


@contextlib.contextmanager
def most_descriptors() -> Iterator[int]:
    """Let this process open as many files as it may, and return how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_as_many_clients_may_wait_as_the_kernel_allows(state: Path) -> None:
    """They connect while the service is stopped, so none of them is accepted."""
    loop = asyncio.get_running_loop()
    of_kernel = int(Path("/proc/sys/net/core/somaxconn").read_text())
    async with serving(state) as server, contextlib.AsyncExitStack() as stack:
        count = min(4096, of_kernel, stack.enter_context(most_descriptors()) - 100)
        url = URL(server.listens.partition("listens on ")[2].split("/,")[0])
        server.process.send_signal(signal.SIGSTOP)
        stack.callback(server.process.send_signal, signal.SIGCONT)
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            # One that does not fit is dropped, and connects only after the service goes on.
            await asyncio.wait_for(loop.sock_connect(sock, (url.host, url.port)), 45)


async def test_ctrl_c_in_the_middle(state: Path) -> None:
    mark = secrets.token_hex(8)
    async with serving(state, "--set", "server.drain_s=0.1") as server:
        await server.submit(f"exec -a {mark} sleep 600")
        while not processes_with(mark):
            await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(server.process.wait(), 45) == 0
    assert processes_with(mark) == []


async def test_a_hangup_drains_and_other_signals_of_daemons_do_nothing(state: Path) -> None:
    mark = secrets.token_hex(8)
    async with serving(state, "--set", "server.drain_s=0.1") as server:
        job = await server.submit(f"exec -a {mark} sleep 600")
        stream = asyncio.create_task(server.events(job))
        while not processes_with(mark):
            await asyncio.sleep(0.01)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            server.process.send_signal(number)
        assert (await server.session.get("/readyz")).status == 200
        assert not stream.done()
        server.process.send_signal(signal.SIGHUP)
        events = await asyncio.wait_for(stream, 45)
        assert events[-1].data["code"] == "shutting_down"
        assert await asyncio.wait_for(server.process.wait(), 45) == 0
    assert processes_with(mark) == []
    assert list(state.glob("streamer-*")) == []


async def test_a_window_that_closes_does_not_hurry_a_drain(state: Path) -> None:
    async with serving(state, "--set", "server.drain_s=600") as server:
        job = await server.submit("sleep 600")
        while (await (await server.session.get("/api/queue")).json())["running"] == 0:
            await asyncio.sleep(0.01)
        stream = asyncio.create_task(server.events(job))
        for _ in range(3):
            server.process.send_signal(signal.SIGHUP)
        while (await server.session.get("/readyz")).status == 200:
            await asyncio.sleep(0.01)
        async with server.session.delete(f"/api/jobs/{job}") as response:
            assert response.status == 202  # it still ran
        assert (await asyncio.wait_for(stream, 45))[-1].data["reason"] == "cancelled"
        assert await asyncio.wait_for(server.process.wait(), 45) == 0


async def test_what_nohup_lets_ignore_stays_ignored(state: Path) -> None:
    async with serving(state, prefix=("nohup",)) as server:
        server.process.send_signal(signal.SIGHUP)
        server.process.send_signal(signal.SIGUSR1)
        assert (await server.session.get("/readyz")).status == 200


async def test_every_line_of_a_json_log_is_json_and_tells_who_did_what(state: Path) -> None:
    options = ("logging.format=json", "logging.access=true", 'server.trusted_proxies=["127.0.0.1"]')
    settings = [part for option in options for part in ("--set", option)]
    digest = hashlib.sha256(b"hunter2").hexdigest()
    settings += ["--set", f'auth.tokens=[{{tenant="alice", sha256="{digest}"}}]']
    headers = {"Authorization": "Bearer hunter2", "X-Forwarded-For": "192.0.2.9"}
    async with serving(state, *settings) as server:
        job = {"language": "bash", "code": "exit 3"}
        address = "/api/execute?access_token=secret"
        async with server.session.post(address, json=job, headers=headers) as response:
            job_id = (await response.json())["jobId"]
        async with server.session.get(f"/api/stream/{job_id}?access_token=hunter2") as response:
            assert [event async for event in received(response)][-1].kind == "complete"
        async with server.session.post(f"/api/jobs/{job_id}/grants", headers=headers) as response:
            grant = await response.json()
        async with server.session.get(grant["links"]["stream"]) as response:
            assert [event async for event in received(response)][-1].kind == "complete"
        forged = URL("/x%0A2026-01-01%20forged%1B[2J", encoded=True)
        assert (await server.session.get(forged, headers=headers)).status == 404
        server.process.terminate()
        await asyncio.wait_for(server.process.wait(), 45)
        text = (await server.log).decode()
    assert "secret" not in text
    assert grant["grant"] not in text
    assert "hunter2" not in text
    lines = [json.loads(line) for line in (server.listens + text).splitlines()]
    assert all(datetime.fromisoformat(line["time"]).utcoffset() is not None for line in lines)
    (over,) = (line for line in lines if line["logger"] == "streamer.jobs")
    assert (over["job_id"], over["tenant"], over["reason"], over["exit_code"]) == (
        *(job_id, "alice", "exited", 3),
    )
    requests = [line for line in lines if line["logger"] == "streamer.access"]
    submitted = next(line for line in requests if line["method"] == "POST")
    assert {key: submitted[key] for key in ("client", "path", "status", "tenant", "job_id")} == {
        "client": "192.0.2.9",
        "path": "/api/execute",
        "status": 202,
        "tenant": "alice",
        "job_id": job_id,
    }
    assert submitted["duration_ms"] >= 0
    assert "/x%0A2026-01-01%20forged%1B[2J" in {line["path"] for line in requests}


@pytest.mark.parametrize("token", [None, "wrong", "right"])
async def test_the_demo_with_tokens_works_or_says_why_and_tells_the_page(
    state: Path, token: str | None
) -> None:
    digest = hashlib.sha256(b"right").hexdigest()
    tokens = f'auth.tokens=[{{tenant="a", sha256="{digest}"}}]'
    (state / "demo.py").write_text("print('shown')")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamer", "serve", "--port", "0", "--demo", "demo.py"),
        *("--set", f"server.state_dir={state}", "--set", tokens),
        cwd=state,
        env={
            **{name: text for name, text in os.environ.items() if name != "STREAMER_TOKEN"},
            "PYTHONPATH": str(Path(__file__).parents[1]),
            **({"STREAMER_TOKEN": token} if token else {}),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        said = (
            await asyncio.wait_for(process.stderr.readuntil(b"The playground: http"), 30)
        ).decode()
        process.terminate()
        shown = await process.stdout.read()
        await process.stderr.read()
        assert await asyncio.wait_for(process.wait(), 45) == 0
    finally:
        if process.returncode is None:
            process.kill()
    assert (b"shown" in shown) == (token == "right")
    assert ("set STREAMER_TOKEN" in said) == (token is None)
    assert ("the demo failed: unknown token" in said) == (token == "wrong")
    assert "Traceback" not in said


def streamer(*arguments: str, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "streamer", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **options,
    )


def test_a_port_in_use_is_one_line(state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = streamer("serve", "--port", str(port), folder=state)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    reason = "Address already in use; set server.port or use --port"
    assert last == f"streamer: cannot listen on 127.0.0.1:{port}: {reason}"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["192.0.2.1", "300.1.1.1", "nowhere.invalid"])
def test_a_wrong_host_is_not_blamed_on_the_port(state: Path, host: str) -> None:
    done = streamer("serve", "--host", host, "--port", "0", folder=state)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"streamer: cannot listen on {host}:0: ")
    assert last.endswith("; set server.host or use --host")
    assert last.count(host) == 1


async def test_a_demo_that_is_interrupted_does_not_invite_anybody(state: Path) -> None:
    (state / "demo.py").write_text("import time; print('up', flush=True); time.sleep(1)")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamer", "serve", "--port", "0", "--demo", "demo.py"),
        *("--set", f"server.state_dir={state}"),
        cwd=state,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        await asyncio.wait_for(process.stdout.readuntil(b"up"), 30)
        process.terminate()
        said = (await asyncio.wait_for(process.stderr.read(), 30)).decode()
        assert await asyncio.wait_for(process.wait(), 45) == 0
    finally:
        if process.returncode is None:
            process.kill()
    assert "exited, exit code 0" in said  # it had time to end
    assert "The playground" not in said


def test_a_wrong_configuration_is_one_line(state: Path) -> None:
    file = state / "mine.toml"
    file.write_text("[server]\nprot = 1\n")
    done = streamer("serve", "--config", str(file), folder=state)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "mine.toml" in done.stderr
    assert "server.prot" in done.stderr
    assert "server.port" in done.stderr


async def test_an_address_for_others_lets_none_of_them_in(state: Path) -> None:
    demo = Path(__file__).parents[1] / "examples" / "ticks.py"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamer", "serve", "--host", "0.0.0.0", "--port", "0"),  # noqa: S104
        *("--set", f"server.state_dir={state}", "--demo", str(demo)),
        cwd=state,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    said = ""
    # The demo sends its request over loopback, which is accepted.
    while "The playground:" not in said:
        line = (await asyncio.wait_for(process.stderr.readline(), 60)).decode()
        assert line, said
        said += line
    assert "exited, exit code 0" in said
    assert "without tokens or a plugin" in said
    found = re.search(r"The playground: http://127\.0\.0\.1:(\d+)/", said)
    assert found, said
    body = {"language": "bash", "code": "true"}
    async with ClientSession() as session:
        for url, status in (
            (f"http://127.0.0.1:{found[1]}", 202),
            (f"http://{other_address()}:{found[1]}", 401),
        ):
            async with session.post(f"{url}/api/execute", json=body) as response:
                assert response.status == status
    process.terminate()
    _, rest = await process.communicate()
    assert "[[auth.tokens]]" in rest.decode()


@pytest.mark.parametrize(
    ("program", "arguments", "code", "out", "err"),
    [
        (
            "import sys; print(sys.argv[1:]); sys.exit(3)",
            ("--", "a", "--b"),
            3,
            "['a', '--b']\n",
            "",
        ),
        ("print(input())", (), 0, "typed\n", ""),
        ("import time; time.sleep(9)", ("--limit", "wall_time_s=0.3"), 124, "", "wall_time"),
        ("import os; os.kill(os.getpid(), 9)", (), 137, "", "SIGKILL"),
        ("import os; os.abort()", (), 134, "", "SIGABRT"),
        ("print('x' * 9999)", ("--limit", "output_bytes=10"), 137, "x" * 10, "output_limit"),
        ("print(open('more.txt').read())", ("--file", "more.txt"), 0, "more\n", ""),
        ("", ("--limit", "walltime=3"), 2, "", "walltime"),
        ("", ("--language", "klingon"), 2, "", "klingon"),
        ("", ("--sandbox", "nothing"), 2, "", "nothing"),
        ("", ("--set", "sandbox.bwrap.path='/nothing'"), 125, "", "install the package bubblewrap"),
    ],
)
def test_run(
    state: Path, program: str, arguments: tuple[str, ...], code: int, out: str, err: str
) -> None:
    (state / "main.py").write_text(program)
    (state / "more.txt").write_text("more")
    options = () if "--sandbox" in arguments else ("--sandbox", "bwrap")
    done = streamer("run", "main.py", *options, *arguments, folder=state, input="typed\n")
    assert (done.returncode, done.stdout) == (code, out), done.stderr
    assert err in done.stderr
    assert bool(err) == bool(done.stderr)


def test_run_from_standard_input_and_at_a_service_that_is_not_there(state: Path) -> None:
    done = streamer("run", "-", "--language", "bash", folder=state, input="echo $((6 * 7))")
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    done = streamer("run", "-", folder=state, input="echo")
    assert (done.returncode, "--language" in done.stderr) == (2, True)
    url = "http://127.0.0.1:9"
    done = streamer("run", "-", "--language", "bash", "--url", url, folder=state, input="echo")
    assert done.returncode == 125
    reason = "no service can be reached there: Connection refused"
    assert done.stderr == f"streamer: {url}: {reason}\n"


async def test_run_at_a_service(state: Path) -> None:
    (state / "main.py").write_text("import sys; print(sys.stdin.read()); sys.exit(5)")
    async with serving(state) as server:
        url = str(server.session._base_url)
        done = await asyncio.to_thread(
            streamer, "run", "main.py", "--url", url, folder=state, input="over there"
        )
    assert (done.returncode, done.stdout) == (5, "over there\n"), done.stderr


async def test_ctrl_c_cancels_a_run(state: Path) -> None:
    mark = secrets.token_hex(8)
    (state / "main.sh").write_text(f"echo up; exec -a {mark} sleep 600")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamer", "run", "main.sh"),
        cwd=state,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), 45) == 130
    assert processes_with(mark) == []


@pytest.mark.parametrize(
    "command", [(), ("serve",), ("run",), ("config",), ("runtimes",), ("sandboxes",), ("version",)]
)
def test_everything_has_help(state: Path, command: tuple[str, ...]) -> None:
    done = streamer(*command, "--help", folder=state)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage:" in done.stdout
