"""The commands about jobs of a service: follow, list, cancel; and `run` that leaves its job there."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from pathlib import Path

import pytest

from streamer.cli.main import main
from tests.cli.test_commands import COMMAND, ENVIRON, command
from tests.conftest import Start
from tests.support import AnyClient, submit

Said = tuple[int | str | None, str, str]


async def here(capsys: pytest.CaptureFixture[str], *arguments: str) -> Said:
    """Run a command in this process, which is faster; it must not wait for signals."""

    def run() -> int | str | None:
        with pytest.raises(SystemExit) as exited:
            main(arguments)
        return exited.value.code

    capsys.readouterr()
    code = await asyncio.to_thread(run)
    return (code, *capsys.readouterr())


async def ended(client: AnyClient, job_id: str) -> None:
    async with client.get(f"/api/stream/{job_id}") as response:
        assert b"event: complete" in await response.read()


async def test_follow_goes_on_where_another_has_stopped(tmp_path: Path, start: Start) -> None:
    client = await start()
    url = str(client.make_url("/"))
    code = "echo one; read -r line; echo $line; echo err >&2; exit 5"
    job_id = await submit(client, language="bash", code=code, interactive=True)

    async def follow(*options: str) -> Said:
        done = await asyncio.to_thread(
            command, tmp_path, "follow", job_id, *options, environ={"STREAMER_URL": url}
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    first = await asyncio.create_subprocess_exec(
        *(*COMMAND, "follow", job_id, "--url", url),
        cwd=tmp_path,
        env=ENVIRON,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert first.stdout is not None
    async with asyncio.timeout(30):
        assert await first.stdout.readline() == b"one\n"
        first.send_signal(signal.SIGINT)
        rest, said = await first.communicate()
    assert (first.returncode, rest) == (130, b"")
    found = re.search(rf"streamer follow {job_id} --from (\d+) --url {re.escape(url)}", str(said))
    assert found, said
    async with client.post(f"/api/jobs/{job_id}/stdin", data=b"two\n") as response:
        assert response.status == 202  # it was not cancelled
    assert await follow("--from", found[1]) == (5, "two\n", "err\n")
    exit_code, printed, _ = await follow("--json")
    lines = [json.loads(line) for line in printed.splitlines()]
    assert exit_code == 5
    assert [line["id"] for line in lines] == [*range(1, len(lines) + 1)]
    outputs = [line["data"]["data"] for line in lines if line["event"] == "output"]
    assert sorted("".join(outputs).split()) == ["err", "one", "two"]
    assert (lines[-1]["event"], lines[-1]["data"]["exitCode"]) == ("complete", 5)
    assert await follow("--from", str(len(lines) + 1)) == (5, "", "")
    done = await asyncio.to_thread(command, tmp_path, "follow", "none", "--url", url)
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"none" in done.stderr


async def test_jobs_are_listed_and_cancelled(
    capsys: pytest.CaptureFixture[str], start: Start
) -> None:
    client = await start()
    url = ("--url", str(client.make_url("/")))
    over = await submit(client, language="bash", code="exit 3", metadata={"of": "a\x1b[31mb"})
    await ended(client, over)
    waiting = await submit(client, language="bash", code="read -r x", interactive=True)

    async def listed(*options: str) -> list[str]:
        code, printed, said = await here(capsys, "jobs", *url, *options, "--json")
        assert (code, said) == (0, "")
        return [job["jobId"] for job in json.loads(printed)]

    assert await listed() == [waiting, over]
    assert await listed("--limit", "1") == [waiting]
    assert await listed("--status", "complete") == [over]
    assert await listed("--language", "python") == []
    assert await listed("--metadata", "of=a\x1b[31mb") == [over]
    assert (await here(capsys, "jobs", *url, "--metadata", "of"))[0] == 2
    code, printed, _ = await here(capsys, "jobs", *url)
    rows = [line.split() for line in printed.splitlines()]
    assert rows[0] == ["job", "status", "language", "created", "took", "end"]
    assert [row[0] for row in rows[1:]] == [waiting, over]
    assert rows[2][-2:] == ["exited", "3"]
    code, printed, _ = await here(capsys, "jobs", over, *url, "--json")
    assert (code, json.loads(printed)["result"]["exitCode"]) == (0, 3)

    assert await here(capsys, "cancel", over, waiting, *url) == (0, "", "")
    await ended(client, waiting)
    assert await here(capsys, "cancel", "--purge", over, *url) == (0, "", "")
    assert await listed() == [waiting]
    code, printed, said = await here(capsys, "cancel", over, *url)
    assert (code, printed, said.count("\n")) == (125, "", 1)
    assert over in said


async def test_run_leaves_a_job_to_the_service(tmp_path: Path, start: Start) -> None:
    client = await start()
    url = str(client.make_url("/"))
    (tmp_path / "slow.sh").write_text("read -r line; echo got $line")
    # It does not wait for the program, nor read what is typed here.
    done = await asyncio.to_thread(command, tmp_path, "run", "-d", "slow.sh", "--url", url)
    assert (done.returncode, done.stderr) == (0, b"")
    job_id = done.stdout.decode().strip()
    done = await asyncio.to_thread(command, tmp_path, "follow", job_id, "--url", url)
    assert (done.returncode, done.stdout) == (0, b"got\n")


def test_the_events_of_a_run_as_json(tmp_path: Path) -> None:
    (tmp_path / "out.py").write_text("print('\\u00e9\\u2028')")
    done = command(tmp_path, "run", "out.py", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    events = [json.loads(line) for line in done.stdout.split(b"\n")[:-1]]
    output = [event["data"]["data"] for event in events if event["event"] == "output"]
    assert "".join(output) == "\u00e9\u2028\n"  # in one event or several
    assert events[-1]["data"]["reason"] == "exited"
    assert done.stdout.decode().count("\n") == len(events)
