"""What a program gets: its files, its input, its environment, its verdict."""

from __future__ import annotations

import json
import secrets
import signal
import zlib

from streamer.errors import InvalidJob
from streamer.model.events import Output, Status
from streamer.model.job import SourceFile, TerminalSize
from streamer.spi import Isolation
from streamer.testing.conformance.base import Requirements, requirement, until_output, variable
from streamer.testing.running import SLOWNESS, ended, program, run_job, script

__all__ = ["ProgramRequirements"]


class ProgramRequirements(Requirements):
    @requirement()
    async def test_both_streams_arrive_whole_and_in_order(self) -> None:
        ran = await self.run(
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

    @requirement()
    async def test_a_megabyte_written_just_before_the_end_arrives(self) -> None:
        ran = await self.run(
            **program("import os; data = b'x' * 2**20\nwhile data: data = data[os.write(1, data):]")
        )
        assert ran.out == "x" * 2**20

    @requirement()
    async def test_characters_are_never_split(self) -> None:
        ran = await self.run(**program("print('\\u20ac\\U0001f600' * 50000, end='')"))
        assert ran.out == "€😀" * 50000
        assert not any(event.data.lossy for event in ran.events if isinstance(event.data, Output))

    @requirement()
    async def test_a_real_time_signal_has_a_name_too(self) -> None:
        complete = (await self.run(**program("import os; os.kill(os.getpid(), 40)"))).complete
        assert complete.reason == "signaled"
        assert complete.signal

    @requirement()
    async def test_standard_input_is_given_and_ends(self) -> None:
        given = bytes(range(256)) * 4096
        ran = await self.run(
            **program("import sys, zlib; print(zlib.crc32(sys.stdin.buffer.read()))"), stdin=given
        )
        assert ran.out == f"{zlib.crc32(given)}\n"

    @requirement()
    async def test_without_input_there_is_its_end(self) -> None:
        assert (await self.run(command=("cat",))).out == ""

    @requirement()
    async def test_a_program_that_reads_nothing_is_not_harmed_by_its_input(self) -> None:
        assert (await self.run(command=("true",), stdin=b"x" * 3_000_000)).out == ""

    @requirement()
    async def test_the_program_starts_in_its_home_and_can_write_there(self) -> None:
        ran = await self.run(
            command=("sh", "-c", 'test "$PWD" = "$HOME" && echo x > "$HOME/a" && cat a')
        )
        assert ran.out == "x\n"

    @requirement()
    async def test_files_lie_where_they_were_named_with_their_modes(self) -> None:
        ran = await self.run(
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

    @requirement()
    async def test_the_last_file_given_can_be_executed(self) -> None:
        ran = await self.run(
            command=("./run",), files=(script("run", "#!/bin/sh\necho ran\n", 0o755),)
        )
        assert ran.out == "ran\n"

    @requirement()
    async def test_file_names_may_be_strange(self) -> None:
        names = ["-rf", "a b", "é€", "$(id)", "new\nline", "'", '"', "*"]
        ran = await self.run(
            **{
                **program("import json, os; print(json.dumps(sorted(os.listdir())))"),
                "files": (
                    script(
                        "main.py", "import json, os; print(json.dumps(sorted(os.listdir('d'))))"
                    ),
                    *(SourceFile(f"d/{name}", b"") for name in names),
                ),
            }
        )
        assert json.loads(ran.out) == sorted(names)

    @requirement()
    async def test_a_hundred_files_arrive(self) -> None:
        files = tuple(SourceFile(f"d{i % 10}/f{i}", b"%d" % i) for i in range(100))
        ran = await self.run(
            command=("sh", "-c", "find . -type f -name 'f*' | wc -l; cat d7/f97"), files=files
        )
        assert ran.out.split() == ["100", "97"]

    @requirement()
    async def test_a_large_file_arrives_whole_every_time(self) -> None:
        content = bytes(i * i % 251 for i in range(1000)) * 5243
        for _ in range(5):
            ran = await self.run(command=("cksum", "big"), files=(SourceFile("big", content),))
            assert ran.out.split()[1:] == [str(len(content)), "big"]

    @requirement()
    async def test_many_arguments_arrive(self) -> None:
        args = tuple(f"{i} 'x'" for i in range(4000))
        ran = await self.run(
            command=("python3", "-I", "-c", "import sys; print(len(sys.argv), sys.argv[-1])", *args)
        )
        assert ran.out == "4001 3999 'x'\n"

    @requirement()
    async def test_a_missing_command_is_127_as_in_a_shell(self) -> None:
        ran = await self.run(command=("no-such-command-here",))
        assert ran.complete.exit_code == 127
        assert "no-such-command-here" in ran.text("stderr")

    @requirement()
    async def test_a_file_that_may_not_be_executed_is_126(self) -> None:
        ran = await self.run(command=("./data",), files=(script("data", "#!/bin/sh\n"),))
        assert ran.complete.exit_code == 126

    @requirement()
    async def test_compiler_and_program_share_the_folder(self) -> None:
        ran = await self.run(
            language="c", code='#include <stdio.h>\nint main(void) { puts("hi"); return 3; }'
        )
        assert ran.text() == "hi\n"
        assert (ran.complete.exit_code, ran.complete.phase) == (3, "run")
        states = [event.data.state for event in ran.events if isinstance(event.data, Status)]
        assert states == ["queued", "preparing", "compiling", "running"]

    @requirement()
    async def test_a_program_does_not_run_when_it_does_not_compile(self) -> None:
        ran = await self.run(language="c", code="int main(void) { return nothing; }")
        assert ran.complete.phase == "compile"
        assert ran.complete.exit_code != 0
        assert "nothing" in ran.text("stderr")

    @requirement(gated=True)
    async def test_usage_is_measured(self) -> None:
        complete = (
            await self.run(
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
        # A program that was started before its job has spent some before that began.
        assert 300 <= complete.cpu_time_ms <= complete.duration_ms + 200 * SLOWNESS
        assert 40_000_000 <= complete.peak_memory_bytes <= 100_000_000

    @requirement()
    async def test_an_exit_code_is_told_as_it_is(self) -> None:
        codes = [*range(4), 63, 64, 100, *range(123, 131), 137, 139, 143, 159, 192, 254, 255]
        jobs = [await self.submit(command=("sh", "-c", f"exit {code}")) for code in codes]
        for code, job in zip(codes, jobs, strict=True):
            complete = (await ended(job)).complete
            assert (complete.reason, complete.exit_code, complete.signal) == ("exited", code, None)

    @requirement()
    async def test_a_signal_is_told_from_an_exit_code(self) -> None:
        for name in ("SIGKILL", "SIGSEGV", "SIGTERM", "SIGABRT", "SIGINT", "SIGHUP"):
            number = int(signal.Signals[name])
            complete = (await self.run(command=("sh", "-c", f"kill -{number} $$"))).complete
            assert (complete.reason, complete.signal) == ("signaled", name)
            assert complete.exit_code is None
            assert not complete.oom_killed
            assert not complete.timed_out

    @requirement()
    async def test_the_environment_is_only_what_was_asked_for(self) -> None:
        with variable("STREAMER_TEST_SECRET", "canary"):
            ran = await self.run(
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
            "LOGNAME": "nobody",
            "PATH": self.service.config.sandbox.path,
            "TERM": "dumb",
            "TMPDIR": "/tmp",
            "USER": "nobody",
        }

    @requirement()
    async def test_a_program_has_a_terminal_of_its_own_where_it_may_have_one(self) -> None:
        job = {
            **program("""
                import os, sys, termios
                name = os.ttyname(0)
                assert all(os.ttyname(number) == name for number in range(3))
                assert os.getsid(0) == os.tcgetpgrp(0) == os.getpid()
                os.close(os.open("/dev/tty", os.O_RDWR))
                try:
                    os.close(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))
                    others = True
                except OSError:
                    others = False
                print(os.get_terminal_size(), input(), others)
            """),
            "terminal": TerminalSize(cols=91, rows=33),
            "stdin": b"typed\r",
        }
        if not self.service.worker.backends[self.backend.name].terminals():
            refused = False
            try:
                await self.run(**job)
            except InvalidJob:
                refused = True
            assert refused
            return
        ran = await self.run(**job)
        others = self.backend.isolation == Isolation.NONE
        end = f"os.terminal_size(columns=91, lines=33) typed {others}\r\n"
        assert ran.verdict == "exited 0", ran.events
        assert ran.text().endswith(end), ran.text()
        assert ran.text("stderr") == ""

    @requirement()
    async def test_two_jobs_at_once_do_not_see_each_other(self) -> None:
        secret = f"secret-{secrets.token_hex(4)}"
        first = await self.submit(
            command=("sh", "-c", "echo up; cat >/dev/null", secret),
            env={"S": secret},
            interactive=True,
        )
        await until_output(first)
        second = await run_job(
            self.service,
            **program("""
                import glob, sys
                secret = sys.stdin.read().encode()
                for path in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"):
                    try:
                        if secret in open(path, "rb").read():
                            print(path)
                    except OSError:
                        pass
            """),
            stdin=secret.encode(),
        )
        await first.end_input()
        assert (await ended(first)).complete.exit_code == 0
        assert second.out == ""
