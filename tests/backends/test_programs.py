"""What a program gets: its files, its input, its environment, its verdict."""

from __future__ import annotations

import json
import signal
import zlib

import pytest

from streamer.events import Output, Status
from streamer.jobs import SourceFile
from streamer.runtimes import Runtime
from tests.backends.conftest import Run, checked_runs
from tests.conftest import OpenService
from tests.jobs import program, script


async def test_both_streams_arrive_whole_and_in_order(run: Run) -> None:
    ran = await run(
        **program("""
            import os, time
            for i in range(20):
                os.write(1, b"out %d\\n" % i)
                os.write(2, b"err %d\\n" % i)
        """)
    )
    assert ran.text("stdout") == "".join(f"out {i}\n" for i in range(20))
    assert ran.text("stderr") == "".join(f"err {i}\n" for i in range(20))
    assert ran.complete.exit_code == 0
    assert ran.complete.output_bytes == sum(len(f"out {i}\nerr {i}\n") for i in range(20))


async def test_a_megabyte_written_just_before_the_end_arrives(run: Run) -> None:
    ran = await run(
        **program("import os; data = b'x' * 2**20\nwhile data: data = data[os.write(1, data):]")
    )
    assert ran.out == "x" * 2**20


async def test_characters_are_never_split(run: Run) -> None:
    ran = await run(**program("print('\\u20ac\\U0001f600' * 50000, end='')"))
    assert ran.out == "€😀" * 50000
    assert not any(event.data.lossy for event in ran.events if isinstance(event.data, Output))


@pytest.mark.parametrize("code", [0, 1, 2, 124, 125, 126, 137, 143, 255])
async def test_an_exit_code_is_told_as_it_is(run: Run, code: int) -> None:
    complete = (await run(command=("sh", "-c", f"exit {code}"))).complete
    assert (complete.reason, complete.exit_code, complete.signal) == ("exited", code, None)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM", "SIGABRT", "SIGINT", "SIGHUP"])
async def test_a_signal_is_told_from_an_exit_code(run: Run, name: str) -> None:
    number = int(signal.Signals[name])
    complete = (await run(command=("sh", "-c", f"kill -{number} $$"))).complete
    assert (complete.reason, complete.exit_code, complete.signal) == ("signaled", None, name)
    assert not complete.oom_killed
    assert not complete.timed_out


async def test_a_real_time_signal_has_a_name_too(run: Run) -> None:
    complete = (await run(**program("import os; os.kill(os.getpid(), 40)"))).complete
    assert complete.reason == "signaled"
    assert complete.signal


async def test_standard_input_is_given_and_ends(run: Run) -> None:
    given = bytes(range(256)) * 4096
    ran = await run(
        **program("import sys, zlib; print(zlib.crc32(sys.stdin.buffer.read()))"), stdin=given
    )
    assert ran.out == f"{zlib.crc32(given)}\n"


async def test_without_input_there_is_its_end(run: Run) -> None:
    assert (await run(command=("cat",))).out == ""


async def test_a_program_that_reads_nothing_is_not_harmed_by_its_input(run: Run) -> None:
    assert (await run(command=("true",), stdin=b"x" * 3_000_000)).out == ""


async def test_the_environment_is_only_what_was_asked_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMER_TEST_SECRET", "canary")
    ran = await run(
        **program("import json, os; print(json.dumps(dict(os.environ)))"),
        env={"GREETING": "a=b c\nd", "LD_LIBRARY_PATH": "/nowhere"},
    )
    env = json.loads(ran.out)
    assert env.pop("HOME")
    env.pop("LC_CTYPE", None)  # python's own doing (PEP 538)
    assert env == {
        "GREETING": "a=b c\nd",
        "LANG": "C.UTF-8",
        "LD_LIBRARY_PATH": "/nowhere",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
    }


async def test_the_environment_of_no_process_in_sight_has_our_secrets(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMER_TEST_SECRET", "canary-5e1f")
    ran = await run(
        **program("""
            import glob
            for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/task/*/environ"):
                try:
                    if b"canary-5e1f" in open(path, "rb").read():
                        print(path)
                except OSError:
                    pass
        """)
    )
    assert ran.out == ""


async def test_the_program_starts_in_its_home_and_can_write_there(run: Run) -> None:
    ran = await run(command=("sh", "-c", 'test "$PWD" = "$HOME" && echo x > "$HOME/a" && cat a'))
    assert ran.out == "x\n"


async def test_files_lie_where_they_were_named_with_their_modes(run: Run) -> None:
    ran = await run(
        command=(
            "sh",
            "-c",
            "stat -c '%a %n' a/b/c.txt run.sh secret empty; cat a/b/c.txt; ./run.sh x",
        ),
        files=(
            script("a/b/c.txt", "text\n"),
            script("run.sh", "#!/bin/sh\necho ran $1\n", 0o755),
            script("secret", "s", 0o600),
            script("empty", ""),
        ),
    )
    assert ran.out == "644 a/b/c.txt\n755 run.sh\n600 secret\n644 empty\ntext\nran x\n"


async def test_the_last_file_given_can_be_executed(run: Run) -> None:
    ran = await run(command=("./run",), files=(script("run", "#!/bin/sh\necho ran\n", 0o755),))
    assert ran.out == "ran\n"


async def test_file_names_may_be_strange(run: Run) -> None:
    names = ["-rf", "a b", "é€", "$(id)", "new\nline", "'", '"', "*"]
    ran = await run(
        **{
            **program("import json, os; print(json.dumps(sorted(os.listdir())))"),
            "files": (
                script("main.py", "import json, os; print(json.dumps(sorted(os.listdir('d'))))"),
                *(SourceFile(f"d/{name}", b"") for name in names),
            ),
        }
    )
    assert json.loads(ran.out) == sorted(names)


async def test_a_hundred_files_arrive(run: Run) -> None:
    files = tuple(SourceFile(f"d{i % 10}/f{i}", b"%d" % i) for i in range(100))
    ran = await run(
        command=("sh", "-c", "find . -type f -name 'f*' | wc -l; cat d7/f97"), files=files
    )
    assert ran.out.split() == ["100", "97"]


async def test_a_large_file_arrives_whole_every_time(run: Run) -> None:
    content = bytes(i * i % 251 for i in range(1000)) * 5243
    for _ in range(5):
        ran = await run(command=("cksum", "big"), files=(SourceFile("big", content),))
        assert ran.out.split()[1:] == [str(len(content)), "big"]


async def test_many_arguments_arrive(run: Run) -> None:
    args = tuple(f"{i} 'x'" for i in range(5000))
    ran = await run(
        command=("python3", "-I", "-c", "import sys; print(len(sys.argv), sys.argv[-1])", *args)
    )
    assert ran.out == "5001 4999 'x'\n"


async def test_a_missing_command_is_127_as_in_a_shell(run: Run) -> None:
    ran = await run(command=("no-such-command-here",))
    assert ran.complete.exit_code == 127
    assert "no-such-command-here" in ran.text("stderr")


async def test_a_file_that_may_not_be_executed_is_126(run: Run) -> None:
    ran = await run(command=("./data",), files=(script("data", "#!/bin/sh\n"),))
    assert ran.complete.exit_code == 126


async def test_compiler_and_program_share_the_folder(run: Run) -> None:
    ran = await run(
        language="c", code='#include <stdio.h>\nint main(void) { puts("hi"); return 3; }'
    )
    assert ran.text() == "hi\n"
    assert (ran.complete.exit_code, ran.complete.phase) == (3, "run")
    states = [event.data.state for event in ran.events if isinstance(event.data, Status)]
    assert states == ["queued", "preparing", "compiling", "running"]


async def test_a_program_does_not_run_when_it_does_not_compile(run: Run) -> None:
    ran = await run(language="c", code="int main(void) { return nothing; }")
    assert ran.complete.phase == "compile"
    assert ran.complete.exit_code != 0
    assert "nothing" in ran.text("stderr")


async def test_what_the_compiler_left_running_dies_before_the_program_runs(
    open_service: OpenService, backend: str
) -> None:
    compiling = "sleep 600 & setsid sleep 600 & until [ $(pgrep -cx sleep) = 2 ]; do :; done"
    leaky = Runtime(
        name="leaky",
        entry="main.sh",
        compile=("sh", "-c", compiling),
        run=("sh", "-c", "pgrep -cx sleep || true"),
    )
    service = await open_service(backend, runtimes=(leaky,))
    async for run in checked_runs(service):
        ran = await run(language="leaky", code="")
        assert ran.out == "0\n"


async def test_usage_is_measured(run: Run) -> None:
    complete = (
        await run(
            **program("""
                import time
                block = b"x" * 40_000_000
                while time.process_time() < 0.3:
                    pass
            """)
        )
    ).complete
    assert complete.cpu_time_ms is not None
    assert complete.peak_memory_bytes is not None
    assert 300 <= complete.cpu_time_ms <= complete.duration_ms + 100
    assert 40_000_000 <= complete.peak_memory_bytes <= 100_000_000
