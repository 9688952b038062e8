"""More programs: what textbooks, judges and notebooks do with processes, streams and ends.

What is expected is what a run outside of any sandbox gives, with output to a pipe; where lines go
out at once, as C programs have it here, what a terminal gives.
"""

from __future__ import annotations

from typing import Final

from streamer.model.job import SourceFile

from .programs import Case

__all__ = ["HABITS"]

IN_C: Final = (
    Case(
        "half a line is written twice after fork, as anywhere",
        "c",
        """
        #include <stdio.h>
        #include <sys/wait.h>
        #include <unistd.h>
        int main(void) { printf("half "); if (!fork()) return 0; wait(0); puts("end"); }
        """,
        "half half end\n",
    ),
    Case(
        "a whole line is written once after fork and before exec, as on a terminal",
        "c",
        """
        #include <stdio.h>
        #include <sys/wait.h>
        #include <unistd.h>
        int main(void) {
            puts("once");
            if (!fork()) return 0;
            wait(0);
            execlp("sh", "sh", "-c", "echo shell; exit 7", (char *)0);
        }
        """,
        "once\nshell\n",
        verdict="exited 7",
    ),
    Case(
        "a program that buffers by itself loses what it does not flush",
        "c",
        """
        #include <stdio.h>
        #include <unistd.h>
        int main(void) { setvbuf(stdout, NULL, _IOFBF, 1 << 16); puts("lost"); _exit(0); }
        """,
        "",
    ),
    Case(
        "a program reads without a buffer and leaves the rest",
        "c",
        """
        #include <stdio.h>
        #include <unistd.h>
        int main(void) {
            char rest[2] = {0};
            setbuf(stdin, NULL);
            int first = getchar();
            return read(0, rest, 1) == 1 && printf("%c %s\\n", first, rest) < 0;
        }
        """,
        "x y\n",
        {"stdin": b"xyz"},
    ),
    Case(
        "constructors and destructors of its own, by the same name as ours",
        "c",
        """
        #include <stdio.h>
        __attribute__((constructor)) static void streamer_line_buffered(void) { puts("first"); }
        __attribute__((destructor)) static void late(void) { puts("late"); }
        int main(void) { puts("main"); }
        """,
        "first\nmain\nlate\n",
    ),
    Case(
        "a question in wide characters",
        "c",
        """
        #include <locale.h>
        #include <stdio.h>
        #include <wchar.h>
        int main(void) {
            wchar_t name[50];
            setlocale(LC_ALL, "");
            wprintf(L"name? ");
            wscanf(L"%49ls", name);
            wprintf(L"<%ls> %d\\n", name, (int)wcslen(name));
        }
        """,
        "name? <\u00e4\u4e2d> 2\n",
        {"stdin": "\u00e4\u4e2d\n".encode()},
    ),
    Case(
        "exit in a thread",
        "c",
        """
        #include <pthread.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <unistd.h>
        static void *end(void *of) { puts("thread"); exit(5); }
        int main(void) { pthread_t t; pthread_create(&t, 0, end, 0); for (;;) pause(); }
        """,
        "thread\n",
        verdict="exited 5",
    ),
    Case(
        "the first thread ends before another",
        "c",
        """
        #include <pthread.h>
        #include <stdio.h>
        #include <unistd.h>
        static void *on(void *of) { usleep(400000); puts("goes on"); return 0; }
        int main(void) { pthread_t t; pthread_create(&t, 0, on, 0); pthread_exit(0); }
        """,
        "goes on\n",
    ),
    Case(
        "fifty threads of a language whose stacks are large",
        "c",
        """
        #include <pthread.h>
        #include <stdio.h>
        static void *same(void *of) { return of; }
        int main(void) {
            pthread_t t[50];
            int made = 0;
            for (int i = 0; i < 50; i++) made += !pthread_create(t + i, 0, same, 0);
            for (int i = 0; i < 50; i++) pthread_join(t[i], 0);
            printf("%d\\n", made);
        }
        """,
        "50\n",
    ),
    Case(
        "100 MiB on the stack",
        "c",
        """
        #include <alloca.h>
        #include <stdio.h>
        #include <string.h>
        int main(void) { char *p = alloca(100 << 20); memset(p, 1, 100 << 20); printf("%d\\n", p[9]); }
        """,
        "1\n",
    ),
    Case(
        "a daemon by two forks, while its output is held",
        "c",
        """
        #include <stdio.h>
        #include <unistd.h>
        int main(void) {
            puts("start");
            if (fork()) return 3;
            setsid();
            if (fork()) _exit(0);
            puts("daemon");
        }
        """,
        "start\ndaemon\n",
        verdict="exited 3",
    ),
    Case(
        "stopped, and continued by its child",
        "c",
        """
        #include <signal.h>
        #include <stdio.h>
        #include <sys/wait.h>
        #include <unistd.h>
        int main(void) {
            pid_t me = getpid();
            if (!fork()) { usleep(300000); kill(me, SIGCONT); _exit(0); }
            raise(SIGSTOP);
            puts("continued");
            return wait(0) < 0;
        }
        """,
        "continued\n",
    ),
    Case(
        "a pipe that nobody reads",
        "c",
        """
        #include <unistd.h>
        int main(void) { int p[2]; return pipe(p) || close(p[0]) || write(p[1], "x", 1) < 0; }
        """,
        "",
        verdict="signaled SIGPIPE",
    ),
    Case(
        "part of a line and abort",
        "c",
        '#include <stdio.h>\n#include <stdlib.h>\nint main(void) { printf("part"); abort(); }',
        "",
        verdict="signaled SIGABRT",
    ),
    Case(
        "a source whose name looks like an option, and one in a folder",
        "c",
        '#include "lib/f.h"\nint main(void) { return f(); }',
        "",
        {
            "files": (
                SourceFile("-fast.c", b'#include "lib/f.h"\nint f(void) { return 4; }'),
                SourceFile("lib/f.h", b"int f(void);"),
            )
        },
        verdict="exited 4",
    ),
    Case(
        "streams that are made and ended around main, without stdio's",
        "cpp",
        """
        #include <iostream>
        #include <vector>
        struct S { S() { std::cout << "before\\n"; } ~S() { std::cout << "after\\n"; } } s;
        int main() {
            std::ios::sync_with_stdio(false);
            std::cin.tie(nullptr);
            long n, sum = 0;
            while (std::cin >> n) sum += n;
            std::cout << sum << "\\n";
        }
        """,
        "before\n6\nafter\n",
        {"stdin": b"1 2 3\n"},
    ),
)

IN_PYTHON: Final = (
    *(
        Case(
            f"a pool of processes by {method}",
            "python",
            f"""
            import multiprocessing
            def square(n): return n * n
            if __name__ == "__main__":
                with multiprocessing.get_context("{method}").Pool(2) as pool:
                    print(pool.map(square, range(4)))
            """,
            "[0, 1, 4, 9]\n",
        )
        for method in ("fork", "spawn", "forkserver")
    ),
    Case(
        "commands that asyncio runs and ends",
        "python",
        """
        import asyncio
        async def main():
            cat = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
            print((await cat.communicate(b"x" * 100000))[0] == b"x" * 100000)
            sleep = await asyncio.create_subprocess_exec("sleep", "60")
            sleep.terminate()
            print(await sleep.wait())
        asyncio.run(main())
        """,
        "True\n-15\n",
    ),
    Case(
        "input by select and epoll",
        "python",
        """
        import os, select, sys
        print(len(select.select([sys.stdin], [], [], 60)[0]), os.read(0, 9))
        poll = select.epoll()
        poll.register(0, select.EPOLLIN)
        print(len(poll.poll(60)), os.read(0, 9))
        """,
        "1 b'abc'\n1 b''\n",
        {"stdin": b"abc"},
    ),
    Case(
        "a child that stops itself",
        "python",
        """
        import os, signal
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
            os._exit(3)
        print(os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1]))
        os.kill(child, signal.SIGCONT)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """,
        "True\n3\n",
    ),
    Case(
        "a signal to its own process group",
        "python",
        "import os, signal; os.killpg(0, signal.SIGTERM)",
        "",
        verdict="signaled SIGTERM",
    ),
)

IN_JAVASCRIPT: Final = (
    Case(
        "a child with a channel to its parent",
        "javascript",
        """
        if (process.send) process.on("message", n => { process.send(n + 1); process.disconnect(); });
        else {
          const child = require("child_process").fork(__filename);
          child.send(1);
          child.on("message", n => console.log("got", n));
          child.on("exit", code => console.log("exit", code));
        }
        """,
        "got 2\nexit 0\n",
    ),
    Case(
        "a worker thread",
        "javascript",
        """
        const {Worker, isMainThread, parentPort} = require("worker_threads");
        if (isMainThread) new Worker(__filename).on("message", n => console.log(n));
        else parentPort.postMessage(42);
        """,
        "42\n",
    ),
    Case(
        "many lines and an exit code at once",
        "javascript",
        'for (let i = 0; i < 3; i++) console.log("line " + i); process.exit(3)',
        "line 0\nline 1\nline 2\n",
        verdict="exited 3",
    ),
)

IN_BASH: Final = (
    Case(
        "traps, and the exit code behind them",
        "bash",
        """
        trap 'echo exit $?' EXIT; trap 'echo term' TERM; trap 'echo int' INT
        kill -TERM $$; kill -INT $$; exit 3
        """,
        "term\nint\nexit 3\n",
        verdict="exited 3",
    ),
    Case(
        "jobs that are waited for one by one",
        "bash",
        "for i in 1 3 5; do (sleep 0.$i; exit $i) & done; for i in 1 2 3; do wait -n; echo $?; done",
        "1\n3\n5\n",
    ),
    Case(
        "job control without a terminal",
        "bash",
        "exec 2>/dev/null; set -m; sleep 60 & kill -STOP %1; kill -CONT %1; kill %1; wait %1; echo $?",
        "143\n",
    ),
    Case(
        "two-way pipes of all kinds",
        "bash",
        """
        coproc CAT { cat; }
        echo coproc >&${CAT[1]}; read -r x <&${CAT[0]}; echo $x; kill $CAT_PID
        mkfifo p; seq 3 >p & paste <(cat p) <(seq 3 | tac)
        yes | head -1; echo ${PIPESTATUS[*]}
        """,
        "coproc\n1\t3\n2\t2\n3\t1\ny\n141 0\n",
    ),
    Case(
        "a script with the line ends of Windows",
        "bash",
        "echo a\r\nexit 0\r\n",
        "a\r\n",
        err="main.sh: line 2: exit: 0\r: numeric argument required\n",
        verdict="exited 2",
    ),
    Case(
        "a real-time signal",
        "bash",
        "kill -s RTMIN+3 $$",
        "",
        verdict="signaled SIGRTMIN+3",
    ),
    Case(
        "another in its place",
        "bash",
        'exec sh -c "kill -9 \\$\\$"',
        "",
        verdict="signaled SIGKILL",
    ),
)

HABITS: Final = (*IN_C, *IN_PYTHON, *IN_JAVASCRIPT, *IN_BASH)
