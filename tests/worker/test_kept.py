"""Processes that go on between the jobs of a session (`keepProcesses`), and end with it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import cast

import pytest

from streamer.compose import Parts
from streamer.errors import Gone, InvalidJob
from streamer.model.job import Limits
from streamer.sandbox.sandbox import Sandbox
from streamer.testing.processes import kept_besides
from streamer.worker.kept import KeptProcesses, UsedUp
from tests.conftest import OpenService
from tests.worker.keeping import BEATS, keeping, opened, python


@pytest.fixture
async def service(open_service: OpenService, backend: str) -> Parts:
    return await keeping(open_service, backend)


async def size_of_beats(service: Parts, session_id: str) -> int:
    async with service.jobs.sessions.read(session_id, "there") as part:
        return part.total


async def still(service: Parts, session_id: str) -> bool:
    """Return whether nothing beats any more, as a job of the session sees it."""
    look = "a = os.path.getsize('there'); time.sleep(0.1); print(os.path.getsize('there') == a)"
    return (await python(service, session_id, look)).out == "True\n"


async def test_a_server_goes_on_until_the_end_of_its_session(service: Parts) -> None:
    before = kept_besides(service.worker.pool)[0]
    session = await opened(service)
    code = """
        left('''if True:
            import http.server
            server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
            with open("port", "w") as port: port.write(str(server.server_port))
            os = __import__("os"); os.rename("port", "there")
            server.serve_forever()
        ''')
        print("up")
    """
    assert (await python(service, session, code)).out == "up\n"
    ask = """
        from urllib.request import urlopen
        with open("there") as port: url = f"http://127.0.0.1:{port.read()}/there"
        print(len(urlopen(url).read()) > 0)
    """
    for _ in range(2):
        assert (await python(service, session, ask)).out == "True\n"
    await service.jobs.sessions.end(session)
    async with asyncio.timeout(30):
        while len(service.worker.sessions):
            await asyncio.sleep(0.01)
    assert kept_besides(service.worker.pool)[0] == before


async def test_its_output_is_that_of_no_other_job(service: Parts) -> None:
    session = await opened(service)
    code = """
        left('''if True:
            import os, signal, time
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)
            open("there", "w").close()
            while not os.path.exists("next"): time.sleep(0.001)
            try: os.write(1, b"of the first")
            except OSError as error: open("why", "w").write(error.strerror)
        ''', stdout=None)
        print("first", flush=True)
    """
    assert (await python(service, session, code)).out == "first\n"
    code = """
        open("next", "w").close()
        while not os.path.exists("why") or not os.path.getsize("why"): time.sleep(0.001)
        print(open("why").read())
    """
    assert (await python(service, session, code)).out == "Broken pipe\n"


async def test_a_job_that_is_killed_takes_all_of_it_with_it(service: Parts) -> None:
    session = await opened(service)
    await python(service, session, f"left('import time\\n' + {BEATS!r})")
    assert not await still(service, session)
    ran = await python(service, session, "time.sleep(60)", limits={"wall_time_s": 0.3})
    assert ran.complete.reason == "wall_time"
    assert await still(service, session)


async def test_what_was_used_before_is_not_counted_again(service: Parts) -> None:
    """Neither while it lives, nor when it ends while another job runs."""
    session = await opened(service)
    code = """
        left('''if True:
            import os, time
            while time.process_time() < 0.6: pass
            open("there", "w").write(str(os.getpid()))
            while not os.path.exists("end"): time.sleep(0.01)
            os.rename("end", "ended")
        ''')
    """
    first = (await python(service, session, code)).complete
    assert first.cpu_time_ms is not None
    assert first.cpu_time_ms >= 600
    few = {"cpu_time_s": 0.5}
    code = """
        time.sleep(0.3)
        open("end", "w").close()
        while not os.path.exists("ended"): time.sleep(0.01)
        time.sleep(0.1)
    """
    second = (await python(service, session, code, limits=few)).complete
    assert (second.reason, second.exit_code) == ("exited", 0)
    assert second.cpu_time_ms is not None
    assert second.cpu_time_ms < 500
    spins = (await python(service, session, "while True: pass", limits=few)).complete
    assert spins.reason == "cpu_time"


async def test_memory_is_limited_for_all_together(service: Parts) -> None:
    session = await opened(service, memory_bytes="128MiB")
    takes = "import time\nx = b'x' * (80 << 20)\nopen('there', 'w').close()\ntime.sleep(600)"
    assert (await python(service, session, f"left({takes!r})")).verdict == "exited 0"
    ran = await python(service, session, "x = b'x' * (80 << 20)")
    assert ran.complete.reason == "memory"


async def test_a_job_with_less_memory_than_is_used_already_ends_no_session(service: Parts) -> None:
    session = await opened(service, memory_bytes="128MiB")
    code = """
        left('''if True:
            import os, time
            x = b"x" * (80 << 20)
            open("pid", "w").write(str(os.getpid()))
            os.rename("pid", "there")
            time.sleep(600)
        ''')
    """
    await python(service, session, code)
    ran = await python(service, session, "print('up')", limits={"memory_bytes": "64MiB"})
    assert (ran.complete.reason, ran.text()) == ("memory", "")
    ran = await python(service, session, "import os\nos.kill(int(open('there').read()), 0)")
    assert ran.verdict == "exited 0"  # what was left is there still


async def test_who_leaves_a_process_that_spins_has_no_session(service: Parts) -> None:
    session = await opened(service, cpu_time_s=1)
    await python(service, session, 'left(\'open("there", "w")\\nwhile True: pass\')')
    with pytest.raises(Gone, match="more CPU time"):
        while True:
            await service.jobs.sessions.find(session)
            await asyncio.sleep(0.01)


@dataclass
class Spent:
    """As of a sandbox: the CPU time that was used in it."""

    us: int = 0
    alive: bool = True

    def cpu_time_us(self) -> int:
        return self.us

    def memory_kills(self) -> int:
        return 0


def test_what_the_init_does_for_callers_is_not_counted() -> None:
    spent = Spent()
    kept = KeptProcesses(cast("Sandbox", spent), Limits(cpu_time_s=1))
    with kept.not_counted():
        spent.us += 5_000_000
    spent.us += 1_000_000
    kept.check()
    spent.us += 1
    with pytest.raises(UsedUp):
        kept.check()


async def test_files_are_read_beside_it_and_never_taken_for_unchanged(service: Parts) -> None:
    session = await opened(service)
    await python(service, session, f"left('import time\\n' + {BEATS!r})")
    sizes, versions = [], []
    for _ in range(2):
        async with service.jobs.sessions.read(session, "there") as part:
            sizes.append(part.total)
            versions.append(part.version)
        await asyncio.sleep(0.05)
    assert sizes[1] > sizes[0]
    assert versions[1] != versions[0]
    files = await service.jobs.sessions.files(session)
    assert "there" in [file.name for file in files.files]


async def test_without_control_groups_none_are_kept(open_service: OpenService) -> None:
    service = await open_service("bwrap", sandbox={"cgroup": "off"})
    with pytest.raises(InvalidJob, match="control groups") as refusal:
        await opened(service)
    assert refusal.value.path == "$.keepProcesses"
