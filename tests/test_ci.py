"""Hold what CI runs to what is in tests/: in the machine with control groups of version 2, and of the languages."""

from __future__ import annotations

import re
from pathlib import Path

import streamer
from streamer.model.languages import DEFAULT_RUNTIMES

ROOT = Path(streamer.__file__).parent.parent
GUEST = (ROOT / ".ci" / "cgroup-v2-guest").read_text()
NAMED = set(re.findall(r"\btests/[\w/]+(?:\.py)?", GUEST))
LOOKS_AT_GROUPS = re.compile(r"cgroup_level|CgroupTree|STREAMER_REQUIRE_CGROUP|/sys/fs/cgroup")
"""What a test names whose outcome depends on the groups that its host has."""
WITHOUT = {
    "tests/backends/test_shown.py": "an attack looks for the same names in the groups",
    "tests/model/test_capabilities.py": "its groups are made up",
    "tests/test_ci.py": "this",
    "tests/worker/keeping.py": "test_kept.py, which uses it, runs there",
    "tests/test_load.py": "what is kept of groups is left out of a count",
    "tests/sandbox/test_seccomp.py": "either answer is tried elsewhere: as root, and as an ordinary user",
}
"""Modules that name it and need not run there."""


def test_the_machine_is_told_to_run_what_exists() -> None:
    assert NAMED
    assert [name for name in sorted(NAMED) if not (ROOT / name).exists()] == []


def test_the_machine_runs_every_attack_and_all_that_depends_on_groups() -> None:
    modules = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("*.py")
        if LOOKS_AT_GROUPS.search(path.read_text())
    }
    covered = {name for name in modules if NAMED & {name, *map(str, list(Path(name).parents)[:-2])}}
    assert sorted(modules - covered - set(WITHOUT)) == []
    assert "tests/escape" in NAMED


def test_the_checks_of_every_change_start_the_machine() -> None:
    steps = (ROOT / ".ci" / "run").read_text().splitlines()
    machine = [line for line in steps if re.fullmatch(r"\s*step '[^']+' \.ci/cgroup-v2-vm", line)]
    assert len(machine) == 1  # the whole of it: arguments would take the place of its lists
    # Both suites, with what `make test` leaves out, which the targets must not leave out too.
    suites = [line for line in steps if re.match(r"""\s*step ['"]the suite""", line)]
    assert [re.findall(r"make (\S+)", line) for line in suites] == [
        ["test-isolation"],
        ["test-thorough"],
    ]
    assert recipe("test-isolation") == (
        "\t@$(PYTEST) -m 'not thorough or isolation' $(ANY_ACCOUNT:%=--ignore=tests/%) $(PYTEST_ARGS)"
    )
    assert recipe("test-thorough") == "\t@$(PYTEST) $(PYTEST_ARGS)"
    # What CI reports is the last line of all.
    assert steps[-1].endswith('make test-thorough "$again"')


def recipe(target: str) -> str:
    return (ROOT / "Makefile").read_text().partition(f"\n{target}:")[2].splitlines()[1]


def test_the_checks_of_every_change_send_thousands_of_requests() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    ((count, module),) = re.findall(
        r"STREAMER_TEST_REQUESTS=(\d+).*?(tests/\S+\.py)", script, re.DOTALL
    )
    assert int(count) >= 5000
    assert "STREAMER_TEST_REQUESTS" in (ROOT / module).read_text()


def test_ci_has_every_language_but_one() -> None:
    required = (ROOT / ".ci" / "languages").read_text().split()
    assert sorted(required) == sorted(DEFAULT_RUNTIMES.keys() - {"kotlin"})
