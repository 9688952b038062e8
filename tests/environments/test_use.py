"""Programs of jobs run with the packages of an environment, and can change nothing in it."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import streamer
from streamer.errors import ConfigError, InvalidJob
from streamer.model.environment import NOT_BUILT
from streamer.model.languages import DEFAULT_RUNTIMES
from tests.conftest import OpenService, Start
from tests.environments.making import made_for_node, made_for_python
from tests.running import run_job


@pytest.fixture(params=[path for path in ("/tmp", "/opt") if os.access(path, os.W_OK)])
def anywhere(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return a folder for packages: one that a sandbox has of its own, or another.

    In bwrap only the latter is shown by a template.
    """
    with tempfile.TemporaryDirectory(prefix="streamer-place-", dir=request.param) as name:
        Path(name).chmod(0o755)
        yield Path(name)


HELLO = {"hello": "def greet(): return 'hello from a package'"}


async def test_a_program_imports_what_is_there(
    backend: str, open_service: OpenService, anywhere: Path
) -> None:
    tables = {"words": made_for_python(anywhere / "words", HELLO)}
    service = await open_service(backend, environments=tables)
    code = "import hello, subprocess, sys; print(hello.greet(), sys.prefix); subprocess.run(['python', '-c', 'import hello; print(2)'])"
    ran = await run_job(service, language="python", environment="words", code=code)
    assert ran.out.splitlines() == [f"hello from a package {anywhere}/words", "2"]
    without = await run_job(service, language="python", code="import hello")
    assert "No module named 'hello'" in without.text("stderr")


async def test_the_jobs_of_a_session_have_its_packages(
    backend: str, open_service: OpenService, anywhere: Path
) -> None:
    tables = {
        "words": made_for_python(anywhere / "words", HELLO),
        "other": made_for_python(anywhere / "other", HELLO),
    }
    service = await open_service(backend, environments=tables)
    opened = await service.jobs.sessions.open(streamer.SessionSpec(environment="words"))
    session_id = opened.session.session_id
    code = "import hello, sys; print(hello.greet(), sys.prefix)"
    for chosen in (None, "words"):
        ran = await run_job(
            service, language="python", session_id=session_id, environment=chosen, code=code
        )
        assert ran.out == f"hello from a package {anywhere}/words\n"
    assert (await run_job(service, language="bash", session_id=session_id, code="echo 1")).out == (
        "1\n"
    )
    spec = streamer.JobSpec(language="python", session_id=session_id, environment="other", code="")
    with pytest.raises(InvalidJob, match="at its start") as refusal:
        await service.jobs.submit(spec)
    assert refusal.value.path == "$.environment"
    bare = (await service.jobs.sessions.open(streamer.SessionSpec())).session.session_id
    ran = await run_job(service, language="python", session_id=bare, code=code)
    assert "No module named 'hello'" in ran.text("stderr")


async def test_a_program_of_node_requires_and_imports_what_is_there(
    backend: str, open_service: OpenService, place: Path
) -> None:
    """The latter looks in folders above the program only."""
    modules = {
        "hello": "exports.greet = () => 'hello from ' + require('other').name",
        "other": "exports.name = 'npm'",
    }
    tables = {"web": made_for_node(place / "web", modules)}
    service = await open_service(backend, environments=tables)
    ran = await run_job(
        service,
        language="javascript",
        environment="web",
        code="console.log(require('hello').greet())",
    )
    assert ran.out == "hello from npm\n"
    ran = await run_job(
        service,
        language="javascript",
        environment="web",
        entry="src/main.mjs",
        files=(
            streamer.SourceFile(
                "src/main.mjs", b"import { greet } from 'hello'; console.log(greet())"
            ),
        ),
    )
    assert ran.out == "hello from npm\n"
    own = streamer.SourceFile("node_modules/hello/index.js", b"exports.greet = () => 'my own'")
    ran = await run_job(
        service,
        language="javascript",
        environment="web",
        code="console.log(require('hello').greet(), require('other').name)",
        files=(own,),
    )
    assert ran.out == "my own npm\n"


POISON = """
import contextlib, hello, os, sys
folder = os.path.dirname(hello.__file__)
tried = 0
def attempt(what, *args):
    global tried
    tried += 1
    with contextlib.suppress(OSError):
        what(*args)
        print("could", what.__name__, *args)
for path in (hello.__file__, folder, sys.prefix, sys.prefix + "/streamer-environment.json"):
    attempt(os.chmod, path, 0o777)
    attempt(os.utime, path, (0, 0))
attempt(open, hello.__file__, "w")
attempt(open, hello.__file__, "a")
attempt(open, folder + "/sitecustomize.py", "w")
attempt(os.unlink, hello.__file__)
attempt(os.rename, folder, folder + "-away")
attempt(os.rename, sys.prefix, sys.prefix + "-away")
attempt(os.symlink, "/tmp", folder + "/link")
attempt(os.link, hello.__file__, folder + "/again.py")
attempt(os.unlink, sys.prefix + "/bin/python")
print("tried", tried)
"""


async def test_no_job_changes_it_for_the_next(
    backend: str, open_service: OpenService, anywhere: Path
) -> None:
    """Even if it belongs to the service's user, as whom the job runs; in plain too."""
    tables = {"words": made_for_python(anywhere / "words", HELLO)}
    service = await open_service(backend, environments=tables)
    before = _state(anywhere)
    ran = await run_job(service, language="python", environment="words", code=POISON)
    assert ran.out == "tried 17\n"
    assert _state(anywhere) == before
    again = await run_job(
        service, language="python", environment="words", code="import hello; print(hello.greet())"
    )
    assert again.out == "hello from a package\n"


def _state(place: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in (place, *place.rglob("*")):
        at = path.lstat()
        found[str(path)] = (at.st_mode, at.st_size, at.st_mtime_ns)
    return found


async def test_no_job_sees_another_environment(
    isolating_backend: str, open_service: OpenService, anywhere: Path
) -> None:
    tables = {
        name: made_for_python(anywhere / name, {name: "secret = 1"}) for name in ("one", "other")
    }
    service = await open_service(isolating_backend, environments=tables)
    code = f"import os, one; print(os.listdir({str(anywhere)!r})); print(os.path.exists({str(anywhere / 'other')!r}))"
    ran = await run_job(service, language="python", environment="one", code=code)
    assert ran.out == "['one']\nFalse\n"
    ran = await run_job(service, command=("ls", str(anywhere)))
    assert ran.text() == ""
    assert ran.complete.exit_code != 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"language": "python", "environment": "nope"},
            "the environment 'nope' is unknown; for python there are: absent, words",
        ),
        (
            {"language": "bash", "environment": "nope"},
            "the environment 'nope' is unknown; for bash there is none",
        ),
        (
            {"language": "javascript", "environment": "words"},
            "the environment 'words' is for another language; for javascript there is none",
        ),
        (
            {"language": "python", "environment": "absent"},
            f"the environment 'absent' is not available: {NOT_BUILT}",
        ),
        ({"command": ("true",), "environment": "words"}, "an environment needs a language"),
    ],
)
async def test_what_is_wrong_is_told_with_what_there_is(
    given: Mapping[str, Any],
    message: str,
    open_service: OpenService,
    place: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tables = {
        "words": made_for_python(place / "words", HELLO),
        "absent": {"languages": ["python"], "path": str(place / "absent")},
    }
    service = await open_service("bwrap", environments=tables)
    with pytest.raises(InvalidJob) as refused:
        await run_job(service, **given)
    assert (refused.value.message, refused.value.path) == (message, "$.environment")
    assert (
        f"the environment absent is not available: nothing is built in {place}/absent"
        in caplog.text
    )


async def test_it_is_listed_with_its_packages_and_in_the_record(start: Start, place: Path) -> None:
    tables = {
        "words": {**made_for_python(place / "words", HELLO), "variables": {"GREETING": "hi"}},
        "absent": {"languages": ["python"], "path": str(place / "absent")},
    }
    client = await start(environments=tables)
    async with client.get("/api/runtimes") as response:
        text = await response.text()
        listed = {
            each["name"]: each["environments"] for each in (await response.json())["runtimes"]
        }
    assert str(place) not in text  # no path of the server reaches a caller
    assert listed["python"] == [
        {"name": "absent", "available": False, "reason": NOT_BUILT, "packages": {}},
        {"name": "words", "available": True, "reason": None, "packages": {"hello": "1.0"}},
    ]
    assert listed["bash"] == []
    body = {
        "language": "py",
        "environment": "words",
        "code": "import os, hello; print(os.environ['GREETING'], os.environ['OMP_NUM_THREADS'])",
    }
    async with client.post("/api/execute", json=body, headers={"Prefer": "wait=30"}) as response:
        job = await response.json()
    assert (job["environment"], job["result"]["stdout"]) == ("words", "hi 1\n")
    async with client.post("/api/execute", json={**body, "environment": "x"}) as response:
        problem = await response.json()
    assert (response.status, problem["path"]) == (400, "$.environment")


async def test_one_that_is_built_while_the_service_runs_is_used(
    open_service: OpenService,
    need: Callable[[str], str],
    place: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tables = {"words": {"languages": ["python"], "path": str(place / "words")}}
    service = await open_service(need("bwrap"), environments=tables)
    languages = service.worker.host.languages
    published, changed = languages.on_change, asyncio.Event()

    def on_change() -> None:
        published()
        changed.set()

    languages.on_change = on_change
    service.ask_versions()
    job: dict[str, Any] = {
        "language": "python",
        "environment": "words",
        "code": "import hello; print(1)",
    }
    await changed.wait()
    with pytest.raises(InvalidJob):
        await run_job(service, **job)
    made_for_python(place / "words", HELLO)
    while languages.environments["words"].reason:
        changed.clear()
        await changed.wait()
    await service.worker._publish()
    assert (await run_job(service, **job)).out == "1\n"
    caplog.clear()
    shutil.rmtree(place / "words")
    while not languages.environments["words"].reason:
        changed.clear()
        await changed.wait()
    assert "the environment words is not available: nothing is built in" in caplog.text


async def test_jobs_with_it_are_neither_held_nor_forked(
    open_service: OpenService, need: Callable[[str], str], place: Path
) -> None:
    tables = {"words": made_for_python(place / "words", HELLO)}
    service = await open_service(
        need("bwrap"),
        sandbox={"warm": True},
        environments=tables,
    )
    for _ in range(3):
        ran = await run_job(service, language="python", environment="words", code="import hello")
        assert ran.out == ""
    assert service.worker.ahead.warm == 0


async def test_a_sandbox_goes_on_when_it_is_removed(
    isolating_backend: str, open_service: OpenService, place: Path
) -> None:
    tables = {"words": made_for_python(place / "words", HELLO)}
    service = await open_service(isolating_backend, environments=tables)
    shutil.rmtree(place / "words")
    ran = await run_job(service, language="python", environment="words", code="print(1)")
    assert ran.complete.exit_code == 127


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "environments.x: missing required key languages"),
        ({"languages": []}, "environments.x.languages: write the languages that it is for"),
        ({"languages": ["cobol"]}, "environments.x.languages: unknown language 'cobol'; known: "),
        ({"languages": ["c"]}, "environments.x.languages: 'c' can have no packages"),
        ({"languages": ["typescript"]}, "environments.x.languages: 'typescript' can have no"),
        ({"languages": ["python", "js"]}, "environments.x.languages: packages are either of"),
        ({"languages": ["python"], "path": "a/../b"}, "environments.x.path: "),
        ({"languages": ["python"], "path": "/opt"}, "environments.x.path: '/opt' would hide"),
        ({"languages": ["python"], "path": "/etc/x"}, "environments.x.path: '/etc/x' would hide"),
        ({"languages": ["python"], "language": "x"}, "environments.x.language: unknown key; did"),
        ({"languages": ["python"], "variables": {"A=": "b"}}, "environments.x.variables.A=: use"),
    ],
)
def test_a_wrong_table_stops_the_start(table: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        streamer.Config.from_mapping({"environments": {"x": table}})
    assert refused.value.message.startswith(message)


def test_nothing_is_started_ahead_of_a_job_with_packages() -> None:
    """It would be kept for others, though most jobs want none."""
    python = replace(DEFAULT_RUNTIMES["python"], fork=True)
    with_packages = streamer.Config.from_mapping(
        {"environments": {"x": {"languages": ["python"], "path": "/opt/x"}}}
    ).environments["x"]
    applied = with_packages.applied(python, "/usr/bin")
    assert (python.warm, python.fork) == (True, True)
    assert (applied.warm, applied.fork) == (False, False)


def test_a_wrong_name_stops_the_start() -> None:
    with pytest.raises(ConfigError, match="use only letters, digits, _ and -"):
        streamer.Config.from_mapping({"environments": {"a b": {"languages": ["python"]}}})


def test_where_it_is(tmp_path: Path) -> None:
    tables = {"x": {"languages": ["python"]}, "y": {"languages": ["js"], "path": "/opt/y"}}
    config = streamer.Config.from_mapping(
        {"server": {"state_dir": str(tmp_path)}, "environments": tables}
    )
    paths = {name: each.path for name, each in config.environments.items()}
    assert paths == {"x": f"{tmp_path}/environments/x", "y": "/opt/y"}
    file = tmp_path / "config.toml"
    file.write_text('[environments.x]\nlanguages = ["python"]\npath = "below/x"\n')
    variables = {"STREAMER_ENVIRONMENTS__X__VARIABLES__Key_bytes": "1 KiB"}
    config = streamer.load_config(file, environ=variables)
    assert config.environments["x"].path == f"{tmp_path}/below/x"
    assert config.environments["x"].variables == {"Key_bytes": "1 KiB"}
