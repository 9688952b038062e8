"""C and C++ as their users know them: prompts, deep recursion, sanitizers, a clean environment."""

from __future__ import annotations

import re
from typing import Any

import pytest

from streamer.compose import Parts
from streamer.model.events import Output
from streamer.model.job import JobSpec
from streamer.model.languages import DEFAULT_RUNTIMES
from streamer.model.runtime import Runtime
from tests.conftest import OpenService
from tests.running import ended, run_job

MIB = 2**20

PROMPT = """
    #include <stdio.h>
    int main(void)
    {
        int n, m;
        puts("a line");
        printf("n: ");
        if (scanf("%d", &n) != 1) return 1;
        printf("m: ");
        if (scanf("%d", &m) != 1) return 1;
        printf("sum %d", n + m);
        return 0;
    }
"""
PROMPT_CPP = """
    #include <iostream>
    int main()
    {
        int n, m;
        std::cout << "a line\\n" << "n: ";
        std::cin >> n;
        std::cout << "m: ";
        std::cin >> m;
        std::cout << "sum " << n + m;
    }
"""


def with_flags(language: str, *flags: str) -> Runtime:
    runtime = DEFAULT_RUNTIMES[language]
    compiler, *rest = runtime.compile
    return Runtime(
        name="flagged",
        entry=runtime.entry,
        sources=runtime.sources,
        compile=(compiler, *flags, *rest),
        compile_input=runtime.compile_input,
        run=runtime.run,
        env=runtime.env,
        limits={"memory_bytes": 768 * MIB},
    )


@pytest.fixture
async def service(open_service: OpenService, backend: str) -> Parts:
    return await open_service(backend)


@pytest.mark.parametrize(
    ("runtime", "source"),
    [
        pytest.param(DEFAULT_RUNTIMES["c"], PROMPT, id="c"),
        pytest.param(DEFAULT_RUNTIMES["cpp"], PROMPT_CPP, id="c++"),
        pytest.param(with_flags("c", "-static"), PROMPT, id="static"),
        pytest.param(with_flags("c", "-g", "-fsanitize=address"), PROMPT, id="asan"),
    ],
)
async def test_a_prompt_is_seen_before_its_answer_is_given(
    open_service: OpenService, need: Any, runtime: Runtime, source: str
) -> None:
    service = await open_service(need("bwrap"), runtimes=(runtime,))
    job = await service.jobs.submit(
        JobSpec(language=runtime.name, code=source, interactive=True, limits={"wall_time_s": 60.0})
    )
    seen, answers = "", {"a line\nn: ": b"20\n", "a line\nn: m: ": b"22\n"}
    async for event in job.events():
        if isinstance(event.data, Output):
            seen += event.data.data
            if seen in answers:
                await job.write(answers.pop(seen))
    assert seen == "a line\nn: m: sum 42"
    assert (await ended(job)).verdict == "exited 0"


async def test_lines_come_as_they_are_written(service: Parts) -> None:
    source = '#include <stdio.h>\nint main(void) { puts("now"); while (getchar() != EOF); }'
    job = await service.jobs.submit(JobSpec(language="c", code=source, interactive=True))
    async for event in job.events():
        if isinstance(event.data, Output) and event.data.data == "now\n":
            await job.end_input()
    assert (await ended(job)).verdict == "exited 0"


ENVIRONMENT = """
    #include <stdio.h>
    extern char **environ;
    int main(void) { for (char **at = environ; *at; at++) puts(*at); }
"""


async def test_the_environment_has_nothing_of_ours(service: Parts) -> None:
    ran = await run_job(service, language="c", code=ENVIRONMENT, env={"MINE": "x"})
    names = set(re.findall(r"^(\w+)=", ran.out, re.MULTILINE))
    assert "MINE" in names
    assert not {name for name in names if name.startswith("LD_") or "STD" in name}


DEEP = """
    int f(int n) { volatile int a[8]; a[0] = n; return n ? f(n - 1) + (a[0] > 0) : 0; }
    int main(void) { return f(1000000) != 1000000; }
"""


@pytest.mark.parametrize(
    ("limits", "verdict"),
    [
        ({}, "exited 0"),
        ({"stack_bytes": 4 * MIB}, "signaled SIGSEGV"),
        ({"memory_bytes": 256 * MIB, "stack_bytes": "200MiB"}, "exited 0"),
    ],
)
async def test_recursion_may_be_as_deep_as_the_memory(
    service: Parts, limits: dict[str, float | str], verdict: str
) -> None:
    assert (await run_job(service, language="c", code=DEEP, limits=limits)).verdict == verdict


STACK = """
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    print(soft)
    resource.setrlimit(resource.RLIMIT_STACK, (2 * soft, hard))
"""


@pytest.mark.parametrize(("limits", "stack"), [({}, 8 * MIB), ({"stack_bytes": MIB}, MIB)])
async def test_other_languages_have_the_usual_stack(
    service: Parts, limits: dict[str, float | str], stack: int
) -> None:
    code = "\n".join(line[4:] for line in STACK.splitlines())
    assert (await run_job(service, language="python", code=code, limits=limits)).out == f"{stack}\n"


CLEAN = """
    #include <stdlib.h>
    int main(void) { volatile char *kept = malloc(16); kept[0] = 1; kept = 0; return 0; }
"""
OVERRUN = """
    #include <stdlib.h>
    int main(void) { volatile char *at = malloc(16); at[16] = 1; return 0; }
"""


async def test_a_sanitizer_says_what_is_wrong_and_nothing_else(
    open_service: OpenService, isolating_backend: str
) -> None:
    runtime = with_flags("c", "-g", "-fsanitize=address")
    service = await open_service(isolating_backend, runtimes=(runtime,))
    clean = await run_job(service, language="flagged", code=CLEAN)
    assert (clean.verdict, clean.text("stderr")) == ("exited 0", "")
    wrong = await run_job(service, language="flagged", code=OVERRUN)
    assert wrong.verdict == "exited 1"
    assert "heap-buffer-overflow" in wrong.text("stderr")


GROUPS = """
    import os
    os.setpgrp()
    assert os.getpgrp() == os.getpid()
    os.setpgid(0, 0)
    if os.fork() == 0:
        os.setsid()
        os._exit(0)
    assert os.wait()[1] == 0
    print("ok")
"""


async def test_a_program_can_lead_a_group_and_its_child_a_session(service: Parts) -> None:
    code = "\n".join(line[4:] for line in GROUPS.splitlines())
    assert (await run_job(service, language="python", code=code)).out == "ok\n"
