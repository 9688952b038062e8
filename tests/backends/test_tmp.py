"""The size of /tmp that a language gives itself: for both of its stages, beside other languages."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamer.compose import Parts
from streamer.model.runtime import Runtime
from streamer.model.session import SessionSpec
from tests.conftest import OpenService
from tests.running import run_job

MIB = 2**20
SIZES = {"small": MIB, "large": 64 * MIB, "usual": 0}
USUAL = 2 * MIB
# Two files: one may have no more than 64 MiB, by the limit of a file.
FILL = """
for part in one other; do head -c 40M /dev/zero 2>/dev/null >/tmp/$part; done
cat /tmp/one /tmp/other | wc -c; rm /tmp/one /tmp/other
"""
RUNTIMES = tuple(
    Runtime(
        name=name,
        entry="main.sh",
        compile=("sh", "-c", FILL),
        run=("sh", "{entry}"),
        tmp_bytes=size,
    )
    for name, size in SIZES.items()
)


async def filled(service: Parts, language: str, **spec: Any) -> list[int]:
    """Return how much each stage of a job could write to /tmp."""
    ran = await run_job(service, language=language, code=FILL, **spec)
    assert ran.complete.reason == "exited", ran
    return [int(line) for line in ran.text().split()]


async def opened(open_service: OpenService, *, template: bool) -> Parts:
    sandbox = {"warm": True, "bwrap": {"template": template, "tmp_bytes": USUAL}}
    return await open_service("bwrap", runtimes=RUNTIMES, sandbox=sandbox)


@pytest.mark.parametrize("template", [True, False])
async def test_each_language_has_its_own(open_service: OpenService, *, template: bool) -> None:
    """Also where the sandbox was opened before its job: one of another language is not taken."""
    service = await opened(open_service, template=template)
    for _ in range(2):
        found = await asyncio.gather(*(filled(service, language) for language in SIZES))
        assert found == [[MIB] * 2, [64 * MIB] * 2, [USUAL] * 2]
    assert service.worker.pool is not None
    assert (await run_job(service, command=("sh", "-c", FILL))).text() == f"{USUAL}\n"


async def test_what_is_in_it_counts(open_service: OpenService) -> None:
    """It is memory, and a larger one gives a job no more than its limit."""
    service = await opened(open_service, template=True)
    code = "head -c 60M /dev/zero >/tmp/full; sleep 60"
    ran = await run_job(
        service, language="large", code=code, limits={"memory_bytes": 24 * MIB, "wall_time_s": 30}
    )
    assert ran.complete.reason == "memory"


async def test_a_session_has_the_largest_of_its_languages(open_service: OpenService) -> None:
    service = await opened(open_service, template=True)
    for languages, size in ((("small", "large"), 64 * MIB), (("small", "usual"), USUAL)):
        session = await service.jobs.sessions.open(SessionSpec(languages=languages))
        session_id = session.session.session_id
        assert await filled(service, "small", session_id=session_id) == [size] * 2


async def test_a_backend_that_gives_none_runs_the_language_and_says_so(
    open_service: OpenService, backend: str
) -> None:
    language = Runtime(name="small", entry="main.sh", run=("sh", "{entry}"), tmp_bytes=MIB)
    service = await open_service(backend, runtimes=(language,))
    ran = await run_job(service, language="small", code="echo x >$TMPDIR/it$$ && rm $TMPDIR/it$$")
    assert ran.complete.exit_code == 0
    facts = (await service.jobs.workers.together()).backends[backend]
    assert facts.enforces["tmp_bytes"] == ("tmpfs" if backend == "bwrap" else "none")
