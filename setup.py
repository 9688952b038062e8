"""Build the init, the one C program of this package, its library, and the manual page.

Everything else about the distribution is said in pyproject.toml.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

from setuptools import Command, Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.errors import CompileError

FOLDER = Path("streamer/sandbox/init")
SOURCES = sorted(FOLDER.glob("*.c"))
FORKED = sorted((FOLDER / "forked").glob("*.c"))
HEADERS = [FOLDER / "init.h", FOLDER / "forked" / "forked.h"]
PROGRAM = FOLDER / "streamer-init"
LIBRARY = FOLDER / "streamer-fork.so"
TEMPLATE = "config.toml"
MANUAL = Path("build/man/streamer.1")


def compiler() -> list[str]:
    """Return the command of the C compiler: ``$CC``, else the first one on the path."""
    if chosen := shlex.split(os.environ.get("CC", "")):
        return chosen
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    raise CompileError(
        f"{FOLDER}: no C compiler found; install one (Debian, Ubuntu: "
        "sudo apt-get install -y gcc libc6-dev) or name it in the variable CC"
    )


def run(argv: list[str]) -> str | None:
    """Run a compiler command; return None, or what it said when it failed."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{argv[0]}: {error.strerror}"
    return None if done.returncode == 0 else f"{shlex.join(argv)}\n{done.stderr.strip()}"


def compile_init(target: Path) -> None:
    """Compile the init, static where the host's C library allows it.

    A static program starts faster and runs in a sandbox that shows no library. Warnings are errors
    only with ``CFLAGS=-Werror``: a later compiler may warn of more, and that must not stop an
    installation.
    """
    cc = compiler()
    with tempfile.TemporaryDirectory() as scratch:
        objects, linked = compiled(cc, SOURCES, scratch, []), f"{scratch}/init"
        if run([*cc, "-static", "-s", "-o", linked, *objects]) and (
            problem := run([*cc, "-s", "-o", linked, *objects])
        ):
            raise CompileError(f"{PROGRAM} does not link\n{problem}")
        install(linked, target)


def compile_library(target: Path) -> None:
    """Compile the same code, with some more, as a library for interpreters that fork."""
    cc = compiler()
    with tempfile.TemporaryDirectory() as scratch:
        flags = ["-fPIC", "-fvisibility=hidden"]
        objects, linked = compiled(cc, [*SOURCES, *FORKED], scratch, flags), f"{scratch}/library"
        # -ldl: a part of the C library since glibc 2.34.
        if problem := run([*cc, "-shared", "-s", "-o", linked, *objects, "-ldl"]):
            raise CompileError(f"{LIBRARY} does not link\n{problem}")
        install(linked, target)


def compiled(cc: list[str], sources: list[Path], folder: str, more: list[str]) -> list[str]:
    """Compile sources into a folder, and return the objects."""
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", *more]
    flags += shlex.split(os.environ.get("CFLAGS", ""))
    objects = []
    for source in sources:
        objects.append(f"{folder}/{source.stem}.o")
        if problem := run([*cc, *flags, "-c", "-o", objects[-1], str(source)]):
            raise CompileError(
                f"{source} does not compile; on Debian and Ubuntu the compiler's headers come "
                f"with: sudo apt-get install -y gcc libc6-dev\n{problem}"
            )
    return objects


def install(built: str, target: Path) -> None:
    """Move a file into place, so that a service that uses the old one is not disturbed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # A sandbox may run as another user than the one who installs.
    Path(built).chmod(0o755)
    staged = target.with_name(f".{target.name}.new")
    shutil.copy2(built, staged)
    staged.replace(target)


class BuildInit(Command):
    """Compile the init into the build folder, or in place for an editable installation."""

    description = "compile the init that runs inside every sandbox"
    user_options = [("build-lib=", "b", "the build folder")]

    def initialize_options(self) -> None:
        """Declare the options, as setuptools asks."""
        self.build_lib = ""
        self.editable_mode = False

    def finalize_options(self) -> None:
        """Take the build folder from the command that lays out the packages."""
        if not self.build_lib:
            self.build_lib = self.get_finalized_command("build_py").build_lib

    def run(self) -> None:
        """Compile the init, and copy config.toml, which `streamer config --template` prints."""
        folder = Path() if self.editable_mode else Path(self.build_lib)
        compile_init(folder / PROGRAM)
        try:
            compile_library(folder / LIBRARY)
        except CompileError as problem:
            if "-Werror" in shlex.split(os.environ.get("CFLAGS", "")):
                raise
            # Without it all works but runtimes.NAME.fork, which then says what is missing.
            self.warn(f"programs cannot be forked here: {problem}")
            (folder / LIBRARY).unlink(missing_ok=True)
        if not self.editable_mode:
            shutil.copyfile(TEMPLATE, os.path.join(self.build_lib, "streamer", TEMPLATE))

    def get_source_files(self) -> list[str]:
        """Return the files that the source distribution must contain."""
        return [TEMPLATE, *(str(source) for source in (*SOURCES, *FORKED, *HEADERS))]

    def get_outputs(self) -> list[str]:
        """Return the files that are built."""
        names = (PROGRAM, LIBRARY, f"streamer/{TEMPLATE}")
        paths = [Path(self.build_lib, name) for name in names]
        return [str(path) for path in paths if path.exists()]

    def get_output_mapping(self) -> dict[str, str]:
        """Return the outputs that are copies of sources: none."""
        return {}


class BuildManual(Command):
    """Write the manual page from the commands, which are packages that are built by now."""

    description = "write the manual page from the commands"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []

    def initialize_options(self) -> None:
        """Declare the options, as setuptools asks."""
        self.editable_mode = False

    def finalize_options(self) -> None:
        """Complete the options: none."""

    def run(self) -> None:
        """Write the page, or install none where click is missing."""
        MANUAL.parent.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "streamer.cli.manpage", str(MANUAL)]
        if (problem := run(argv)) is None:
            return
        if "-Werror" in shlex.split(os.environ.get("CFLAGS", "")):
            raise CompileError(f"the manual page cannot be written: {problem}")
        self.warn(f"no manual page is installed: {problem}")
        self.distribution.data_files = []

    def get_source_files(self) -> list[str]:
        """Return the files that the source distribution must contain: the packages have them."""
        return []

    def get_outputs(self) -> list[str]:
        """Return the files that are built in the folder of the packages: none."""
        return []

    def get_output_mapping(self) -> dict[str, str]:
        """Return the outputs that are copies of sources: none."""
        return {}


class Build(build):
    """Build the packages, then the init and the manual page."""

    sub_commands = [*build.sub_commands, ("build_init", None), ("build_manual", None)]


class PlatformWheel(bdist_wheel):
    """Tag the wheel for the platform and any Python: the init does not touch Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the three parts of the tag."""
        return "py3", "none", super().get_tag()[2]


class PlatformDistribution(Distribution):
    """A distribution whose files depend on the platform."""

    def has_ext_modules(self) -> bool:
        """Say yes, for the init; setuptools itself only knows Python extensions."""
        return True


setup(
    distclass=PlatformDistribution,
    cmdclass={
        "build": Build,
        "build_init": BuildInit,
        "build_manual": BuildManual,
        "bdist_wheel": PlatformWheel,
    },
    data_files=[("share/man/man1", [str(MANUAL)])],
)
