"""The built-in languages, as data.

To add one, write ``[runtimes.NAME]`` in config.toml, or a row here. Each writes its lines at once:
by a setting of the language, or by what `streamer.model.livelines` has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamer.model.buildscripts import IN_FOLDER, OF_OCAML
from streamer.model.job import MIB
from streamer.model.livelines import IN_C, IN_HASKELL, IN_OCAML, IN_PASCAL, IN_RUBY
from streamer.model.runtime import Runtime

__all__ = ["DEFAULT_RUNTIMES"]

NO_LEAK_CHECK: Final = {"ASAN_OPTIONS": "detect_leaks=0"}
"""LeakSanitizer needs ptrace(2), which no sandbox allows; it would end programs without leaks."""

JVM: Final = (
    *("-XX:MaxRAM={memory_bytes}", "-XX:MaxRAMPercentage=50"),
    *("-XX:ActiveProcessorCount={processors}", "-XX:+UseSerialGC"),
)
"""By default it sizes its heap, its collectors and its compilers by the host."""

WITHOUT_TESTS: Final = tuple(
    f"!{above}src/test/{language}/*" for language in ("java", "kotlin") for above in ("", "*/")
)
"""Where Maven and Gradle expect tests, which need libraries that are not there."""

NODE_TYPES: Final = """\
declare var Buffer: any, __dirname: string, __filename: string, global: any;
declare var exports: any, module: any, process: any, require: any;
declare module "assert"; declare module "buffer"; declare module "child_process";
declare module "crypto"; declare module "events"; declare module "fs";
declare module "fs/promises"; declare module "http"; declare module "https";
declare module "net"; declare module "node:*"; declare module "os"; declare module "path";
declare module "perf_hooks"; declare module "readline"; declare module "stream";
declare module "string_decoder"; declare module "timers"; declare module "timers/promises";
declare module "url"; declare module "util"; declare module "worker_threads";
declare module "zlib";
"""
"""Distributions have no package of Node.js's types: what programs use of it is `any`."""

SCRIPTS: Final = (
    Runtime(
        name="python",
        title="Python",
        aliases=("py", "python3"),
        entry="main.py",
        run=("python3", "{entry}"),
        # Unbuffered: Python buffers 8 KiB before it writes to a pipe.
        env={"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        version=("python3", "--version"),
    ),
    Runtime(
        name="javascript",
        title="JavaScript (Node.js)",
        aliases=("js", "node"),
        entry="main.js",
        # By default it sizes its heap by the host's memory and collects garbage too late.
        run=("node", "--max-old-space-size={memory_mb}", "{entry}"),
        limits={"memory_bytes": 512 * MIB},
        version=("node", "--version"),
    ),
    Runtime(
        name="bash",
        title="Bash",
        aliases=("shell",),
        entry="main.sh",
        run=("bash", "{entry}"),
        version=("bash", "--version"),
        # It would count $SECONDS from its start, which takes only 2 ms.
        warm=False,
    ),
    Runtime(
        name="ruby",
        title="Ruby",
        aliases=("rb",),
        entry="main.rb",
        run=("ruby", "-r./.streamer/live.rb", "{entry}"),
        files={".streamer/live.rb": IN_RUBY},
        version=("ruby", "--version"),
    ),
    Runtime(
        name="php",
        title="PHP",
        entry="main.php",
        # The command line's PHP writes at once. Errors to standard error, and once.
        run=("php", "-d", "display_errors=stderr", "-d", "log_errors=0", "{entry}"),
        etc=("php", "php.d", "php.ini"),
        version=("php", "--version"),
    ),
    Runtime(
        name="perl",
        title="Perl",
        aliases=("pl",),
        entry="main.pl",
        # A line before the first: it writes at once.
        run=("perl", "-M5;$|=1", "{entry}"),
        version=("perl", "--version"),
        # It would count $^T and -M from its start.
        warm=False,
    ),
    Runtime(
        name="lua",
        title="Lua",
        entry="main.lua",
        # Input by lines too: the C library then writes a prompt before it reads the answer.
        run=("lua", "-e", "io.stdout:setvbuf('line') io.stdin:setvbuf('line')", "{entry}"),
        version=("lua", "-v"),
    ),
    Runtime(
        name="r",
        title="R",
        aliases=("rscript",),
        entry="main.R",
        run=("Rscript", "{entry}"),
        # Without it the linear algebra library starts a thread for each of the host's processors.
        env={"OMP_NUM_THREADS": "{processors}", "OPENBLAS_NUM_THREADS": "{processors}"},
        etc=("R",),
        limits={"memory_bytes": 512 * MIB},
        version=("Rscript", "--version"),
        # It runs a shell script before it runs R.
        warm=False,
    ),
    Runtime(
        name="sql",
        title="SQL (SQLite)",
        aliases=("sqlite",),
        entry="main.sql",
        # In a database in memory; standard input, or else the arguments, are more statements.
        run=("stdbuf", "-oL", "sqlite3", "-batch", "-bail", "-init", "{entry}", ":memory:"),
        version=("sqlite3", "--version"),
        warm=False,
    ),
)

COMPILED: Final = (
    Runtime(
        name="c",
        title="C",
        aliases=("cc", "gcc"),
        entry="main.c",
        sources=("*.c",),
        compile=("cc", "-O1", "-o", "a.out", "{sources}", "-x", "c", "-", "-lm"),
        compile_input=IN_C,
        run=("./a.out",),
        env=NO_LEAK_CHECK,
        version=("cc", "--version"),
    ),
    Runtime(
        name="cpp",
        title="C++",
        aliases=("c++", "cxx"),
        entry="main.cpp",
        sources=("*.cpp", "*.cc", "*.cxx"),
        compile=("c++", "-O1", "-std=gnu++20", "-o", "a.out", "{sources}", "-x", "c++", "-"),
        compile_input=IN_C,
        run=("./a.out",),
        env=NO_LEAK_CHECK,
        # g++ needs 310 MiB for a program that includes the whole standard library.
        limits={"memory_bytes": 768 * MIB},
        version=("c++", "--version"),
    ),
    Runtime(
        name="rust",
        title="Rust",
        aliases=("rs",),
        entry="main.rs",
        # A name of a file may have what that of a crate may not.
        compile=("rustc", "--edition=2021", "-O", "--crate-name=main", "-o", "a.out", "{entry}"),
        run=("./a.out",),
        limits={"memory_bytes": 768 * MIB},
        version=("rustc", "--version"),
    ),
    Runtime(
        name="go",
        title="Go",
        aliases=("golang",),
        entry="main.go",
        # There it finds the go.mod, in that folder or above.
        compile=(
            *("sh", "-c", IN_FOLDER, "go", "{folder}", "build", "-buildvcs=false"),
            *("-o", "a.out", "."),
        ),
        run=("{folder}/a.out",),
        env={
            # With go.mod, or without.
            "GO111MODULE": "auto",
            "GOTOOLCHAIN": "local",
            "GOMAXPROCS": "{processors}",
            "GOMEMLIMIT": "{memory_mb}MiB",
        },
        # From Go 1.20 on the standard library is compiled too, into the workspace.
        limits={
            "memory_bytes": 1024 * MIB,
            "disk_bytes": 512 * MIB,
            "processes": 256,
            "open_files": 1024,
        },
        # What it has made of each package stays there until the end: with net/http and
        # html/template more than 60 MiB.
        tmp_bytes=256 * MIB,
        version=("go", "version"),
    ),
    Runtime(
        name="java",
        title="Java",
        entry="Main.java",
        sources=("*.java", *WITHOUT_TESTS),
        compile=(
            *("javac", *(f"-J{option}" for option in JVM), "-J-XX:TieredStopAtLevel=1"),
            *("-encoding", "UTF-8", "-d", ".", "{sources}"),
        ),
        # With the resources where Maven and Gradle expect them, or beside the sources.
        run=("java", *JVM, "-cp", ".:{root}:{root}/../resources", "{class}"),
        limits={"memory_bytes": 512 * MIB, "processes": 256},
        version=("java", "--version"),
    ),
    Runtime(
        name="kotlin",
        title="Kotlin",
        aliases=("kt",),
        entry="main.kt",
        sources=("*.kt", *WITHOUT_TESTS),
        compile=("kotlinc", "{sources}", "-include-runtime", "-d", "a.jar"),
        run=("java", *JVM, "-jar", "a.jar"),
        env={"JAVA_OPTS": " ".join(JVM)},
        limits={"memory_bytes": 1024 * MIB, "processes": 256},
        version=("kotlinc", "-version"),
    ),
    Runtime(
        name="typescript",
        title="TypeScript (Node.js)",
        aliases=("ts",),
        entry="main.ts",
        compile=(
            *("tsc", "--noEmitOnError", "--target", "es2021", "--module", "commonjs"),
            *("--esModuleInterop", "--skipLibCheck", "--moduleDetection", "force"),
            *("{entry}", ".streamer/node.d.ts"),
        ),
        run=("node", "{folder}/{stem}.js"),
        files={".streamer/node.d.ts": NODE_TYPES},
        # For the compiler too, which runs in Node.js.
        env={"NODE_OPTIONS": "--max-old-space-size={memory_mb}"},
        limits={"memory_bytes": 512 * MIB},
        version=("tsc", "--version"),
    ),
    Runtime(
        name="csharp",
        title="C# (Mono)",
        aliases=("c#", "cs"),
        entry="main.cs",
        sources=("*.cs",),
        compile=("mcs", "-out:a.exe", "{sources}"),
        run=("mono", "a.exe"),
        etc=("mono",),
        limits={"memory_bytes": 512 * MIB},
        version=("mono", "--version"),
    ),
    Runtime(
        name="haskell",
        title="Haskell",
        aliases=("hs",),
        entry="main.hs",
        compile=(
            *("ghc", "-v0", "-O", "-threaded", "-i{folder}", "-o", "a.out"),
            *("{entry}", ".streamer/terminal.c"),
        ),
        run=("./a.out",),
        files={".streamer/terminal.c": IN_HASKELL},
        # Debian keeps the list of libraries there.
        read_only=("-/var/lib/ghc",),
        limits={"memory_bytes": 1024 * MIB},
        version=("ghc", "--version"),
    ),
    Runtime(
        name="pascal",
        title="Pascal (Free Pascal)",
        aliases=("pas",),
        entry="main.pas",
        # -Fa: a unit before those that the program uses. -FE: here, and not beside the entry.
        compile=(
            *("fpc", "-v0", "-l-", "-O2", "-Fu.streamer", "-Fastreamer_lines", "-FE.", "-oa.out"),
            "{entry}",
        ),
        run=("./a.out",),
        files={".streamer/streamer_lines.pas": IN_PASCAL},
        etc=("fpc*.cfg",),
        version=("fpc", "-iV"),
    ),
    Runtime(
        name="ocaml",
        title="OCaml",
        aliases=("ml",),
        entry="main.ml",
        compile=(
            *("sh", "-c", OF_OCAML, "ocamlopt", "{folder}", "{entry}"),
            *(
                "-I",
                "+unix",
                "-I",
                "+threads",
                "-o",
                "a.out",
                "unix.cmxa",
                "threads.cmxa",
                "-cclib",
            ),
            "-Wl,--wrap=caml_ml_output,--wrap=caml_ml_output_bytes,--wrap=caml_ml_output_char",
        ),
        run=("{folder}/a.out",),
        files={".streamer/live-lines.c": IN_OCAML},
        version=("ocamlopt", "-version"),
    ),
)

DEFAULT_RUNTIMES: Final[Mapping[str, Runtime]] = {
    runtime.name: runtime for runtime in (*SCRIPTS, *COMPILED)
}
