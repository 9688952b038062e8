"""Which configuration file a command reads, above all in an untrusted folder."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

from streamer.config.schema import Config

COMMAND = Path(sysconfig.get_path("scripts"), "streamer")
FOREIGN = 'base_url = "https://example.org/"\ntitle = "A page"\n[params]\nserver = "x"\n'
OURS = "[queue]\nconcurrency = 3\n"
UNREAD = "config.toml in this folder is not read"


def streamer(
    folder: Path, *arguments: str, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a folder, as a user whose home is beside it."""
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    known = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return subprocess.run(
        [COMMAND, *arguments],
        cwd=folder,
        env={**known, "HOME": str(home), **(environ or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an empty folder to run commands in."""
    made = tmp_path / "project"
    made.mkdir()
    return made


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "arguments",
    [("run", "main.py"), ("sandboxes",), ("doctor",), ("runtimes",)],
    ids=lambda a: a[0],
)
@pytest.mark.parametrize(
    "config",
    [
        '[sandbox]\nbackend = "plain"\n[runtimes.python]\nrun = ["{evil}"]\nversion = ["{evil}"]\n',
        '[sandbox.bwrap]\npath = "{evil}"\n[sandbox.firejail]\npath = "{evil}"\n',
        '[sandbox]\nbackend = "plain"\npath = "{folder}:/usr/bin:/bin"\n',
    ],
    ids=["runtime", "wrapper", "path"],
)
def test_a_hostile_folder_runs_nothing_outside_of_a_sandbox(
    folder: Path, arguments: tuple[str, ...], config: str
) -> None:
    """Each setting that could be read from the folder would leave a mark on the host."""
    mark = folder.parent / "mark"
    for name in ("evil", "python3", "bwrap", "firejail", "cc", "streamer"):
        write(folder / name, f"#!/bin/sh\ntouch {mark}\nexec /bin/true\n").chmod(0o755)
    touch = f"open({str(mark)!r}, 'w')\n"
    for name in ("sitecustomize", "usercustomize", "json", "click", "uvloop", "sandboxes/__init__"):
        write(folder / f"{name}.py", touch)
    write(folder / "evil.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    write(
        folder / "evil.dist-info" / "entry_points.txt", "[aiohttp_streamer.plugins]\nevil = click\n"
    )
    write(folder / "main.py", f"import os\nprint('ran')\n{touch}")
    write(folder / "config.toml", config.format(evil=folder / "evil", folder=folder))
    done = streamer(folder, *arguments)
    assert not mark.exists()
    assert UNREAD in done.stderr
    if arguments[0] == "run":
        assert done.stdout == "ran\n", done.stderr  # in a sandbox, where the mark's folder is not


def test_the_mark_of_the_attack_is_left_where_the_file_is_named(folder: Path) -> None:
    mark = folder.parent / "mark"
    write(folder / "evil", f"#!/bin/sh\ntouch {mark}\n").chmod(0o755)
    folder.parent.chmod(0o777)
    for place in (folder, *folder.parents):
        if place != Path("/tmp") and place.owner() == folder.owner():
            place.chmod(place.stat().st_mode | 0o055)
    write(folder / "main.py", "")
    write(
        folder / "config.toml",
        f'[sandbox]\nbackend = "plain"\n[runtimes.python]\nrun = ["{folder}/evil"]\n',
    )
    done = streamer(folder, "run", "--config", "config.toml", "main.py")
    assert (done.returncode, mark.exists()) == (0, True), done.stderr
    assert UNREAD not in done.stderr


def test_the_users_own_file_is_read(folder: Path) -> None:
    home = folder.parent / "home"
    own = write(home / ".config" / "streamer" / "config.toml", '[runtimes.tcl]\nrun = ["tclsh"]\n')
    done = streamer(folder, "runtimes")
    assert ("tcl" in done.stdout, done.stderr) == (True, "")
    # An absolute $XDG_CONFIG_HOME is used; a relative one would be the folder again.
    elsewhere = write(folder.parent / "xdg" / "streamer" / "config.toml", "[queue]\nx = 1\n")
    done = streamer(folder, "runtimes", environ={"XDG_CONFIG_HOME": str(elsewhere.parents[1])})
    assert (done.returncode, str(elsewhere) in done.stderr) == (2, True)
    write(folder / "streamer" / "config.toml", "[queue]\nx = 1\n")
    write(folder / ".config" / "streamer" / "config.toml", "[queue]\nx = 1\n")
    for environ in ({"XDG_CONFIG_HOME": "."}, {"HOME": "."}, {"HOME": ""}, {"HOME": "/root/x"}):
        assert streamer(folder, "runtimes", environ=environ).returncode == 0
    # In the user's own configuration folder the file is the user's.
    assert streamer(own.parent, "runtimes", environ={"HOME": str(home)}).stderr == ""


def test_a_file_is_named_by_option_or_variable(folder: Path) -> None:
    write(folder / "config.toml", "[queue]\nx = 1\n")
    write(folder / "other.toml", '[runtimes.tcl]\nrun = ["tclsh"]\n')
    for arguments, environ in (
        (("--config", "other.toml"), {}),
        ((), {"STREAMER_CONFIG": "other.toml"}),
        (("--config", "other.toml"), {"STREAMER_CONFIG": "config.toml"}),
    ):
        done = streamer(folder, "runtimes", *arguments, environ=environ)
        assert ("tcl" in done.stdout, done.stderr) == (True, "")


def test_config_reads_the_folder_as_serve_does(folder: Path) -> None:
    write(folder / "config.toml", OURS)
    write(folder.parent / "home/.config/streamer/config.toml", "[queue]\nconcurrency = 9\n")
    done = streamer(folder, "config")
    assert ("queue.concurrency = 3" in done.stdout, done.stderr) == (True, "")


@pytest.mark.parametrize("text", [FOREIGN, "# nothing\n[params]\na = 1\n"])
def test_another_programs_file_is_not_ours(folder: Path, text: str) -> None:
    write(folder / "config.toml", text)
    write(folder / "main.py", "print('ran')")
    done = streamer(folder, "run", "main.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")
    done = streamer(folder, "config")
    assert done.returncode == 0
    assert "none of our sections" in done.stderr
    # A file that is named is always read.
    assert streamer(folder, "config", "--config", "config.toml").returncode == 2


@pytest.mark.parametrize("text", ["[sandbx]\nx = 1\n", "[[profile]]\n", OURS + FOREIGN, "[serve"])
def test_what_was_meant_for_us_is_not_passed_over(folder: Path, text: str) -> None:
    write(folder / "config.toml", text)
    done = streamer(folder, "config")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("streamer: config.toml: ")


@pytest.mark.parametrize("section", Config.__struct_fields__)
def test_every_way_to_write_a_section_is_seen(folder: Path, section: str) -> None:
    from streamer.config.file import seems_ours

    for text in (
        f"[{section}]",
        f"[[{section}]]",
        f"x = 1\n  [ {section}.a ]",
        f"{section}.a = 1",
        f'"{section}" = {{}}',
        f"['{section}']",
    ):
        assert seems_ours(write(folder / "config.toml", text)), text
    for text in (
        "",
        f"# [{section}]",
        f"x = '[{section}]'",
        f"[my{section}]",
        f"[a.{section}]",
        f"{section} = 1",
    ):
        assert not seems_ours(write(folder / "config.toml", text)), text


def test_what_is_no_file_keeps_nobody_waiting(folder: Path) -> None:
    os.mkfifo(folder / "config.toml")
    assert streamer(folder, "runtimes").returncode == 0
    assert streamer(folder, "config").returncode == 0
    (folder / "config.toml").unlink()
    (folder / "config.toml").mkdir()
    assert streamer(folder, "runtimes").returncode == 0


def test_a_byte_order_mark_is_read_over(folder: Path) -> None:
    (folder / "config.toml").write_bytes(b"\xef\xbb\xbf" + OURS.encode())
    assert "queue.concurrency = 3" in streamer(folder, "config").stdout


def test_a_variable_that_is_not_read_is_told_of(folder: Path) -> None:
    done = streamer(folder, "config", environ={"STREAMER_SERVER_PORT": "9000"})
    assert (done.returncode, "server.port = 8080\n" in done.stdout) == (0, True)
    assert done.stderr == (
        "streamer: warning: the variable STREAMER_SERVER_PORT is not read; "
        "did you mean STREAMER_SERVER__PORT?\n"
    )


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("sandbox.bwrap.pth=x", "sandbox.bwrap.pth: unknown option (did you mean path?)"),
        ("sandbox.backend=docker", "sandbox.backend = 'docker'"),
        ("engine.url=other://x", "engine.url: no plugin serves other://"),
        ("engine.url=redis://", "engine.url: no host"),
    ],
)
def test_config_refuses_what_serve_would(folder: Path, option: str, said: str) -> None:
    """An operator runs it before a restart, and prints what is in force all the same."""
    done = streamer(folder, "config", "--set", option)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"streamer: command line: {said}")
    assert "server.port = " in done.stdout


def test_options_of_backends_are_shown_with_their_origin(folder: Path) -> None:
    write(folder / "config.toml", '[sandbox.bwrap]\ntmp_bytes = "1MiB"\n')
    shown = streamer(folder, "config", "--show-origin", "--set", "sandbox.firejail.user=x").stdout
    assert "sandbox.bwrap.tmp_bytes = 1048576  # config.toml\n" in shown
    assert "sandbox.bwrap.template = true  # default\n" in shown
    assert 'sandbox.firejail.user = "x"  # command line\n' in shown


@pytest.mark.parametrize("command", [("config",), ("runtimes",), ("run", "main.py")])
def test_an_error_that_only_a_backend_finds_names_its_origin_too(
    folder: Path, command: tuple[str, ...]
) -> None:
    write(folder / "main.py", "")
    file = write(folder / "own.toml", "[sandbox.bwrap]\ntmp_bytes = true\n")
    done = streamer(folder, *command, environ={"STREAMER_CONFIG": str(file)})
    said = f"streamer: {file}: sandbox.bwrap.tmp_bytes: expected a whole number, got true or false"
    assert (done.returncode, done.stderr.strip()) == (2, said)
    variable = {"STREAMER_SANDBOX__BWRAP__TMP_BYTES": "x"}
    done = streamer(folder, *command, environ=variable)
    assert done.stderr.startswith(
        "streamer: environment STREAMER_SANDBOX__BWRAP__TMP_BYTES: sandbox.bwrap.tmp_bytes: "
    )


def test_a_configuration_can_be_begun_and_printed_and_read_again(folder: Path) -> None:
    begin = streamer(folder, "config", "--template")
    assert (begin.returncode, begin.stderr) == (0, "")
    write(folder / "config.toml", begin.stdout.replace("#port = 8080", "port = 9"))
    first = streamer(folder, "config")
    assert "server.port = 9\n" in first.stdout
    write(folder / "config.toml", first.stdout)
    second = streamer(folder, "config")
    assert (second.stdout, second.stderr) == (first.stdout, "")


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_is_an_option_too(folder: Path, option: str) -> None:
    assert streamer(folder, option).stdout == streamer(folder, "version").stdout != ""


@pytest.mark.parametrize("place", ["/proc/x", "main.py", "main.py/below"])
def test_a_state_folder_that_cannot_be_is_one_line(folder: Path, place: str) -> None:
    write(folder / "main.py", "")
    done = streamer(folder, "run", "main.py", "--set", f"server.state_dir={place}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "server.state_dir: " in done.stderr
    assert "may write to" in done.stderr
