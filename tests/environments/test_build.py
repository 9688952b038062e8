"""`streamer environment`: packages are installed, without running them, and take effect at once."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streamer.environments.fault import EnvironmentFault
from streamer.environments.manifest import MANIFEST, Manifest, find_interpreter, found
from streamer.environments.tree import fresh_folder, put_in_place, remove, settle
from streamer.model.environment import LOADER, Environment
from streamer.model.languages import DEFAULT_RUNTIMES
from streamer.model.runtime import by_name
from tests.environments.making import PATH, made_for_python, tarball, wheel
from tests.tools import tool

INTERPRETER = find_interpreter(DEFAULT_RUNTIMES["python"], PATH)

RAN = "import pathlib; pathlib.Path({path!r}).write_text('ran')\n"
"""Code of a package that must not run on the host."""

BACKEND = """
import zipfile
{ran}
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "evil-1.0-py3-none-any.whl"
    with zipfile.ZipFile(folder + "/" + name, "w") as archive:
        archive.writestr("evil.py", "")
        archive.writestr("evil-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: evil\\nVersion: 1.0\\n")
        archive.writestr("evil-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr("evil-1.0.dist-info/RECORD", "")
    return name
"""


def command(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `streamer environment` with its folder in `place`, without a registry."""
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(place),
        "LANG": "C.UTF-8",
        "PIP_NO_INDEX": "1",
        "npm_config_offline": "true",
        "STREAMER_SERVER__STATE_DIR": str(place),
    }
    return subprocess.run(
        (sys.executable, "-W", "error", "-m", "streamer", "environment", *words),
        cwd=place,
        env=environ,
        umask=0o077,  # the build's own modes count
        capture_output=True,
        text=True,
        check=False,
    )


def built(place: Path, *words: str) -> dict[str, Any]:
    done = command(place, "build", *words, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


def failure(place: Path, *words: str) -> str:
    done = command(place, "build", *words)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert sorted(path.name for path in (place / "environments").iterdir()) in (
        [],
        [".x.lock"],
    ), "what was begun is left"
    return done.stderr


def test_wheels_are_unpacked_and_nothing_of_them_runs(place: Path) -> None:
    ran = place / "ran"
    code = RAN.format(path=str(ran)) + "def main(): print('greetings')\n"
    path = wheel(place, "hello", code, scripts={"greet": "hello:main"})
    document = built(place, "x", "--language", "python", str(path))
    folder = place / "environments" / "x"
    assert document["path"] == str(folder)
    assert document["packages"] == {"hello": "1.0"}
    assert (document["kind"], document["interpreter"]) == ("python", INTERPRETER)
    assert document["version"].startswith("3.")
    assert not ran.exists()
    modes = {
        stat.S_IMODE(each.lstat().st_mode)
        for each in (folder, *folder.rglob("*"))
        if not each.is_symlink()
    }
    assert modes <= {0o755, 0o644}
    # Its commands know it by its final place.
    script = (folder / "bin" / "greet").read_text()
    assert script.startswith(f"#!{folder}/bin/python")
    assert ".x.new" not in (folder / "pyvenv.cfg").read_text()
    assert list(folder.rglob("__pycache__/hello.*.pyc")), "jobs cannot write it"


@pytest.mark.parametrize("way", ["name", "address", "folder", "in a file", "of a wheel"])
def test_source_is_refused_before_it_runs_whatever_names_it(way: str, place: Path) -> None:
    """`--only-binary` alone would let most of these pass."""
    ran = place / "ran"
    text = RAN.format(path=str(ran))
    project = (
        "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
        "[project]\nname = 'evil'\nversion = '1.0'\n"
    )
    files = {"pyproject.toml": project, "backend.py": BACKEND.format(ran=text)}
    info = "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n"
    packed = tarball(
        place,
        "evil-1.0.tar.gz",
        {f"evil-1.0/{name}": content for name, content in {**files, "PKG-INFO": info}.items()},
    )
    words = ["x", "--language", "python"]
    requirements = place / "requirements.txt"
    if way == "name":
        requirements.write_text(f"--find-links {place}\nevil\n")
        words += ["-r", str(requirements)]
    elif way == "address":
        words.append(f"evil @ {packed.as_uri()}")
    elif way == "folder":
        (place / "evil").mkdir()
        for name, content in files.items():
            (place / "evil" / name).write_text(content)
        words.append("./evil")
    elif way == "in a file":
        requirements.write_text(f"--no-binary evil\n--find-links {place}\nevil\n")
        words += ["-r", str(requirements)]
    else:
        needs = wheel(place, "fine", "", needs=f"evil @ {packed.as_uri()}")
        words.append(str(needs))
    told = failure(place, *words)
    assert not ran.exists()
    if way == "name":
        assert "pip failed:" in told
        assert "No matching distribution found for evil" in told  # as pip says it
        return
    assert "runs its own code on this host when it is built" in told
    assert "--allow-source" in told
    # The same with the permission, so that it is this that was missing.
    assert "evil" in built(place, *words, "--allow-source")["packages"]
    assert ran.read_text() == "ran"


def test_it_takes_the_place_of_the_former_one_in_one_step(place: Path) -> None:
    first = wheel(place, "first", "")
    second = wheel(place, "second", "")
    built(place, "x", "--language", "python", str(first))
    folder = place / "environments" / "x"
    held = os.open(folder, os.O_PATH)  # as a sandbox shows it
    assert built(place, "x", "--language", "python", str(second))["packages"] == {"second": "1.0"}
    (site,) = folder.glob("lib/python3*/site-packages")
    assert {path.name for path in site.glob("*.py")} == {"second.py"}
    # What a program that runs has is still whole.
    (site,) = Path(f"/proc/self/fd/{held}").glob("lib/python3*/site-packages")
    assert {path.name for path in site.glob("*.py")} == {"first.py"}
    os.close(held)
    before = (folder / MANIFEST).read_bytes()
    assert command(place, "build", "x", "--language", "python", "not-there").returncode == 1
    assert (folder / MANIFEST).read_bytes() == before
    assert command(place, "remove", "x").returncode == 0
    assert list((place / "environments").iterdir()) == []
    done = command(place, "remove", "x")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"nothing is built in {folder}" in done.stderr


def test_two_file_names_are_exchanged_or_where_that_cannot_be_renamed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("new", "b"), ("old", "a")):
        (place / name).mkdir()
        (place / name / "is").write_text(text)
    put_in_place(place / "new", place / "old")
    assert (place / "old" / "is").read_text() == "b"
    assert (place / ".old.previous" / "is").read_text() == "a"
    (place / "new").mkdir()
    (place / "new" / "is").write_text("c")
    monkeypatch.setattr("streamer.environments.tree.RENAME_EXCHANGE", 1 << 20)  # EINVAL
    put_in_place(place / "new", place / "old")
    assert (place / "old" / "is").read_text() == "c"
    assert (place / ".old.previous" / "is").read_text() == "b"


def test_packages_of_npm_are_unpacked_and_their_scripts_do_not_run(place: Path) -> None:
    tool("npm")
    ran = place / "ran"
    package = {"name": "hello", "version": "1.2.0", "scripts": {"install": f"touch {ran}"}}
    packed = tarball(
        place,
        "hello.tgz",
        {"package/package.json": json.dumps(package), "package/index.js": "exports.greet = 1"},
    )
    document = built(place, "x", "--language", "javascript", "./hello.tgz")
    assert (document["kind"], document["packages"]) == ("node", {"hello": "1.2.0"})
    assert not ran.exists()
    folder = place / "environments" / "x"
    assert {path.name for path in folder.iterdir()} == {"node_modules", LOADER, MANIFEST}
    assert not (folder / "node_modules" / ".package-lock.json").exists()
    asked = place / "package.json"
    asked.write_text(json.dumps({"dependencies": {"hello": f"file:{packed}"}}))
    words = ("x", "--language", "javascript", "-r", str(asked), "--allow-source")
    assert built(place, *words)["packages"] == {"hello": "1.2.0"}
    assert ran.exists()


def repository(place: Path, name: str, files: dict[str, str]) -> str:
    """Make a repository of git; return its address as a package of npm."""
    folder = place / name
    folder.mkdir()
    for each, text in files.items():
        (folder / each).write_text(text)
        (folder / each).chmod(0o755)
    git = ("git", "-c", "user.name=x", "-c", "user.email=x", "-C", str(folder))
    for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "x")):
        subprocess.run((*git, *words), check=True)
    return f"git+{folder.as_uri()}"


def test_packages_from_a_repository_run_nothing_here_whatever_their_settings_say(
    place: Path,
) -> None:
    """To make one ready npm starts another npm in its folder, which reads the settings there."""
    tool("npm")
    tool("git")
    ran = place / "ran"
    inner = repository(place, "inner", {"package.json": '{"name": "inner", "version": "1.0.0"}'})
    package = {
        "name": "evil",
        "version": "1.0.0",
        "scripts": {"prepare": f"touch {ran}"},
        "dependencies": {"inner": inner},
    }
    evil = repository(
        place,
        "evil",
        {
            "package.json": json.dumps(package),
            ".npmrc": "git=./evil.sh",
            "evil.sh": f'#!/bin/sh\ntouch {ran}\nexec git "$@"\n',
        },
    )
    needs = {"name": "fine", "version": "1.0.0", "dependencies": {"evil": evil}}
    tarball(place, "fine.tgz", {"package/package.json": json.dumps(needs)})
    told = failure(place, "x", "--language", "javascript", "./fine.tgz")
    assert not ran.exists()
    assert "runs its own code on this host when it is built" in told
    words = ("x", "--language", "javascript", "./fine.tgz", "--allow-source")
    assert built(place, *words)["packages"] == {"fine": "1.0.0"}
    assert ran.exists()


def test_what_leads_out_of_the_packages_is_refused(place: Path) -> None:
    assert INTERPRETER is not None
    folder = place / "x"
    folder.mkdir()
    (folder / "python").symlink_to(INTERPRETER)
    (folder / "inside").symlink_to("python")
    settle(folder, INTERPRETER)
    (folder / "out").symlink_to("/etc/passwd")
    with pytest.raises(EnvironmentFault, match="out leads out of the packages"):
        settle(folder, INTERPRETER)
    (folder / "out").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(EnvironmentFault, match="pipe is neither a file nor a folder"):
        settle(folder, INTERPRETER)


def test_modes_that_a_package_brings_have_no_effect(place: Path) -> None:
    folder = place / "x"
    (folder / "below").mkdir(parents=True)
    for name, mode in (("suid", 0o6755), ("open", 0o666), ("below/closed", 0o600)):
        (folder / name).touch()
        (folder / name).chmod(mode)
    (folder / "below").chmod(0o777)
    settle(folder, "")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    assert modes == {"suid": 0o755, "open": 0o644, "below": 0o755, "closed": 0o644}


def test_two_builds_of_the_same_do_not_meet(place: Path) -> None:
    target = place / "x"
    with fresh_folder(target) as folder:
        with pytest.raises(EnvironmentFault, match="another build"), fresh_folder(target):
            pass
        assert folder.is_dir()
    assert not folder.exists()
    folder.mkdir()  # as a killed build leaves it
    (folder / "rest").touch()
    with fresh_folder(target) as again:
        assert list(again.iterdir()) == []
    with (place / ".x.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_is_being_built_is_not_removed(place: Path) -> None:
    """Else two builds of the same could meet: the lock would go, and the next take a new one."""
    target = place / "x"
    made_for_python(target, {})
    with fresh_folder(target):
        with pytest.raises(EnvironmentFault, match="another build"):
            remove(target)
        assert target.is_dir()
    remove(target)
    assert list(place.iterdir()) == []


def test_a_lock_that_was_removed_meanwhile_is_none(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, path = fcntl.flock, place / ".x.lock"
    removed: list[int] = []

    def late(lock: int, how: int) -> None:
        if not removed:
            removed.append(lock)
            path.unlink()  # as the one does who had it
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with fresh_folder(place / "x"):
        assert removed
        with path.open() as other, pytest.raises(BlockingIOError):
            flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_that_is_a_link_is_not_followed(place: Path) -> None:
    precious = place / "precious"
    precious.write_text("here")
    (place / ".x.lock").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic link"), fresh_folder(place / "x"):
        pass
    assert precious.read_text() == "here"


def test_something_else_is_neither_replaced_nor_removed(place: Path) -> None:
    other = place / "environments" / "x"
    other.mkdir(parents=True)
    (other / "precious").touch()
    for words in (("build", "x", "--language", "python", "hello"), ("remove", "x")):
        done = command(place, *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"{other} was not built by this program" in done.stderr
    assert (other / "precious").exists()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("build", "x"), 2, "name packages, or a file of them with -r"),
        (("build", "x", "hello"), 2, "say with --language what x is for, such as python"),
        (("build", "x", "hello", "--language", "cobol"), 2, "unknown language; known: bash, "),
        (("build", "a b", "hello", "--language", "python"), 2, "environments.a b: use only"),
        (("build", "x", "hello", "--language", "c"), 1, "c can have no packages; only languages"),
        (("build", "x", "--language", "python", "-r", "no.txt"), 1, "no.txt: there is no such"),
        (("build", "x", "--language", "python", "hello"), 1, "No matching distribution found"),
        (("remove", "x"), 1, "nothing is built in"),
    ],
)
def test_what_is_wrong_is_told(words: tuple[str, ...], code: int, told: str, place: Path) -> None:
    done = command(place, *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr


def test_the_list_says_what_can_be_used(place: Path) -> None:
    made_for_python(place / "environments" / "stray", {"hello": ""})
    made_for_python(place / "elsewhere", {"one": "", "other": ""})
    config = place / "config.toml"
    config.write_text(
        '[environments.good]\nlanguages = ["python"]\npath = "elsewhere"\n'
        '[environments.absent]\nlanguages = ["python"]\n'
    )
    listed = command(place, "list", "--config", str(config), "--json")
    rows = {row["name"]: row for row in json.loads(listed.stdout)}
    assert list(rows) == ["good", "absent", "stray"]
    good = rows["good"]
    assert (good["available"], good["reason"], good["path"]) == (True, "", f"{place}/elsewhere")
    assert good["packages"] == {"one": "1.0", "other": "1.0"}
    assert rows["absent"]["reason"] == (
        f"nothing is built in {place}/environments/absent; build it: "
        "streamer environment build absent --language python"
    )
    assert rows["stray"]["reason"] == "it is not in the configuration"
    told = command(place, "list", "--config", str(config)).stdout.splitlines()
    assert told[0] == f"good: 2 packages for python, in {place}/elsewhere"
    assert told[1].startswith(f"absent: nothing is built in {place}")
    assert told[2] == (
        "stray: it is not in the configuration; 1 package for python, in "
        f"{place}/environments/stray"
    )
    assert command(place, "list", "--set", f"server.state_dir={place}/none").stdout == ""


def test_what_to_write_into_the_configuration_is_told(place: Path) -> None:
    path = wheel(place, "hello", "")
    done = command(place, "build", "x", "--language", "python", str(path))
    first, _, told = done.stdout.partition("\n")
    assert first.startswith("x: 1 package for Python 3.")
    (place / "config.toml").write_text(told.partition("\n\n")[2])
    config = ("--config", str(place / "config.toml"))
    rows = json.loads(command(place, "list", *config, "--json").stdout)
    assert [row["available"] for row in rows] == [True]
    again = command(place, "build", "x", str(path), *config).stdout
    assert len(again.splitlines()) == 1


# -- whether it can be used ------------------------------------------------------------------


def reason(folder: Path, *languages: str) -> str:
    environment = Environment("x", languages or ("python",), str(folder))
    try:
        found(environment, by_name(DEFAULT_RUNTIMES), PATH)
    except EnvironmentFault as fault:
        return str(fault)
    return ""


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_cannot_be_used_is_told_with_the_remedy(place: Path) -> None:
    folder = place / "x"
    made_for_python(folder, {"hello": ""})
    assert reason(folder) == ""
    remedy = "streamer environment build x --language python"
    assert "has packages for python, not for javascript" in reason(folder, "javascript")
    folder.chmod(0o775)
    assert reason(folder) == f"other users may write to {folder}; build it: {remedy}"
    folder.chmod(0o755)
    (folder / MANIFEST).chmod(0o666)
    assert "other users may write to" in reason(folder)
    (folder / MANIFEST).chmod(0o644)
    whole = (folder / MANIFEST).read_text()
    rewrite(folder, interpreter="/usr/bin/python3.1")
    assert reason(folder) == (
        f"it was built for /usr/bin/python3.1, and python is now {INTERPRETER}; "
        f"build it again: {remedy}"
    )
    rewrite(folder, format=99)
    assert "was built by another version of streamer" in reason(folder)
    (folder / MANIFEST).write_text("{")
    assert f"{folder}/{MANIFEST} cannot be read" in reason(folder)
    (folder / MANIFEST).write_text(whole)
    assert reason(folder) == ""
    shutil.rmtree(folder)
    assert reason(folder) == f"nothing is built in {folder}; build it: {remedy}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_belongs_to_others_is_not_used(place: Path) -> None:
    folder = place / "x"
    made_for_python(folder, {})
    os.chown(folder, 65534, 65534)
    assert f"{folder} belongs to another user" in reason(folder)
    os.chown(folder, 0, 0)
    place.chmod(0o700)
    assert f"{place} is closed to the users that jobs run as" in reason(folder)


def test_what_it_writes_down_is_small_and_plain(place: Path) -> None:
    made_for_python(place / "x", {"hello": ""})
    document = json.loads((place / "x" / MANIFEST).read_text())
    assert document.keys() == {
        *("kind", "language", "interpreter", "version", "packages", "builtAt", "format")
    }
    assert document.keys() == set(Manifest.__struct_encode_fields__)
