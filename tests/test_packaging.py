"""Check what is shipped, what is locked, and the messages of a set-up that fails."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CLIENT = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text())
INIT = "streamer/sandbox/init/streamer-init"
LIBRARY = "streamer/sandbox/init/streamer-fork.so"


def locked(name: str) -> dict[str, str]:
    """Return the versions in a lock file by the name of the package."""
    entries = (ROOT / "requirements" / name).read_text().replace("\\\n", " ").splitlines()
    pins: dict[str, str] = {}
    for entry in entries:
        pin, *hashes = entry.split(" --hash=")
        requirement = Requirement(pin)
        assert hashes, f"{name}: {pin} has no hash"
        assert str(requirement.specifier).startswith("=="), f"{name}: {pin} is not pinned"
        pins[canonicalize_name(requirement.name)] = str(requirement.specifier)[2:]
    return pins


def declared(group: str) -> list[Requirement]:
    """Return the requirements of a dependency group without those it includes."""
    return [Requirement(item) for item in PROJECT["dependency-groups"][group] if type(item) is str]


@pytest.mark.parametrize(
    "name",
    ["build.txt", "client.txt", "dev.txt", "docs.txt", "embedded.txt", "lock.txt", "runtime.txt"],
)
def test_lock_files_name_versions_and_hashes_but_no_address(name: str) -> None:
    assert locked(name)
    assert "://" not in (ROOT / "requirements" / name).read_text()


@pytest.mark.parametrize(
    "folder", ["tests/interop", "benchmarks/express", "clients/typescript", "frontend"]
)
def test_the_lock_files_of_node_name_hashes_but_no_address_of_a_package(folder: str) -> None:
    text = (ROOT / folder / "package-lock.json").read_text()
    packages = {name: lock for name, lock in json.loads(text)["packages"].items() if name}
    assert packages
    assert all(lock["integrity"].startswith("sha512-") for lock in packages.values())
    for lock in packages.values():
        lock.pop("funding", None)  # where to thank the authors
    assert "://" not in json.dumps(packages)
    assert "resolved" not in text


def test_lock_files_agree() -> None:
    everything = locked("dev.txt").items()
    assert locked("embedded.txt").items() <= locked("runtime.txt").items() <= everything
    assert locked("build.txt").items() <= everything
    assert locked("client.txt").items() <= locked("embedded.txt").items()


def test_what_is_declared_is_locked() -> None:
    project = PROJECT["project"]
    embedded = [Requirement(item) for item in project["dependencies"]]
    extras = {
        name: [Requirement(item) for item in items]
        for name, items in project["optional-dependencies"].items()
    }
    runtime = embedded + extras["cli"]
    groups = {
        "embedded.txt": embedded,
        "runtime.txt": runtime,
        "client.txt": [Requirement(item) for item in CLIENT["project"]["dependencies"]],
        "build.txt": declared("build"),
        "docs.txt": declared("docs"),
        "lock.txt": declared("lock"),
        "dev.txt": [
            *embedded,
            *(requirement for items in extras.values() for requirement in items),
            *(requirement for group in ("test", "lint", "dev") for requirement in declared(group)),
        ],
    }
    for name, requirements in groups.items():
        pins = locked(name)
        for requirement in requirements:
            version = pins.get(canonicalize_name(requirement.name))
            assert version is not None, f"{requirement} is not in {name}: make lock"
            assert requirement.specifier.contains(version), f"{requirement}: {name} has {version}"


def test_an_application_that_mounts_it_gets_no_package_of_the_command_line() -> None:
    command = {
        Requirement(item).name for item in PROJECT["project"]["optional-dependencies"]["cli"]
    }
    assert command == {"click", "rich"}
    assert not command & locked("embedded.txt").keys()


def test_every_folder_with_modules_is_a_package() -> None:
    for top in ("streamer", "sandboxes"):
        for module in (ROOT / top).rglob("*.py"):
            assert (module.parent / "__init__.py").exists(), f"{module.parent} is not shipped"


# --- the wheel ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads, so that nothing is written beside the sources."""
    copy = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "config.toml"):
        shutil.copy(ROOT / name, copy)
    for name in ("streamer", "sandboxes"):
        ignored = shutil.ignore_patterns("__pycache__", "streamer-init", "*.so")
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    return copy


def build_wheel(sources: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-c", "from setuptools import build_meta; build_meta.build_wheel('out')"),
        cwd=sources,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.slow
def test_wheel_carries_every_file_and_the_built_init(sources: Path) -> None:
    done = build_wheel(sources)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (sources / "out").iterdir()

    assert re.search(r"-py3-none-linux_\w+\.whl$", wheel.name)
    expected = {
        str(path.relative_to(sources))
        for top in ("streamer", "sandboxes")
        for path in (sources / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
        (manual,) = (name for name in shipped if ".data/" in name)
        page = archive.read(manual).decode()
        modes = {archive.getinfo(name).external_attr >> 16 & 0o777 for name in (INIT, LIBRARY)}
    assert shipped == expected | {INIT, LIBRARY, "streamer/config.toml", manual}
    assert manual.endswith(".data/data/share/man/man1/streamer.1")
    assert page.startswith(".TH STREAMER 1 ")
    assert modes == {0o755}


@pytest.mark.slow
def test_where_the_library_does_not_compile_all_else_is_installed(
    sources: Path, tmp_path: Path
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\ncase "$*" in *hooks.c*) exit 1;; esac\nexec cc "$@"\n')
    compiler.chmod(0o755)
    done = build_wheel(sources, CC=str(compiler), CFLAGS="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "programs cannot be forked here" in done.stdout + done.stderr
    (wheel,) = (sources / "out").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert INIT in names
    assert LIBRARY not in names
    # Whoever works on it must see that.
    assert build_wheel(sources, CC=str(compiler), CFLAGS="-Werror").returncode != 0


@pytest.mark.slow
def test_missing_compiler_is_named_with_its_package(sources: Path) -> None:
    done = build_wheel(sources, PATH="/nonexistent", CC="")

    assert done.returncode != 0
    assert f"{Path(INIT).parent}: no C compiler found" in done.stderr
    assert "apt-get install -y gcc libc6-dev" in done.stderr


MISSING = ("__x86_64__", "__aarch64__", "SYS_mmap", "SYS_fadvise64", "SYS_arch_prctl")
"""Not there on a machine that is neither of these (arm has none of the calls, ppc64le not the last)."""


def test_the_init_compiles_for_machines_whose_calls_it_does_not_know(tmp_path: Path) -> None:
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("there is no C compiler")
    source = ROOT / Path(INIT).parent / "calls.c"
    lines = [*source.read_text().splitlines(), *(source.parent / "init.h").read_text().splitlines()]
    other = tmp_path / "other.h"
    other.write_text(
        "#define _GNU_SOURCE\n"
        + "".join(f"{line}\n" for line in lines if line.startswith("#include <"))
        + "".join(f"#undef {name}\n" for name in MISSING)
    )
    flags = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-include", other)
    done = subprocess.run(
        [compiler, *flags, source], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_the_wheel_is_not_built_without_npm_and_says_what_to_install(tmp_path: Path) -> None:
    if (make := shutil.which("make")) is None:
        pytest.skip("there is no make")
    # Of the tools that the Makefile looks for there is only a shell.
    (tmp_path / "sh").symlink_to("/bin/sh")
    done = subprocess.run(
        (make, "npm"),
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "npm is missing" in done.stderr
    assert "apt-get install -y npm" in done.stderr
    rule = re.search(r"^wheel:(.*?)##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert rule is not None
    assert {"npm", "$(BUNDLE)"} <= set(rule[1].split())


# --- the set-up --------------------------------------------------------------------------


@pytest.fixture
def scripts() -> Iterator[Path]:
    """A copy of the set-up's scripts that any user can run, beside a PATH of our choice."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for script in ("find-python", "system-packages"):
            shutil.copy(ROOT / ".ci" / script, folder)
        path = folder / "path"
        path.mkdir()
        for tool in ("awk", "bash", "dirname", "env", "grep", "id", "paste", "tr", "true"):
            (path / tool).symlink_to(shutil.which(tool) or pytest.skip(f"no {tool} here"))
        yield folder


def as_ordinary_user(script: Path, *args: str, **environment: str) -> tuple[int, str, str]:
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    argv = [*(drop if os.getuid() == 0 else []), "env", "-i"]
    argv += [f"PATH={script.parent}/path", *(f"{k}={v}" for k, v in environment.items())]
    done = subprocess.run(
        (*argv, script, *args), capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )
    return done.returncode, done.stdout, done.stderr


def put(scripts: Path, **programs: str) -> None:
    """Lay programs on the PATH of the scripts, each of one line of shell."""
    for name, line in programs.items():
        program = scripts / "path" / name.replace("_", "-")
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)


COMPLETE: Mapping[str, str] = {"bwrap": "", "cc": "", "python3": "echo /bin/true"}


def test_system_packages_says_nothing_when_all_is_there(scripts: Path) -> None:
    put(scripts, **COMPLETE)

    assert as_ordinary_user(scripts / "system-packages", "run") == (0, "", "")


@pytest.mark.parametrize(
    ("manager", "line"),
    [
        ("apt_get", "sudo apt-get install -y bubblewrap gcc libc6-dev\n"),
        ("dnf", "sudo dnf install -y bubblewrap gcc glibc-devel\n"),
        ("apk", "doas apk add bubblewrap gcc musl-dev\n"),
    ],
)
def test_system_packages_prints_the_line_to_run_and_stops(
    scripts: Path, manager: str, line: str
) -> None:
    put(scripts, python3="echo /bin/true", **{manager: "echo never called >&2"})

    status, output, message = as_ordinary_user(scripts / "system-packages", "run")

    assert (status, output) == (1, "")
    assert line in message
    assert "never called" not in message


def test_system_packages_names_what_only_the_tests_need(scripts: Path) -> None:
    put(scripts, **COMPLETE, apt_get="echo never called >&2")

    status, output, message = as_ordinary_user(scripts / "system-packages", "test")

    assert (status, output) == (1, "")
    (line,) = [line for line in message.splitlines() if "sudo apt-get install" in line]
    assert {"firejail", "g++", "nodejs", "npm", "curl", "chromium"} <= set(line.split())
    assert "never called" not in message


def test_the_tests_bring_the_small_languages_only(scripts: Path) -> None:
    put(scripts, **COMPLETE, apt_get="echo never called >&2")
    script = scripts / "system-packages"
    of_jobs = "PATH=/usr/local/bin:/usr/bin:/bin"
    assert of_jobs in script.read_text()
    # Whatever languages this host has.
    script.write_text(script.read_text().replace(of_jobs, "PATH=/nowhere"))
    needed = []
    for purpose in ("test", "languages"):
        _, _, message = as_ordinary_user(script, purpose)
        (line,) = [line for line in message.splitlines() if "sudo apt-get install" in line]
        needed.append({*line.partition(" -y ")[2].split()})
    small, large = needed
    assert {"lua5.4", "perl", "php-cli", "ruby", "sqlite3"} <= small
    assert {"cargo", "default-jdk-headless", "golang-go", "rustc"} <= large
    assert not small & large


def test_system_packages_names_what_only_the_machine_needs(scripts: Path) -> None:
    put(scripts, apt_get="echo never called >&2")

    status, output, message = as_ordinary_user(scripts / "system-packages", "machine")

    assert (status, output) == (1, "")
    (line,) = [line for line in message.splitlines() if "sudo apt-get install" in line]
    assert "patchelf" in line.split()
    assert 'and then ".ci/cgroup-v2-vm" again' in message


def test_system_packages_uses_sudo_where_it_asks_for_nothing(scripts: Path) -> None:
    put(scripts, cc="", python3="echo /bin/true", apt_get="", sudo='shift; echo "$@"; exec "$@"')

    status, output, message = as_ordinary_user(scripts / "system-packages", "run")

    assert "apt-get update" in output
    assert "installing bubblewrap" in output
    # Nothing was installed by the stand-in, and that is noticed.
    assert status == 1
    assert "Still missing after the installation: bubblewrap" in message


def test_find_python_passes_over_what_is_too_old_or_broken(scripts: Path) -> None:
    (scripts / "path" / "python3.11").symlink_to(Path(sys.base_prefix, "bin", "python3").resolve())
    put(scripts, **{"python3.13": "echo no such version; exit 127", "python3.12": "exit 1"})

    found = subprocess.run(
        (scripts / "find-python",),
        env={"PATH": f"{scripts}/path"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert found.stdout == f"{scripts}/path/python3.11\n"


def test_find_python_refuses_a_chosen_one_that_is_none(scripts: Path) -> None:
    status, output, message = as_ordinary_user(scripts / "find-python", PYTHON="/bin/false")

    assert (status, output) == (1, "")
    assert (
        message == "PYTHON=/bin/false is not a Python 3.11 or newer; name another or leave it out\n"
    )
