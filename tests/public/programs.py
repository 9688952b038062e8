"""The programs: how each is submitted, and its correct output.

They are written after public reports of people who run other people's code. Each says what
it is about; the number is only for finding it again.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from streamer.model.job import MIB, SourceFile
from streamer.model.languages import DEFAULT_RUNTIMES
from streamer.model.runtime import Runtime

__all__ = ["CASES", "Case"]


@dataclass(frozen=True)
class Case:
    """One program, the fields of its job, and its right output."""

    name: str
    language: str
    code: str
    out: str
    spec: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[str, ...] = ()
    """Commands that it needs besides its language's; without one of them it is not run."""
    runtime: Runtime | None = None
    """A language that is not built in."""
    backends: tuple[str, ...] = ("plain", "bwrap", "firejail")
    err: str = ""
    verdict: str = "exited 0"

    @property
    def source(self) -> str:
        return textwrap.dedent(self.code).lstrip("\n")


OWN_STREAMS: Final = (
    Case(
        "01 standard input by its name, in JavaScript",
        "javascript",
        'console.log(require("fs").readFileSync("/dev/stdin", "utf8").trim());',
        "hi\n",
        {"stdin": b"hi\n"},
    ),
    Case(
        "01 standard input by its name, in Python",
        "python",
        'print(open("/dev/stdin").read() + open("/proc/self/fd/0").read(), end="")',
        "hi\n",
        {"stdin": b"hi\n"},
    ),
    Case(
        "01 standard streams by their names, in a shell",
        "bash",
        """
        read -r first </dev/stdin
        echo "$first" >/dev/stdout
        sort /dev/fd/0 | tee /dev/stderr
        awk 'BEGIN { print "end" > "/dev/stdout" }'
        echo last >>/proc/self/fd/1
        """,
        "first\na\nb\nend\nlast\n",
        {"stdin": b"first\nb\na\n"},
        err="a\nb\n",
    ),
    Case(
        "01 no input by its name",
        "bash",
        "cat /dev/stdin; echo $?",
        "0\n",
    ),
    Case(
        "03 a filter that outlives the program",
        "bash",
        """
        exec > >(tee log.txt) 2>&1
        echo hello
        """,
        "hello\n",
    ),
    Case(
        "03 filters one behind the other",
        "bash",
        """
        exec > >(sort | tr a-z A-Z)
        echo b
        echo a
        """,
        "A\nB\n",
    ),
    Case(
        "16 standard input to asyncio, when there is none",
        "python",
        """
        import asyncio, sys
        async def main():
            reader = asyncio.StreamReader()
            protocol = lambda: asyncio.StreamReaderProtocol(reader)
            await asyncio.get_running_loop().connect_read_pipe(protocol, sys.stdin)
            print(await reader.readline())
        asyncio.run(main())
        """,
        "b''\n",
    ),
)

NETWORK: Final = (
    Case(
        "04 the names of interfaces, in Python",
        "python",
        'import socket; print("lo" in [name for _, name in socket.if_nameindex()])',
        "True\n",
    ),
    Case(
        "04 the interfaces, in JavaScript",
        "javascript",
        'console.log(typeof require("os").networkInterfaces());',
        "object\n",
    ),
    Case(
        "04 a socket of ZeroMQ, as each Jupyter kernel opens",
        "zmq",
        """
        import zmq
        zmq.Context().socket(zmq.REP).bind("tcp://127.0.0.1:*")
        print("bound")
        """,
        "bound\n",
        runtime=Runtime(name="zmq", entry="main.py", run=("/usr/bin/python3", "{entry}")),
        tools=("python3 -c 'import zmq'",),
    ),
)

MEMORY: Final = (
    Case(
        "a program in a package, with another file of it",
        "java",
        """
        // package of.no.one;
        package com.example;
        public class Main { public static void main(String[] words) { new Other().tell(words[0]); } }
        """,
        "com.example.Other: hi\n",
        {
            "args": ("hi",),
            "files": (
                SourceFile(
                    "Other.java",
                    b"package com.example;\nclass Other { void tell(String s) {"
                    b' System.out.println(getClass().getName() + ": " + s); } }',
                ),
                # macOS puts it into archives.
                SourceFile("__MACOSX/._Other.java", b"\0\5\x16\7\0\2\0\0Mac OS X"),
            ),
        },
    ),
    Case(
        "05 much garbage, in Java",
        "java",
        """
        public class Main { public static void main(String[] a) {
            long s = 0;
            for (int i = 0; i < 60000; i++) { int[] b = new int[25000]; b[0] = i; s += b[0]; }
            System.out.println(s);
        } }
        """,
        "1799970000\n",
        {"limits": {"memory_bytes": 256 * MIB}},
        tools=("javac -version", "java -version"),
    ),
    Case(
        "05 much garbage, in JavaScript",
        "javascript",
        """
        const kept = [];
        for (let round = 0; round < 40; round++) {
            const map = new Map();
            for (let i = 0; i < 60000; i++) map.set("k" + i, {i});
            kept[round % 3] = map;
        }
        console.log(kept.length);
        """,
        "3\n",
        {"limits": {"memory_bytes": 160 * MIB}},
    ),
    Case(
        "13 deep recursion, in C",
        "c",
        """
        int f(int n) { volatile int a[8]; a[0] = n; return n ? f(n - 1) + (a[0] > 0) : 0; }
        int main(void) { return f(1000000) != 1000000; }
        """,
        "",
    ),
    Case(
        "21 shared memory of 40 MiB",
        "python",
        """
        from multiprocessing import shared_memory
        s = shared_memory.SharedMemory(create=True, size=40 << 20)
        for i in range(0, 40 << 20, 4096): s.buf[i] = 1
        s.close()
        s.unlink()
        print("ok")
        """,
        "ok\n",
    ),
)

ETC: Final = (
    Case(
        "02 PHP, whose modules are listed in /etc",
        "php",
        '<?php var_dump(ctype_digit("1"));',
        "bool(true)\n",
        tools=("php -r 'ctype_digit(1);'",),
    ),
    Case(
        "02 R, whose folders are named in /etc",
        "r",
        "print(sd(c(1,2,3)))",
        "[1] 1\n",
        tools=("Rscript -e 1",),
    ),
    Case(
        "02 Pascal, whose settings are in /etc",
        "pascal",
        "begin writeln('hi'); end.",
        "hi\n",
        tools=("fpc -iV",),
    ),
    Case(
        "06 a port by its service's name",
        "python",
        'import socket; print({a[4][1] for a in socket.getaddrinfo("localhost", "http")})',
        "{80}\n",
    ),
    Case(
        "06 a protocol by its name",
        "python",
        'import socket; print(socket.getprotobyname("tcp"))',
        "6\n",
    ),
    Case(
        "06 a font by its family",
        "bash",
        "fc-match sans >/dev/null && echo found",
        "found\n",
        tools=("fc-match sans",),
    ),
    Case(
        "06 which system it is",
        "python",
        'import platform; print(len(platform.freedesktop_os_release()["NAME"]) > 0)',
        "True\n",
    ),
    Case(
        "06 the settings of OpenSSL",
        "bash",
        "openssl req -x509 -newkey rsa:1024 -nodes -subj /CN=x -keyout k -out c 2>/dev/null && echo made",
        "made\n",
        tools=("openssl version", "test -e /etc/ssl/openssl.cnf"),
    ),
    Case(
        "20 who it runs as",
        "bash",
        """
        set -u
        echo "$USER $LOGNAME $TERM $TMPDIR" && cd && pwd >/dev/null
        """,
        "nobody nobody dumb /tmp\n",
    ),
    Case(
        "20 who it runs as, in Python",
        "python",
        "import getpass; print(getpass.getuser()); import tempfile; print(tempfile.gettempdir())",
        "nobody\n/tmp\n",
    ),
    Case(
        "20 the screen cleared, or at least no complaint",
        "python",
        'import os, sys; os.system("clear >/dev/null"); print("on")',
        "on\n",
        tools=("command -v clear",),
    ),
    Case(
        "20 the processors",
        "bash",
        'test "$(nproc)" -ge 1 && test "$(getconf _NPROCESSORS_CONF)" -ge 1 && echo ok',
        "ok\n",
    ),
    Case(
        "20 the cores of the processors",
        "bash",
        "lscpu -p=core | grep -vc '^#' | grep -q '[1-9]' && echo ok",
        "ok\n",
        tools=("lscpu -p=core",),
        backends=("plain", "bwrap"),
    ),
    Case(
        "20 a temporary file that lasts",
        "bash",
        "f=$(mktemp -p /var/tmp) && echo x >$f && cat $f && rm $f",
        "x\n",
    ),
)

ASAN: Final = Runtime(
    name="asan",
    entry="main.c",
    sources=("*.c",),
    compile=("cc", "-g", "-fsanitize=address", "-o", "a.out", "{sources}", "-lm"),
    run=DEFAULT_RUNTIMES["c"].run,
    env=DEFAULT_RUNTIMES["c"].env,
    limits=DEFAULT_RUNTIMES["c"].limits,
)
HAS_ASAN: Final = "echo 'int main(void){}' | cc -x c -fsanitize=address -o /dev/null -"

COMPILED: Final = (
    Case(
        "11 a clean program under AddressSanitizer",
        "asan",
        """
        #include <stdio.h>
        int main(void) { puts("ok"); return 0; }
        """,
        "ok\n",
        runtime=ASAN,
        tools=(HAS_ASAN,),
    ),
    Case(
        "12 memory that is not given back, under AddressSanitizer",
        "asan",
        """
        #include <stdio.h>
        #include <stdlib.h>
        int main(void) { puts(malloc(10) ? "ok" : "no"); return 0; }
        """,
        "ok\n",
        runtime=ASAN,
        tools=(HAS_ASAN,),
    ),
    Case(
        "22 variables that nobody asked for",
        "c",
        """
        #include <stdio.h>
        #include <stdlib.h>
        int main(void) { puts(getenv("LD_PRELOAD") ? getenv("LD_PRELOAD") : "unset"); }
        """,
        "unset\n",
    ),
    Case(
        "23 a program under valgrind",
        "bash",
        "valgrind -q --error-exitcode=9 /bin/true && echo clean",
        "clean\n",
        tools=("valgrind -q /bin/true",),
    ),
)

PROCESSES: Final = (
    Case("14 a process group of its own", "python", "import os; os.setpgrp(); print(1)", "1\n"),
    Case(
        "15 limits of its own, read and set",
        "python",
        """
        import os, resource
        soft, hard = resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
        print(resource.prlimit(0, resource.RLIMIT_NOFILE) == (soft - 1, hard))
        """,
        "True\n",
    ),
)

CASES: Final = (*OWN_STREAMS, *NETWORK, *MEMORY, *ETC, *COMPILED, *PROCESSES)
