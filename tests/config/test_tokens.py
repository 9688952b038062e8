"""The file of tokens: who may write it, and what is read of it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.config.tokens import changed_tokens, is_generated, new_token, read_tokens
from streamer.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def add(file: Path, tenant: str = "school") -> str:
    token, stored = new_token(tenant)
    with changed_tokens(file) as tokens:
        tokens.append(stored)
    return token


def test_what_is_written_is_read_and_has_no_token(file: Path) -> None:
    token = add(file, "ü \U0001f600")
    (stored,) = read_tokens(file).tokens
    assert (stored.tenant, stored.scopes) == ("ü \U0001f600", ("run", "read", "upload"))
    assert token.removeprefix("streamer_") not in file.read_text()
    assert stored.sha256.startswith(stored.id)
    assert is_generated(token)
    assert not is_generated(token + "\n")
    assert len({add(file) for _ in range(3)}) == 3
    assert len(read_tokens(file).tokens) == 4


def test_only_its_owner_may_read_it(file: Path) -> None:
    before = os.umask(0)
    try:
        add(file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not read_tokens(file).exposed
    file.chmod(0o604)
    assert read_tokens(file).exposed
    add(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_what_others_may_write_lets_nobody_in(file: Path, mode: int) -> None:
    add(file)
    file.chmod(mode)
    with pytest.raises(ConfigError, match="other accounts may write"):
        read_tokens(file)
    before = file.read_bytes()
    with pytest.raises(ConfigError), changed_tokens(file):
        raise AssertionError
    assert file.read_bytes() == before


def test_what_belongs_to_another_account_lets_nobody_in(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(file)
    if os.geteuid() == 0:
        os.chown(file, 60001, 60001)
    owner = file.stat().st_uid
    for account, allowed in ((owner, True), (0, True), (owner + 1, False)):
        monkeypatch.setattr("streamer.config.tokens.os.geteuid", lambda account=account: account)
        if allowed:
            assert len(read_tokens(file).tokens) == 1
        else:
            with pytest.raises(ConfigError, match=f"belongs to another account, {owner}"):
                read_tokens(file)


GOOD = {
    "id": "a",
    "tenant": "t",
    "sha256": "5" * 64,
    "scopes": ["run"],
    "created": "2026-01-01T00:00:00Z",
}


WRONG: list[dict[str, object]] = [
    {"tenant": ""},
    {"sha256": "5"},
    {"sha256": "A" * 64},
    {"scopes": []},
    {"scopes": ["admin"]},
    {"expires": "tomorrow"},
    {"expires": "2030-01-01T00:00:00"},
    {"admin": True},
]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "\0",
        "[]",
        '{"version": 1}',
        json.dumps({"version": 2, "tokens": []}),
        *(json.dumps({"version": 1, "tokens": [{**GOOD, **wrong}]}) for wrong in WRONG),
        json.dumps({"version": 1, "tokens": [GOOD, {**GOOD, "tenant": "other"}]}),
    ],
)
def test_what_is_not_such_a_file_is_refused_as_a_whole(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(ConfigError, match=r"auth\.tokens_file: .*tokens\.json"):
        read_tokens(file)


def test_what_is_no_file_holds_nobody(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path in (pipe, tmp_path):
        with pytest.raises(ConfigError, match=r"auth\.tokens_file"):
            read_tokens(path)
    assert read_tokens(tmp_path / "none").stamp is None


def test_a_change_that_fails_changes_nothing(file: Path) -> None:
    add(file)
    before = file.read_bytes()
    with pytest.raises(ZeroDivisionError), changed_tokens(file) as tokens:
        tokens.clear()
        raise ZeroDivisionError
    assert file.read_bytes() == before
    assert [one.name for one in file.parent.iterdir()] == [file.name]


def test_a_link_stays_one(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    add(link)
    assert link.is_symlink()
    assert len(read_tokens(file).tokens) == 1


ADD = """
import sys
from pathlib import Path
from streamer.config.tokens import changed_tokens, new_token
for _ in range(10):
    with changed_tokens(Path(sys.argv[1])) as tokens:
        tokens.append(new_token("t")[1])
"""


def test_of_those_who_change_it_at_once_none_loses_anything(file: Path) -> None:
    command = [sys.executable, "-c", ADD, str(file)]
    running = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(60) for process in running] == [0] * 4
    assert len(read_tokens(file).tokens) == 40


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_leaves_it_to_whom_it_belongs(file: Path, tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    add(file)
    assert file.stat().st_uid == 65534, "that of its folder"
    os.chown(file, 60001, 60001)
    add(file)
    assert (file.stat().st_uid, file.stat().st_gid) == (60001, 60001)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_group_that_root_lets_read_it_goes_on_reading_it(file: Path) -> None:
    add(file)
    os.chown(file, 0, 60001)
    file.chmod(0o644)
    add(file)
    assert (file.stat().st_gid, stat.S_IMODE(file.stat().st_mode)) == (60001, 0o640)
