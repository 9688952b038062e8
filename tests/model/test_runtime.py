"""Languages are data: exactly that command runs, and only the jobs' PATH counts."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamer.config.load import load_config
from streamer.config.schema import Config
from streamer.errors import ConfigError, InvalidJob
from streamer.jobs.commands import build_steps
from streamer.jobs.resolve import Resolver
from streamer.model.capabilities import BackendFacts, Capabilities
from streamer.model.job import MIB, JobSpec, Limits, SourceFile
from streamer.model.languages import DEFAULT_RUNTIMES
from streamer.model.runtime import Runtime, by_name, sized
from streamer.worker.tools import find_tool, missing_tools
from tests.conftest import OpenService

PATH = Config().sandbox.path

BWRAP = {"bwrap": BackendFacts("namespaces")}


def tool(folder: Path, name: str, mode: int = 0o755) -> str:
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return str(path)


def test_python_leaves_no_cache_behind(tmp_path: Path) -> None:
    runtime = DEFAULT_RUNTIMES["python"]
    (tmp_path / "main.py").write_text("import other\n")
    (tmp_path / "other.py").touch()
    argv = build_steps(runtime, "main.py", [])[1]
    subprocess.run(argv, cwd=tmp_path, env={"PATH": PATH, **runtime.env}, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"main.py", "other.py"}


def test_a_program_of_several_files_is_compiled_whole(tmp_path: Path) -> None:
    runtime = DEFAULT_RUNTIMES["c"]
    reason = find_tool(runtime, PATH).reason
    if reason:
        pytest.skip(reason)
    files = {
        "main.c": "int twice(int); int main(void) { return twice(21); }\n",
        "lib/-twice.c": '#include "twice.h"\nint twice(int n) { return n * FACTOR; }\n',
        "lib/twice.h": "#define FACTOR 2\n",
        "README": "no source\n",
    }
    (tmp_path / "lib").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    compile_argv, run_argv = build_steps(runtime, "main.c", list(files))
    subprocess.run(compile_argv, cwd=tmp_path, env={"PATH": PATH}, check=True)
    assert subprocess.run(run_argv, cwd=tmp_path, env={"PATH": PATH}, check=False).returncode == 42


def test_sources_are_the_entry_and_then_the_others_in_order() -> None:
    runtime = Runtime(name="c", run=("./a.out",), compile=("cc", "{sources}"), sources=("*.c",))
    steps = build_steps(runtime, "z.c", ["b.c", "z.c", "note.txt", "a/b.c"])
    assert steps == (("cc", "z.c", "a/b.c", "b.c"), ("./a.out",))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (b"package com.example;\nclass Main {}", "com.example.Main"),
        (b"// package no;\r\n/* package no;\n*/ package\ta_1.b$ ; import x;", "a_1.b$.Main"),
        (b"/**/package a;", "a.Main"),
        ("package \u00e4.\u4e2d;".encode(), "\u00e4.\u4e2d.Main"),
        (b"", "Main"),
        (b"class Main {}\npackage a;", "Main"),
        (b"packages a;", "Main"),
        (b"package a", "Main"),
        (b"package -a;", "Main"),
        (b"/* package a;", "Main"),
        (b"\xff package a;", "Main"),
    ],
)
def test_a_class_is_named_with_the_package_that_its_file_declares(source: bytes, name: str) -> None:
    runtime = Runtime(name="j", run=("java", "{class}", "{stem}"), compile=("javac", "{class}"))
    assert build_steps(runtime, "src/Main.java", [], source) == (
        ("javac", name),
        ("java", name, "Main"),
    )


@pytest.mark.parametrize(
    ("entry", "source", "root"),
    [
        ("src/main/java/org/example/Main.java", b"package org.example;", "./src/main/java"),
        ("org/example/Main.java", b"package org.example;", "."),
        ("src/Main.java", b"", "./src"),
        ("Main.java", b"", "."),
        ("src/Main.java", b"package org.example;", "./src"),
        ("xorg/Main.java", b"package org;", "./xorg"),
    ],
)
def test_the_root_is_above_the_folders_of_the_package(entry: str, source: bytes, root: str) -> None:
    runtime = Runtime(name="j", run=("java", "-cp", ".:{root}"))
    assert build_steps(runtime, entry, [], source)[1][2] == f".:{root}"


def test_sources_without_some() -> None:
    runtime = Runtime(
        name="j", run=("j",), compile=("jc", "{sources}"), sources=("*.j", "!test/*", "!*/test/*")
    )
    names = ["a.j", "test/b.j", "x/test/y/c.j", "x/tests/d.j"]
    assert build_steps(runtime, "a.j", names)[0] == ("jc", "a.j", "x/tests/d.j")
    assert build_steps(runtime, "test/b.j", names)[0] == ("jc", "test/b.j", "a.j", "x/tests/d.j")


def test_a_script_that_executes_a_tool_is_none(tmp_path: Path) -> None:
    own = Runtime(name="own", run=("./a",), compile=("sh", "-c", 'exec "$0" "$@"', "tool", "x"))
    assert find_tool(own, str(tmp_path)).name == "tool"
    script = Runtime(name="own", run=("sh", "-c", "echo", "x"))
    assert find_tool(script, str(tmp_path)).name == "sh"


def test_hidden_files_are_no_sources() -> None:
    """macOS puts a ._main.c of its own beside each main.c of an archive, or below __MACOSX."""
    runtime = Runtime(name="c", run=("./a.out",), compile=("cc", "{sources}"), sources=("*.c",))
    hidden = ["._b.c", "__MACOSX/sub/._b.c", ".git/b.c", "sub/.#b.c"]
    assert build_steps(runtime, "a.c", ["a.c", "sub/b.c", *hidden])[0] == ("cc", "a.c", "sub/b.c")
    assert build_steps(runtime, ".a.c", [".a.c"])[0] == ("cc", ".a.c")


def test_the_entry_may_stand_within_a_word_and_other_braces_stay() -> None:
    runtime = Runtime(name="x", run=("x", "--file={entry}", "{entry}", "awk {print} {}", "{}"))
    assert build_steps(runtime, "a b", [])[1] == ("x", "--file=a b", "a b", "awk {print} {}", "{}")


@pytest.mark.parametrize(
    ("entry", "folder", "stem"),
    [
        ("Main.java", ".", "Main"),
        ("src/app/main.test.go", "./src/app", "main.test"),
        ("-x/{stem}", "./-x", "{stem}"),
    ],
)
def test_the_folder_and_the_stem_of_the_entry(entry: str, folder: str, stem: str) -> None:
    runtime = Runtime(name="x", run=("x", "{folder}", "{folder}/{stem}.o", "{entry}"))
    assert build_steps(runtime, entry, [])[1][1:3] == (folder, f"{folder}/{stem}.o")


def test_a_file_name_is_never_an_option() -> None:
    runtime = Runtime(name="x", run=("x", "{entry}"), compile=("x", "{sources}"), sources=("*.x",))
    assert build_steps(runtime, "-e.x", ["-e.x", "--o.x"]) == (
        ("x", "./-e.x", "./--o.x"),
        ("x", "./-e.x"),
    )
    # Compilers read options from a file that is named so.
    assert build_steps(runtime, "@e.x", ["@e.x", "@o.x"]) == (
        ("x", "./@e.x", "./@o.x"),
        ("x", "./@e.x"),
    )


def test_interpreted_languages_have_no_compile_step() -> None:
    assert build_steps(DEFAULT_RUNTIMES["bash"], "main.sh", ["main.sh"]) == (
        (),
        ("bash", "main.sh"),
    )


def test_only_the_path_of_the_jobs_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shims, system = tmp_path / "shims", tmp_path / "system"
    shims.mkdir()
    system.mkdir()
    tool(shims, "python3")
    monkeypatch.setenv("PATH", str(shims))
    python = DEFAULT_RUNTIMES["python"]

    missing = find_tool(python, str(system))
    assert missing.path is None
    assert missing.reason == f"python3 is not installed: looked for `python3` in {system}"

    real = tool(system, "python3")
    found = find_tool(python, f"{system}:{shims}")
    assert (found.name, found.path, found.reason) == ("python3", real, "")


def test_a_compiled_language_needs_the_compiler_and_what_runs_the_program(tmp_path: Path) -> None:
    c = replace(DEFAULT_RUNTIMES["c"], run=("emulator", "./a.out"))
    assert find_tool(c, str(tmp_path)).name == "emulator"
    tool(tmp_path, "emulator")
    assert find_tool(c, str(tmp_path)).name == "cc"
    compiler = tool(tmp_path, "cc")
    assert find_tool(c, str(tmp_path)).path == compiler


def test_what_cannot_be_executed_is_not_there(tmp_path: Path) -> None:
    tool(tmp_path, "node", mode=0o644)
    (tmp_path / "bash").mkdir()
    missing = missing_tools(DEFAULT_RUNTIMES, str(tmp_path))
    assert {"javascript", "bash"} <= missing.keys()


def test_a_compiled_program_is_not_looked_for(tmp_path: Path) -> None:
    path = tool(tmp_path, "cc")
    own = Runtime(name="own", compile=("cc", "{entry}"), run=("./a.out",))
    assert find_tool(own, str(tmp_path)).path == path
    assert find_tool(Runtime(name="script", run=("{entry}",)), str(tmp_path)).reason == ""


def test_a_tool_with_an_absolute_path_is_looked_for_there_only(tmp_path: Path) -> None:
    path = tool(tmp_path, "lua")
    assert find_tool(Runtime(name="lua", run=(path, "{entry}")), "/nowhere").path == path
    gone = Runtime(name="lua", run=(f"{path}5", "{entry}"))
    assert find_tool(gone, str(tmp_path)).reason == (
        f"{path}5 is not installed: looked for `{path}5`"
    )


def test_missing_tools_names_only_what_is_missing(tmp_path: Path) -> None:
    for name in ("bash", "node"):
        tool(tmp_path, name)
    missing = missing_tools(DEFAULT_RUNTIMES, str(tmp_path)).keys()
    assert missing == DEFAULT_RUNTIMES.keys() - {"bash", "javascript"}


def test_runtimes_are_found_by_name_and_alias() -> None:
    names = by_name(DEFAULT_RUNTIMES)
    assert names["c++"] is names["cxx"] is names["cpp"]
    assert names["node"].name == "javascript"
    assert {"py", "shell", "gcc"} <= names.keys()


def test_two_runtimes_with_one_name_are_refused() -> None:
    other = Runtime(name="micropython", aliases=("py",), run=("micropython", "{entry}"))
    with pytest.raises(ConfigError, match=r"^runtimes\.micropython\.aliases: 'py' .* 'python'"):
        by_name({**DEFAULT_RUNTIMES, "micropython": other})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "C++ "}, "runtimes.C++ : use only a-z"),
        ({"aliases": ("",)}, "runtimes.x.aliases: ''"),
        ({"run": ()}, "runtimes.x.run: empty"),
        ({"run": ("x", "{enrty}")}, "runtimes.x.run: unknown placeholder {enrty}"),
        ({"compile": ("x", "{sources}")}, "runtimes.x.sources: a command uses {sources}"),
        ({"entry": "../main"}, "runtimes.x.entry: '../main'"),
        ({"entry": "/main"}, "runtimes.x.entry: '/main'"),
        ({"name": "x@"}, "runtimes.x@: use only a-z"),
        ({"name": "x@1 2"}, "runtimes.x@1 2: use only a-z"),
        ({"name": "x.1@2"}, "runtimes.x.1@2: use only a-z"),
        ({"files": {"../x": ""}}, "runtimes.x.files: '../x'"),
        ({"files": {"/x": ""}}, "runtimes.x.files: '/x'"),
        ({"files": {"": ""}}, "runtimes.x.files: ''"),
        ({"read_only": ("-opt",)}, "runtimes.x.read_only: 'opt'"),
        ({"read_only": ("-/etc",)}, "runtimes.x.read_only: '/etc' would hide"),
        ({"env": {"A-B": ""}}, "runtimes.x.env.A-B: use only letters"),
        ({"env": {"A": "\0"}}, "runtimes.x.env.A: use only letters"),
        ({"read_only": ("opt",)}, "runtimes.x.read_only: 'opt'"),
        ({"tmp_bytes": -1}, "runtimes.x.tmp_bytes: -1 is not a size"),
        ({"tmp_bytes": 2**63}, "runtimes.x.tmp_bytes: 9223372036854775808 is not a size"),
        ({"limits": {"memory": 1}}, "runtimes.x.limits.memory: unknown limit"),
        ({"limits": {"processes": 1.5}}, "runtimes.x.limits.processes: expected a whole number"),
        ({"limits": {"wall_time_s": float("nan")}}, "runtimes.x.limits.wall_time_s: nan is not"),
        ({"limits": {"memory_bytes": 0}}, "runtimes.x.limits.memory_bytes: 0 is not"),
    ],
)
def test_a_wrong_runtime_is_refused_by_key(wrong: dict[str, object], message: str) -> None:
    values: dict[str, object] = {"name": "x", "run": ("x",), **wrong}
    with pytest.raises(ConfigError) as refused:
        Runtime(**values)  # type: ignore[arg-type]
    assert refused.value.message.startswith(message)


def test_the_environment_of_a_runtime_is_not_shown() -> None:
    assert "hunter2" not in repr(Runtime(name="x", run=("x",), env={"KEY": "hunter2"}))


def test_what_a_job_may_use_is_filled_in() -> None:
    runtime = Runtime(
        name="x",
        compile=("build", "-J-Xmx{memory_mb}m"),
        run=("run", "--memory={memory_bytes}", "{processors}", "{entry}", "{other}{memory_mb}"),
        env={"HEAP": "{memory_mb}MiB"},
    )
    filled = sized(runtime, Limits(memory_bytes=512 * MIB), Limits(memory_bytes=100_000_000), 7)
    assert filled.compile == ("build", "-J-Xmx512m")
    assert filled.run == ("run", "--memory=100000000", "7", "{entry}", "{other}95")
    assert filled.env == {"HEAP": "95MiB"}


@pytest.mark.parametrize(
    "python",
    [
        {"run": ("python3", "{entry}")},
        {"run": ("/opt/bin/python3.12", "{entry}")},
        {"run": ("python", "{entry}"), "env": {"PYTHONUTF8": "1"}},
    ],
    ids=str,
)
def test_programs_of_python_can_be_forked(python: Any) -> None:
    assert Runtime(name="x", fork=True, **python).fork


@pytest.mark.parametrize(
    "other",
    [
        {"run": ("node", "{entry}")},
        {"run": ("python3-config", "{entry}")},
        {"run": ("python3", "-I", "{entry}")},
        {"run": ("python3", "{entry}", "{entry}")},
        {"run": ("python3",)},
        {"run": ("python3", "{entry}"), "compile": ("true",)},
        {"run": ("python3", "{entry}"), "env": {"LD_PRELOAD": "/usr/lib/x.so"}},
    ],
    ids=str,
)
def test_no_others_can(other: Any) -> None:
    with pytest.raises(ConfigError, match=r"runtimes\.x\.fork: only programs of Python"):
        Runtime(name="x", fork=True, **other)
    assert not Runtime(name="x", **other).fork


@pytest.mark.parametrize("placeholder", ["{memory_bytes}", "{memory_mb}", "{processors}"])
@pytest.mark.parametrize("place", ["compile", "run", "env"])
def test_one_placeholder_anywhere_is_enough(place: str, placeholder: str) -> None:
    runtime = Runtime(name="x", run=("run",))
    given: Any = {"A": placeholder} if place == "env" else ("x", placeholder)
    filled = sized(replace(runtime, **{place: given}), Limits(), Limits(), 7)
    assert placeholder not in str(getattr(filled, place))


def test_the_limits_of_a_language_follow_the_configuration_and_the_language() -> None:
    def memory(config: Config, language: str) -> int:
        resolver = Resolver(config, by_name(config.runtimes))
        return resolver.resolve(JobSpec(language, code="x"), "job", workers).limits.memory_bytes

    raised = {"run": ["x"], "limits": {"memory_bytes": 700 * MIB}}
    runtimes: dict[str, Any] = {"raised": raised, "plain": {"run": ["x"]}}
    workers = Capabilities(BWRAP, "bwrap", frozenset(runtimes), {}, processors=1, places=1)
    for default, most in ((100, 2048), (200, 2048), (100, 600), (1000, 2048)):
        limits = {
            "default": {"memory_bytes": default * MIB},
            "max": {"memory_bytes": most * MIB},
        }
        config = Config.from_mapping({"limits": limits, "runtimes": runtimes})
        assert memory(config, "plain") == default * MIB
        assert memory(config, "raised") == min(max(default, 700), most) * MIB


@pytest.mark.parametrize(
    "launcher", [("stdbuf", "-oL"), ("stdbuf", "-o", "L", "-i", "0"), ("stdbuf", "--output=L")]
)
def test_behind_stdbuf_there_is_the_tool(launcher: tuple[str, ...], tmp_path: Path) -> None:
    own = Runtime(name="own", run=(*launcher, "mytool", "-batch", "{entry}"))
    assert find_tool(own, str(tmp_path)).name == "stdbuf"
    tool(tmp_path, "stdbuf")
    missing = find_tool(own, str(tmp_path))
    assert missing.reason == f"mytool is not installed: looked for `mytool` in {tmp_path}"
    tool(tmp_path, "mytool")
    assert find_tool(own, str(tmp_path)).reason == ""
    tool(tmp_path, "cc")
    compiled = replace(own, compile=("cc", "{entry}"), run=(*launcher, "./a.out"))
    assert find_tool(compiled, str(tmp_path)).reason == ""


def test_sql_needs_sqlite(tmp_path: Path) -> None:
    tool(tmp_path, "stdbuf")
    assert missing_tools(DEFAULT_RUNTIMES, str(tmp_path))["sql"].startswith("sqlite3 is not inst")


async def test_a_configured_language_without_its_tool_is_logged_at_the_start(
    open_service: OpenService, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    tool(tmp_path, "bash")
    own = Runtime(name="own", run=("no-such-tool", "{entry}"))
    await open_service("plain", sandbox={"path": str(tmp_path)}, runtimes=(own,))
    # Python is missing too, but nobody configured it.
    told = [record.message for record in caplog.records if record.name == "streamer.worker.host"]
    assert told == [f"the language own is not available: {find_tool(own, str(tmp_path)).reason}"]


def test_a_version_extends_its_language() -> None:
    tables: dict[str, Any] = {
        # In this order, as a file may have it.
        "python@3.12": {"run": ["python3.12", "{entry}"], "limits": {"processes": 99}},
        "python@2": {"title": "Old Python", "run": ["python2", "{entry}"], "aliases": ["py2"]},
        "python": {"env": {"A": "1"}, "aliases": ["py", "snake"]},
        "zig@0.11": {"run": ["zig", "run", "{entry}"]},
    }
    runtimes = Config.from_mapping({"runtimes": tables}).runtimes
    new, old = runtimes["python@3.12"], runtimes["python@2"]
    assert (new.base, new.entry, new.env["A"]) == ("python", "main.py", "1")
    assert (new.title, new.aliases) == ("Python 3.12", ("py@3.12", "snake@3.12"))
    assert (new.version, new.limits) == (("python3.12", "--version"), {"processes": 99})
    assert (old.title, old.aliases, old.version) == (
        "Old Python",
        ("py2",),
        ("python2", "--version"),
    )
    assert runtimes["python"].limits == {}
    assert runtimes["zig@0.11"].title == ""
    assert by_name(runtimes)["snake@3.12"] is new


@pytest.mark.parametrize(
    ("name", "meant"),
    [("node@20", "javascript@20"), ("snake@2", "python@2"), ("py@3.12", "python@3.12")],
)
def test_a_version_of_an_alias_is_refused_with_the_name_that_is_meant(
    name: str, meant: str
) -> None:
    """It would be a language of its own, with nothing of the one that is meant."""
    tables = {name: {"run": ["x", "{entry}"]}, "python": {"aliases": ["py", "snake"]}}
    with pytest.raises(ConfigError) as refused:
        Config.from_mapping({"runtimes": tables})
    base = meant.partition("@")[0]
    alias = name.partition("@")[0]
    assert refused.value.message == (
        f'runtimes.{name}: {alias} is another name of runtimes.{base}: write runtimes."{meant}"'
    )


def test_another_tool_is_asked_for_its_own_version() -> None:
    tables: dict[str, Any] = {
        "c": {"compile": ["clang", "{sources}"]},
        "cpp": {"compile": ["clang++", "{sources}"], "version": ["c++", "--version"]},
        "java": {"run": ["/opt/jdk/bin/java", "{stem}"]},
        "bash": {"env": {"A": "1"}},
    }
    runtimes = Config.from_mapping({"runtimes": tables}).runtimes
    assert runtimes["c"].version == ("clang", "--version")
    assert runtimes["java"].version == ("/opt/jdk/bin/java", "--version")
    assert runtimes["bash"].version == ("bash", "--version")


def test_a_version_by_option() -> None:
    overrides = ['runtimes."bash@5.2".run=["bash5", "{entry}"]', "runtimes.bash.title=Shell"]
    runtimes = load_config(environ={}, overrides=overrides).runtimes
    assert runtimes["bash@5.2"].run == ("bash5", "{entry}")
    assert runtimes["bash@5.2"].title == "Shell 5.2"


def test_files_of_the_runtime_are_put_beside_the_callers_and_yield_to_them() -> None:
    own = {"run": ["x", "{entry}"], "entry": "main.x", "files": {".x/live": "ours", "b": "too"}}
    config = Config.from_mapping({"runtimes": {"own": own}})
    workers = Capabilities(BWRAP, "bwrap", frozenset({"own"}), {}, processors=1, places=1)
    resolver = Resolver(config, by_name(config.runtimes))
    spec = JobSpec(language="own", code="c", files=(SourceFile("b", b"theirs"),))
    files = resolver.resolve(spec, "1", workers).files
    assert {file.name: file.content for file in files} == {
        "main.x": b"c",
        "b": b"theirs",
        ".x/live": b"ours",
    }
    spec = JobSpec(language="own", code="c", files=(SourceFile(".x", b"a file"),))
    with pytest.raises(InvalidJob, match="both a file and a folder"):
        resolver.resolve(spec, "1", workers)
