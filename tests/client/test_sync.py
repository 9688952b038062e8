"""`streamer.SyncClient`: the same verbs, in scripts, threads, notebooks, and after a fork."""

from __future__ import annotations

import asyncio
import inspect
import io
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import streamer
from streamer import Client, SyncClient
from streamer.client import Attached, RemoteSession, Run, SyncAttached, SyncRun, SyncSession
from streamer.client.portal import Portal
from streamer.errors import ConfigError, StreamerError, UnknownJob
from streamer.events import Complete, Output
from tests.client.served import served

ROOT = Path(__file__).parents[2]
LOOP = "import time\nprint('begun', flush=True)\ntime.sleep(60)"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("service")) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[SyncClient]:
    with SyncClient(url) as client:
        yield client


def test_a_program_is_run_and_what_it_leaves_is_saved(client: SyncClient, tmp_path: Path) -> None:
    code = "open('a.txt', 'w').write('0123456789'); print('hello')"
    with client.run(language="python", code=code, artifacts=["*.txt"]) as run:
        assert run.job_id is None
        events = list(run)
    assert run.job_id is not None
    text = "".join(event.data.data for event in events if event.kind == "output")
    assert text == "hello\n"
    end = events[-1]
    assert end.kind == "complete"
    assert end.data.exit_code == 0
    document = client.wait(run.job_id)
    assert document["result"]["stdout"] == "hello\n"
    assert b"".join(client.output(run.job_id)) == b"hello\n"
    assert b"".join(client.recording(run.job_id)).startswith(b'{"version"')
    assert b"".join(client.read_file(run.job_id, "a.txt", start=3, end=5)) == b"34"
    assert client.download(run.job_id, tmp_path / "new") == [tmp_path / "new" / "a.txt"]
    assert (tmp_path / "new" / "a.txt").read_text() == "0123456789"
    assert [one.id for one in client.events(run.job_id, after=1)] == [e.id for e in events[1:]]
    assert run.job_id in [job["jobId"] for job in client.jobs()]
    client.purge(run.job_id)
    with pytest.raises(UnknownJob):
        client.job(run.job_id)


def test_what_the_service_tells_of_itself(client: SyncClient) -> None:
    assert client.ready()
    assert client.queue()["capacity"] > 0
    assert "python" in [one["name"] for one in client.runtimes()]
    assert [one["name"] for one in client.sandboxes() if one["default"]]
    assert client.sessions() == []


def test_several_jobs(client: SyncClient) -> None:
    told = client.batch([{"language": "bash", "code": f"echo {n}"} for n in range(3)])
    jobs = [one for one in told if isinstance(one, str)]
    assert len(jobs) == 3
    written: dict[str, str] = {}
    ended = []
    for job_id, event in client.follow(jobs):
        if event.kind == "output":
            written[job_id] = written.get(job_id, "") + event.data.data
        elif event.kind == "complete":
            ended.append(job_id)
    assert written == {job_id: f"{n}\n" for n, job_id in enumerate(jobs)}
    assert sorted(ended) == sorted(jobs)


def test_a_terminal_takes_and_gives_bytes(client: SyncClient) -> None:
    code = "import os, sys; sys.stdout.buffer.write(b'\\xff> '); sys.stdout.flush(); line = input(); print(line.upper(), *os.get_terminal_size())"
    with client.terminal(language="python", code=code, cols=80, rows=24) as terminal:
        shown = b""
        for data in terminal:
            shown += data
            if shown == b"\xff> ":
                terminal.resize(132, 43)
                terminal.write("zo")
                terminal.write(b"\r")
        assert shown == b"\xff> zo\r\nZO 132 43\r\n"
        assert isinstance(terminal.end, Complete)


def test_a_terminal_that_is_left_is_cancelled_and_another_is_not(client: SyncClient) -> None:
    with client.terminal(language="python", code=LOOP) as terminal:
        assert next(terminal).startswith(b"begun")
    assert terminal.job_id is not None
    assert client.wait(terminal.job_id)["result"]["reason"] == "cancelled"
    job_id = client.submit(language="python", code=LOOP, interactive=True)
    with client.attach(job_id) as attached:
        assert next(attached).startswith(b"begun")
    assert client.job(job_id)["status"] == "running"
    with client.attach(job_id) as again:  # one reads while another thread acts
        assert next(again).startswith(b"begun")
        threading.Thread(target=again.signal, args=("SIGTERM",)).start()
        assert list(again) == []
        assert isinstance(again.end, Complete)
        assert again.end.signal == "SIGTERM"


def test_a_session(client: SyncClient) -> None:
    with client.session(idle_s=60) as session:
        session.write("a.txt", "one")
        with session.run(language="bash", code="cat a.txt; echo two >b.txt") as run:
            text = "".join(one.data.data for one in run if isinstance(one.data, Output))
        assert text == "one"
        assert session.read("b.txt") == b"two\n"
        assert {file["name"] for file in session.files()} >= {"a.txt", "b.txt"}
        assert session.document()["sessionId"] == session.id
    with pytest.raises(streamer.ServiceProblem) as ended:
        session.files()
    assert ended.value.status == 410


def test_a_project_and_a_grant(client: SyncClient, url: str, tmp_path: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("main.py", "print('from a project')")
    (tmp_path / "p.zip").write_bytes(data.getvalue())
    project = client.upload(tmp_path / "p.zip")
    assert client.project(project["projectId"])["files"] == project["files"]
    job_id = client.submit(language="python", project_id=project["projectId"])
    client.delete_project(project["projectId"])
    link = client.grant(job_id, expires_s=60)
    with SyncClient(url, grant=link["grant"]) as reader:
        assert reader.wait(job_id)["result"]["stdout"] == "from a project\n"
    assert client.readers(job_id) == []


def test_input_is_sent_once(client: SyncClient) -> None:
    job_id = client.submit(language="bash", code="cat", interactive=True)
    client.write(job_id, "one\n", seq=0)
    client.write(job_id, "one\n", seq=0)
    client.write(job_id, b"two\n", seq=4)
    client.end_input(job_id)
    assert client.wait(job_id)["result"]["stdout"] == "one\ntwo\n"


def test_many_threads_share_one_client(client: SyncClient) -> None:
    def total(n: int) -> str:
        return client.wait(client.submit(language="bash", code=f"echo {n}"))["result"]["stdout"]

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(total, range(8))) == [f"{n}\n" for n in range(8)]


async def test_it_can_be_called_where_a_loop_runs_as_in_a_notebook(url: str) -> None:
    with SyncClient(url) as client:
        assert client.ready()
        assert await asyncio.to_thread(client.ready)


def test_ctrl_c_ends_a_call_and_cancels_the_run(client: SyncClient) -> None:
    job_id = None
    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117 - as a script has it
        with client.run(language="python", code=LOOP, cancel_on_close=True) as run:
            for event in run:
                if event.kind == "output":
                    job_id = run.job_id
                    # The next event does not come: this thread waits by then, or is about to.
                    threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()
    assert job_id is not None
    assert client.wait(job_id)["result"]["reason"] == "cancelled"


def test_closing_ends_what_another_thread_waits_for(url: str) -> None:
    client = SyncClient(url)
    run = client.run(language="python", code=LOOP, cancel_on_close=True)
    next(run)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(list, run)
        client.close()
        with pytest.raises(StreamerError, match="closed"):
            waiting.result(30)
    client.close()
    for again in (client.ready, lambda: next(run), lambda: list(client.jobs())):
        with pytest.raises(StreamerError, match="the client is closed"):
            again()
    run.close()
    assert run.job_id is not None
    with SyncClient(url) as other:
        assert other.wait(run.job_id)["result"]["reason"] == "cancelled"


def test_a_wrong_address_is_told_at_once_and_a_missing_service_by_the_call() -> None:
    with pytest.raises(ConfigError, match="begins with http"):
        SyncClient("127.0.0.1:8080")
    with (
        SyncClient("http://127.0.0.1:1", retries=0) as client,
        pytest.raises(OSError, match="Cannot connect"),
    ):
        client.queue()


def test_an_opening_that_fails_is_raised_and_leaves_no_thread() -> None:
    async def fails() -> None:
        raise OSError("no")

    async def never() -> None:
        raise AssertionError

    portal = Portal(fails, never)
    for _ in range(2):
        with pytest.raises(OSError, match="no"):
            portal.call(never)
    portal.close()


SCRIPT = """
import os, sys, threading
import streamer
client = streamer.SyncClient(sys.argv[1])
job_id = client.submit(language="bash", code="echo hello")
print(client.wait(job_id)["result"]["stdout"], end="")
read, write = os.pipe()
if os.fork() == 0:
    try:
        client.ready()
    except streamer.errors.StreamerError as error:
        os.write(write, str(error).encode())
    with streamer.SyncClient(sys.argv[1]) as own:
        os.write(write, b" then " + str(own.ready()).encode())
    os._exit(0)
os.wait()
print(os.read(read, 1000).decode())
events = client.events(job_id)
next(events)
del events
# Neither the client nor this run is closed.
run = client.run(language="bash", code="sleep 60", cancel_on_close=True)
print(next(run).kind)
"""


def test_a_script_that_closes_nothing_ends_without_a_word(url: str, tmp_path: Path) -> None:
    done = subprocess.run(
        (sys.executable, "-W", "error", "-X", "dev", "-c", SCRIPT, url),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "hello",
        "this client was made before the process forked: make a SyncClient in each process then True",
        "status",
    ]


@pytest.mark.parametrize(
    ("blocking", "asynchronous"),
    [
        (SyncClient, Client),
        (SyncRun, Run),
        (SyncSession, RemoteSession),
        (SyncAttached, Attached),
    ],
)
def test_each_verb_is_there_with_the_same_arguments_and_text(
    blocking: type, asynchronous: type
) -> None:
    verbs = {name for name in dir(asynchronous) if not name.startswith("_")}
    there = {name for name in dir(blocking) if not name.startswith("_")}
    assert verbs - {"aclose"} <= there
    for name in verbs & there:
        here, other = getattr(blocking, name), getattr(asynchronous, name)
        if callable(other):
            assert inspect.signature(here) == inspect.signature(other), name
            assert here.__doc__ == other.__doc__, name
        assert here.__doc__, name
