"""What a shell and man(1) know of the commands: completions, and the manual page."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from streamer.cli.main import cli
from streamer.cli.manpage import manual_page
from tests.cli.test_commands import COMMAND, ENVIRON


def asked(**variables: str) -> str:
    """Return what a shell is answered: the words are in variables, and no command runs."""
    done = subprocess.run(
        COMMAND,
        env={**ENVIRON, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_completion(shell: str) -> None:
    script = asked(_STREAMER_COMPLETE=f"{shell}_source")
    assert f"_STREAMER_COMPLETE={shell}_complete" in script
    if found := shutil.which(shell):
        checked = subprocess.run(
            [found, "-n"], input=script, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("streamer fo", {"plain,follow"}),
        ("streamer run --ter", {"plain,--terminal"}),
        ("streamer run --language pyt", {"plain,python"}),
        ("streamer run --sandbox b", {"plain,bwrap"}),
        ("streamer run main", {"file,main"}),
        ("streamer run -o out", {"dir,out"}),
        ("streamer jobs --status ru", {"plain,running"}),
        ("streamer session en", {"plain,end"}),
    ],
)
def test_bash_completes(words: str, completed: set[str]) -> None:
    at = str(len(words.split()) - 1)
    said = asked(_STREAMER_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=at)
    assert set(said.split()) == completed


def every_command(
    group: click.Group, path: str = "streamer"
) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from every_command(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def test_the_manual_page_has_every_command_and_option() -> None:
    page = manual_page()
    commands = dict(every_command(cli))
    assert {"streamer run", "streamer session write"} <= commands.keys()
    for path, command in commands.items():
        _, _, text = page.partition(f".SS {path}\n")
        section = text.partition("\n.S")[0].replace(r"\-", "-")
        assert section, path
        options = {name for each in command.params for name in each.opts if name.startswith("--")}
        assert {name for name in options if name not in section} == set(), path
    # No line of text is taken for a request, and no escape is lost.
    assert page.isascii()
    assert not [line for line in page.splitlines() if line.startswith("'")]


def test_programs_for_manual_pages_take_it(tmp_path: Path) -> None:
    file = tmp_path / "streamer.1"
    file.write_text(manual_page())
    # mandoc would rather have mdoc(7), and a date.
    commands = {"mandoc": ("-T", "lint", "-W", "warning"), "man": ("--warnings=w", "-l")}
    found = {name: path for name in commands if (path := shutil.which(name))}
    if not found:
        pytest.skip("neither man nor mandoc is installed")
    for name, path in found.items():
        done = subprocess.run(
            [path, *commands[name], file],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "PAGER": "cat"},
        )
        warnings = [line for line in done.stderr.splitlines() if "missing date" not in line]
        assert (done.returncode in (0, 2), warnings) == (True, []), done.stdout[:2000]
        if name == "man":
            assert "streamer session write" in done.stdout


def test_the_page_is_written_where_the_build_wants_it(tmp_path: Path) -> None:
    file = tmp_path / "streamer.1"
    subprocess.run([sys.executable, "-m", "streamer.cli.manpage", file], check=True, env=ENVIRON)
    assert file.read_text() == manual_page()
