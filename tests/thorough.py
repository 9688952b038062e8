"""The tests that only `make test-thorough` runs, and names of such tests that no test has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

__all__ = ["THOROUGH", "is_thorough", "stale"]

LARGE: Final = (
    *("csharp", "go", "haskell", "java", "kotlin", "ocaml", "pascal", "r", "rust", "typescript"),
)
"""Languages with large compilers."""

THOROUGH: Final = {
    "backends/test_conformance.py": (
        *("TestBwrapForEachJob::", "TestBwrapForEachJobWithoutGroups::"),
        "TestBwrapForEachJobWarm::",
        *("TestBwrapForked::", "TestBwrapForkedWithoutGroups::"),
    ),
    "backends/test_idle_neighbours.py": (".*plain",),
    "backends/test_third_party.py": ("test_a_stranger_runs", "test_a_package_that_pip"),
    "cli/test_configfile.py": tuple(
        f"test_a_hostile_folder.*{command}" for command in ("doctor", "sandboxes")
    ),
    "doctor/test_report.py": (
        *("test_a_backend_that_leaks", "test_a_configured_backend_that_leaks"),
    ),
    "engine/test_blobs.py": (r".*\[redis-s3",),
    "engine/test_endings.py": ("test_ten_thousand",),
    "engine/test_stores.py": (
        *(r".*\[redis-s3", "test_a_server_of_s3", "test_a_bucket"),
        "test_two_gigabytes",
    ),
    "environments/test_docs.py": ("",),
    "escape/test_escape.py": (
        *("TestBwrapForEachJob::", "TestBwrapForEachJobOnTerminal::", "TestBwrapForked::"),
        *("TestBwrapWarm::", "TestFirejail::", "TestFirejailOnTerminal::"),
    ),
    "interop/test_clients.py": ("test_a_cut_after_every_event",),
    "languages/test_languages.py": tuple(rf".*\[(bwrap-)?{name}\b" for name in LARGE),
    "languages/test_layouts.py": (".*",),
    "public/test_programs.py": (".*plain",),
    "supervisor/test_several.py": (
        *(
            "test_a_killed_process",
            "test_each_part",
            "test_nothing_outlives",
            "test_readers",
            "test_without_its_redis",
        ),
        r"test_what_is_wrong.*\[(address|engine|backend|readers)\]",
    ),
    "test_architecture.py": ("test_each_module_imports_alone",),
    "test_deploy.py": ("test_a_stream_is", "test_a_submission", "test_what_nginx"),
    "test_fairness.py": ("test_a_thousand_jobs",),
    "test_chaos.py": (".*",),
    "test_held.py": (
        *(f".*slow {what}" for what in ("replays", "outputs", "recordings", "records")),
        *(
            rf".*\[{what}\]"
            for what in ("lists of projects", "records", "logs read late", "arguments")
        ),
    ),
    "test_leases.py": (
        *("test_the_jobs_of_a_worker", "test_a_worker_that_is_cut", "test_no_byte"),
        "test_a_service_that_is",
    ),
    "test_log_secrecy.py": (".*plain",),
    "test_load.py": ("test_1000_readers", "test_1000_jobs"),
    "test_neighbours.py": (".*plain", ".*in sessions"),
    "test_packaging.py": ("test_where_the_library_does_not_compile",),
    "test_soak.py": ("",),
    "warmed/test_warmed.py": (".*command", ".*with its job", ".*bash"),
    "web/test_stores.py": (r".*\[s3",),
    "web/test_webhooks.py": ("test_one_survives",),
    "worker/test_artifacts.py": (r"test_a_hundred_thousand_files\[plain",),
}
"""The same as other tests in another way of making sandboxes, larger, or with a large compiler.

For each file of tests what the rest of their names begins with, as regular expressions.
"""

PATTERNS: Final = {
    f"tests/{file}": tuple(map(re.compile, names)) for file, names in THOROUGH.items()
}


def is_thorough(test: str) -> bool:
    return any(True for _ in _named(test))


def stale(tests: Iterable[str]) -> list[str]:
    """Return the entries of `THOROUGH` that name none of all tests."""
    entries = {f"{file}::{name.pattern}" for file in PATTERNS for name in PATTERNS[file]}
    for test in tests:
        entries.difference_update(_named(test))
    return sorted(entries)


def _named(test: str) -> Iterator[str]:
    """Yield the entries that name a test."""
    file, _, name = test.partition("::")
    for pattern in PATTERNS.get(file, ()):
        if pattern.match(name):
            yield f"{file}::{pattern.pattern}"
