"""`streamer token`: what it prints and keeps, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.toml").write_text('[auth]\ntokens_file = "tokens.json"\n')
    return tmp_path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamer", "token", *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )


def test_a_token_is_created_listed_and_revoked(folder: Path) -> None:
    created = run(folder, "create", "--tenant", "school", "--name", "ci", "--expires", "30d")
    assert created.returncode == 0, created.stderr
    token = created.stdout.removesuffix("\n")
    assert re.fullmatch("streamer_[0-9a-f]{64}", token)
    assert token not in created.stderr
    kept = (folder / "tokens.json").read_text()
    assert token.removeprefix("streamer_") not in kept
    assert hashlib.sha256(token.encode()).hexdigest() in kept
    other = run(folder, "create", "--tenant", "b", "--scope", "read", "--scope", "run", "--json")
    document = json.loads(other.stdout)
    assert document.keys() == {"token", "id", "tenant", "name", "scopes", "created", "expires"}
    assert document["scopes"] == ["run", "read"]
    rows = json.loads(run(folder, "list", "--json").stdout)
    assert [(row["tenant"], row["name"]) for row in rows] == [("school", "ci"), ("b", "")]
    expires = datetime.fromisoformat(rows[0]["expires"])
    assert abs(expires - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=5)
    assert len(json.loads(run(folder, "list", "--tenant", "b", "--json").stdout)) == 1
    shown = run(folder, "list").stdout
    assert rows[0]["id"] in shown
    assert rows[0]["expires"][:16].replace("T", " ") in shown
    assert "run read upload" in shown
    assert token not in shown
    revoked = run(folder, "revoke", rows[0]["id"])
    assert (revoked.returncode, revoked.stderr) == (0, "")
    again = run(folder, "revoke", rows[0]["id"], rows[1]["id"])
    assert (again.returncode, again.stderr) == (1, f"streamer: there is no token {rows[0]['id']}\n")
    assert run(folder, "list", "--json").stdout == "[]\n"


def test_a_list_without_tokens_says_where_it_has_looked(folder: Path) -> None:
    none = run(folder, "list", "--file", "other.json")
    assert (none.returncode, none.stdout) == (0, "")
    assert none.stderr == "streamer: there is no other.json yet\n"
    run(folder, "create", "--tenant", "school")
    none = run(folder, "list", "--tenant", "schol")
    assert none.stderr == f"streamer: {folder / 'tokens.json'} has no such token\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["create"], "--tenant"),
        (["create", "--tenant", ""], "--tenant"),
        (["create", "--tenant", "a\nb"], "control character"),
        (["create", "--tenant", "a\x1b[2J"], "control character"),
        (["create", "--tenant", "x" * 201], "200"),
        (["create", "--tenant", b"\xff".decode(errors="surrogateescape")], "--tenant"),
        (["create", "--tenant", "a", "--scope", "admin"], "admin"),
        (["create", "--tenant", "a", "--expires", "soon"], "30d"),
        (["create", "--tenant", "a", "--expires", "2020-01-01"], "that is over"),
        (["create", "--tenant", "a", "--expires", "0d"], "that is over"),
        (["create", "--tenant", "a", "--set", "auth.tokens_file="], "tokens_file"),
        (["revoke"], "ID"),
    ],
)
def test_what_cannot_be_is_refused(folder: Path, words: list[str], said: str) -> None:
    refused = run(folder, *words)
    assert (refused.returncode, refused.stdout) == (2, ""), refused.stderr
    assert said in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (folder / "tokens.json").exists()


def test_a_broken_file_is_not_written_over(folder: Path) -> None:
    file = folder / "tokens.json"
    file.write_text("{")
    file.chmod(0o600)
    for words in (["create", "--tenant", "a"], ["list"], ["revoke", "x"]):
        refused = run(folder, *words)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "tokens.json" in refused.stderr
    assert file.read_text() == "{"


def test_where_nothing_is_revoked_nothing_is_written(folder: Path) -> None:
    unknown = run(folder, "revoke", "0123456789ab")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr == "streamer: there is no token 0123456789ab\n"
    assert [one.name for one in folder.iterdir()] == ["config.toml"]
    run(folder, "create", "--tenant", "school")
    before = (folder / "tokens.json").stat()
    assert run(folder, "revoke", "0123456789ab").returncode == 1
    after = (folder / "tokens.json").stat()
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
