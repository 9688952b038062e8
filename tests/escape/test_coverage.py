"""Every known failure has an attack or a test, the page is true, and attacks can succeed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from sandboxes.bwrap import Bwrap
from sandboxes.firejail import Firejail
from sandboxes.plain import Plain
from streamer.sandbox.enforcement import enforcement
from streamer.spi import Isolation
from streamer.testing import ATTACKS
from streamer.testing.failures import FAILURES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "escape-matrix.md").read_text()

ELSEWHERE: Mapping[int, tuple[str, ...]] = {
    10: (
        "tests/backends/test_service.py::test_a_service_that_is_killed_takes_its_jobs_along",
        "tests/test_process.py::test_a_killed_server_leaves_no_job_alive",
    ),
    13: (
        "tests/config/test_schema.py::test_no_limit_is_zero_negative_or_not_a_number",
        "tests/web/test_fields.py::test_what_is_no_number_in_json_is_no_number",
    ),
    15: (
        "tests/web/test_control.py::test_a_signal_reaches_the_program",  # and none later: 409
        "tests/sandbox/test_init.py::test_a_signal_or_a_kill_without_a_program_is_nothing",
    ),
    17: ("tests/web/test_stream.py::test_a_reader_that_never_reads_disturbs_nobody",),
    20: ("tests/web/test_output.py::test_a_character_written_in_two_halves_stays_one",),
    24: (
        "tests/web/test_stream.py::test_a_late_reader_gets_everything",
        "tests/web/test_refusals.py::test_an_unknown_job_is_404",
    ),
    25: (
        "tests/web/test_resume.py::test_a_cut_after_every_single_event",
        "tests/web/test_stream.py::test_an_id_that_is_none_asks_for_everything",
    ),
    27: ("tests/web/test_stream.py::test_a_reader_that_never_reads_disturbs_nobody",),
    28: ("tests/web/test_stream.py::test_two_readers_of_one_job_and_one_leaves",),
    30: (
        "tests/jobs/archives/test_store.py::test_names_that_are_refused",
        "tests/sandbox/test_init_project.py::test_a_name_that_nobody_has_checked",
    ),
    32: (
        "tests/jobs/archives/test_store.py::test_names_that_clash",
        "tests/jobs/archives/test_tar.py::test_a_bomb_in_one_file",
        "tests/jobs/archives/test_zip.py::test_entries_that_overlap",
        "tests/web/test_projects.py::test_a_bomb",
    ),
    38: (
        "tests/web/test_files.py::test_a_path_that_no_file_has",
        "tests/web/test_refusals.py::test_an_unknown_project_is_named",
    ),
    54: ("tests/web/test_refusals.py::test_an_internal_failure_says_nothing",),
    57: ("tests/model/test_hosts.py::test_what_could_be_read_in_two_ways_is_no_host",),
    58: ("tests/backends/test_network.py::test_an_empty_list_is_none",),
    59: (
        "tests/web/test_mounting.py::test_a_sandbox_that_does_not_work_stops_the_start",
        "tests/backends/test_third_party.py::test_a_broken_backend_is_refused_with_its_reason",
    ),
    60: ("tests/web/test_access.py::test_another_tenants_job_is_not_there",),
    61: (
        "tests/web/test_access.py::test_without_a_known_token_there_is_nothing",
        "tests/web/test_strangers.py::test_a_stranger_gets_nothing",
    ),
    62: (
        "tests/model/test_runtime.py::test_a_file_name_is_never_an_option",
        "tests/web/test_refusals.py::test_what_is_wrong_is_said_with_its_place",
    ),
    65: ("tests/web/test_capacity.py::test_no_more_jobs_run_at_once_than_configured",),
    66: ("tests/web/test_capacity.py::test_a_full_queue_refuses_and_says_when_to_try_again",),
    67: ("tests/web/test_access.py::test_a_share_of_the_queue_is_each_tenants_own",),
    69: (
        "tests/web/test_origins.py::test_a_page_of_another_site_is_refused",
        "tests/web/test_origins.py::test_a_service_on_loopback_has_no_other_names",
    ),
    70: ("tests/backends/test_third_party.py::test_a_plan_that_raises_fails_its_job_only",),
}
"""Failures that do not depend on the backend, with the tests for them."""

NOT_THERE: Mapping[int, str] = {
    56: "the service calls nobody",
}
"""Failures of features that streamer does not have; a new feature brings its tests."""


def test_every_failure_is_covered_or_shown_elsewhere() -> None:
    covered = {number for attack in ATTACKS for number in attack.covers}
    assert covered <= FAILURES.keys()
    assert sorted(FAILURES.keys() - covered - ELSEWHERE.keys() - NOT_THERE.keys()) == []


@pytest.mark.parametrize("test", sorted({name for names in ELSEWHERE.values() for name in names}))
def test_a_test_that_is_named_exists(test: str) -> None:
    path, name = test.split("::")
    assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE)


def test_the_attacks_are_well_formed() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names)) >= 110
    assert len({(attack.language, attack.source) for attack in ATTACKS}) == len(names)
    for attack in ATTACKS:
        assert "|" not in attack.name
        if attack.language in ("", "build"):
            compile(attack.source, attack.name, "exec")


def test_bwrap_promises_everything_but_what_sharing_usr_costs() -> None:
    enforces = enforcement(Bwrap(), "cgroup-v2")
    excepted = [attack.name for attack in ATTACKS if attack.not_promised(Bwrap(), enforces)]
    assert excepted == ["another job's lock on a file of all"]
    assert not [a.name for a in ATTACKS if Isolation.VIRTUAL_MACHINE in a.except_for]


# --- the page -----------------------------------------------------------------------------------

CELLS = re.compile(r"^\| (.+?) \| (\**\w+\**) \| (\**\w+\**) \| (\**\w+\**) \|$", re.MULTILINE)
BACKENDS = (Plain(), Firejail(), Bwrap())
OUTCOMES = {name: cells for name, *cells in CELLS.findall(PAGE) if name != "attack"}


def test_the_page_has_every_attack_and_no_other() -> None:
    assert list(OUTCOMES) == [attack.name for attack in ATTACKS], "make escape-matrix"
    assert f"There are {len(ATTACKS)} attacks." in PAGE


def test_the_page_has_the_promises_of_the_code() -> None:
    found = re.search(r"control groups: (\S+)\.$", PAGE, re.MULTILINE)
    assert found
    for attack in ATTACKS:
        for backend, cell in zip(BACKENDS, OUTCOMES[attack.name], strict=True):
            enforces = enforcement(backend, None if found[1] == "none" else found[1])
            promised = not attack.not_promised(backend, enforces)
            assert (cell == "**held**") is promised, (attack.name, backend.name, cell)


def test_attacks_do_succeed_where_nothing_holds_them() -> None:
    # An attack that succeeds nowhere proves little. Most of the others need a privilege that
    # the job's user has not got, or go over a limit that every backend enforces.
    successful = [name for name, cells in OUTCOMES.items() if cells[0] == "*succeeds*"]
    assert len(successful) >= 50
