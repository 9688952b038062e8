"""The system call filter in a sandbox: what it refuses, and what still works."""

from __future__ import annotations

import errno
import json
import platform
from collections.abc import Iterator
from typing import Any

import pyseccomp
import pytest

from streamer.model.events import Error
from streamer.model.job import JobSpec, SourceFile
from streamer.model.runtime import Runtime
from streamer.sandbox.seccomp.generate import FILTERS
from streamer.sandbox.seccomp.rules import INIT_PID, KINDS
from tests.bpf import arguments_for, with_high_bits
from tests.conftest import ISOLATING, OpenService
from tests.running import Ran, ended, program, run_job, script

MACHINE = platform.machine()
AF_NETLINK, NETLINK_KOBJECT_UEVENT = 16, 15

here = pytest.mark.skipif(MACHINE not in FILTERS, reason=f"there is no filter for {MACHINE}")
x86 = pytest.mark.skipif(MACHINE != "x86_64", reason="a matter of x86")

CALLS = """
    import ctypes, json, os, sys
    libc = ctypes.CDLL(None, use_errno=True)
    for name, number, arguments in json.loads(sys.stdin.read()):
        ctypes.set_errno(0)
        # What stands for the init in the rules.
        arguments = [a - {INIT_PID} + os.getppid() if a % 2**32 == {INIT_PID} else a for a in arguments]
        result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_ulong, arguments))
        if name.startswith("clone") and result == 0:
            os._exit(0)
        print(json.dumps([name, ctypes.get_errno() if result == -1 else 0]), flush=True)
""".replace("{INIT_PID}", str(INIT_PID))


async def errors_of(
    open_service: OpenService, backend: str, calls: list[tuple[str, int, list[int]]]
) -> list[tuple[str, int]]:
    """Make system calls in a job and return the error of each."""
    service = await open_service(backend)
    ran = await run_job(service, **program(CALLS), stdin=json.dumps(calls).encode())
    return [(name, error) for name, error in map(json.loads, ran.out.splitlines())]


def every_call() -> Iterator[tuple[str, int, list[int], int]]:
    for rule in KINDS["whole"].rules:
        number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, rule.call)
        if number >= 0:
            arguments = arguments_for(rule)
            yield rule.call, number, arguments, rule.error
            yield rule.call, number, with_high_bits(rule, arguments), rule.error
    native = FILTERS[MACHINE][0]
    for numbered in KINDS["whole"].numbered:
        if numbered.architecture == native:
            yield "", numbered.number, arguments_for(numbered), numbered.error


@here
async def test_every_call_is_refused_in_a_job(
    open_service: OpenService, isolating_backend: str
) -> None:
    calls = [*every_call()]
    got = await errors_of(open_service, isolating_backend, [call[:3] for call in calls])
    wanted = [(name, error) for name, _, _, error in calls]
    if (await open_service(isolating_backend)).worker.cgroup_level is None:
        # Such files are refused altogether where nothing counts them.
        wanted = [
            (name, errno.ENOSYS if name == "memfd_create" else error) for name, error in wanted
        ]
    # firejail's own filter is there too; the kernel takes one refusal of two.
    if isolating_backend == "firejail":
        assert [name for name, error in got if not error] == []
        assert [name for name, _ in got] == [name for name, _ in wanted]
    else:
        assert got == wanted


@here
async def test_without_the_filter_calls_are_not_refused(
    open_service: OpenService, need: Any
) -> None:
    # Harmless calls that need no capability; otherwise the test above would prove nothing.
    harmless = {
        "unshare": [0],
        "personality": [0],
        "process_vm_readv": [0] * 6,
        "clone3": [0, 0],
        "socket": [AF_NETLINK, 3, NETLINK_KOBJECT_UEVENT],
    }
    calls = [
        (call, pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, call), arguments)
        for call, arguments in harmless.items()
    ]
    got = dict(await errors_of(open_service, need("plain"), calls))
    assert {got[call] for call in harmless} <= {0, errno.EINVAL, errno.ESRCH}
    held = dict(await errors_of(open_service, need("bwrap"), calls))
    assert not [call for call in harmless if held[call] == got[call]]


STATUS = """
    def fields(pid):
        lines = open(f"/proc/{pid}/status").read().splitlines()
        return {line.split(":")[0]: line.split(":")[1].strip() for line in lines}
    own = fields("self")
    print(own["Seccomp"], own["NoNewPrivs"], own["Seccomp_filters"])
"""


@here
async def test_the_filter_is_on_in_every_step(
    open_service: OpenService, isolating_backend: str
) -> None:
    python = ("python3", "-I", "main.py")
    twice = Runtime(name="twice", entry="main.py", compile=python, run=python)
    service = await open_service(isolating_backend, runtimes=(twice,))
    ran = await run_job(service, language="twice", files=(script("main.py", STATUS),))
    steps = [tuple(map(int, line.split())) for line in ran.out.splitlines()]
    assert len(steps) == 2
    assert steps[0] == steps[1]
    mode, no_new_privs, filters = steps[0]
    assert (mode, no_new_privs) == (2, 1)
    # firejail has some of its own.
    assert filters == 1 if isolating_backend == "bwrap" else filters >= 2


@here
async def test_the_init_itself_has_none(open_service: OpenService, need: Any) -> None:
    service = await open_service(need("bwrap"))
    ran = await run_job(service, **program(STATUS.replace('"self"', "1")))
    assert ran.out.split() == ["0", "1", "0"]


FOREIGN = """
    #include <stdio.h>
    #include <unistd.h>
    #include <errno.h>
    #include <sys/syscall.h>
    static long by_int_0x80(long number, long a, long b)
    {
        long result = number;
        __asm__ volatile("int $0x80" : "+a"(result) : "b"(a), "c"(b), "d"(0L), "S"(0L), "D"(0L)
                         : "r8", "r9", "r10", "r11", "memory");
        return (int)result;
    }
    static void tell(long result) { printf("%ld\\n", result); }
    int main(void)
    {
        printf("%d\\n", by_int_0x80(20, 0, 0) == getpid());
        tell(by_int_0x80(26, 0, 0));               /* ptrace(PTRACE_TRACEME) */
        tell(by_int_0x80(310, 0, 0));              /* unshare */
        tell(by_int_0x80(136, 0, 0));              /* personality */
        tell(by_int_0x80(425, 1, 0));              /* io_uring_setup */
        tell(by_int_0x80(54, 0, 0x5412));          /* ioctl(TIOCSTI) */
        tell(by_int_0x80(102, 1, 0));              /* socketcall(SYS_SOCKET) */
        tell(by_int_0x80(359, 38, 5));             /* socket(AF_ALG) */
        tell(by_int_0x80(359, 1, 1) > 2);          /* socket(AF_UNIX): works */
        tell(by_int_0x80(435, 0, 0));              /* clone3 */
        long child = by_int_0x80(120, 0x10000011, 0); /* clone(CLONE_NEWUSER | SIGCHLD) */
        if (child == 0)
            _exit(0);
        tell(child);
        tell(syscall(0x40000000 | 39) == -1 ? -errno : 0);      /* x32 getpid */
        tell(syscall(0x40000000 | 521, 0) == -1 ? -errno : 0);  /* x32 ptrace */
        tell(syscall(0x40000000 | 101, 0) == -1 ? -errno : 0);  /* 64-bit ptrace, marked x32 */
        return 0;
    }
"""


@here
@x86
async def test_other_entrances_lead_to_the_same_refusals(
    open_service: OpenService, isolating_backend: str
) -> None:
    service = await open_service(isolating_backend)
    ran = await run_job(service, language="c", code=script("main.c", FOREIGN).content.decode())
    if ran.complete.signal == "SIGSEGV":
        pytest.skip("this kernel has no 32-bit x86 calls")
    eperm, enosys = -errno.EPERM, -errno.ENOSYS
    expected = [1, *[eperm] * 6, -errno.EAFNOSUPPORT, 1, enosys, eperm, *[enosys] * 3]
    got = [int(line) for line in ran.out.splitlines()]
    if isolating_backend == "firejail":  # firejail's own filter may use another error
        assert [value < 0 for value in got] == [value < 0 for value in expected]
    else:
        assert got == expected


# --- what programs need works -------------------------------------------------------------------

PYTHON = """
    import asyncio, concurrent.futures, multiprocessing, os, pty, resource, socket, subprocess, sys, threading
    if __name__ == "__main__":
        done = []
        threads = [threading.Thread(target=done.append, args=(i,)) for i in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert sorted(done) == [0, 1, 2, 3]
        for method in ("fork", "spawn", "forkserver"):
            context = multiprocessing.get_context(method)
            with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
                assert list(pool.map(abs, [-1, -2])) == [1, 2]
        assert subprocess.run(["echo", "x"], capture_output=True).stdout == b"x\\n"
        assert subprocess.run("exit 3", shell=True).returncode == 3
        ends = socket.socketpair()
        ends[0].send(b"x")
        assert ends[1].recv(1) == b"x"
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            socket.socket(family, socket.SOCK_STREAM).close()
        assert socket.getaddrinfo("127.0.0.1", 80)
        assert [name for _, name in socket.if_nameindex()] == ["lo"]
        own = resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE)
        assert own == resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.prlimit(0, resource.RLIMIT_NOFILE, (own[0] - 1, own[1]))
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == own[0] - 1
        async def child():
            process = await asyncio.create_subprocess_exec("echo", stdout=-3)
            return await process.wait()
        assert asyncio.run(child()) == 0
        try:
            pty.openpty()
        except OSError as error:
            assert str(error) == "out of pty devices"
        print("ok")
"""

NODE = """
    const { Worker, isMainThread, parentPort } = require("worker_threads");
    const { execFileSync } = require("child_process");
    const fs = require("fs");
    if (isMainThread) {
        new Worker(__filename).on("message", async (sum) => {
            await fs.promises.writeFile("file", "x");
            console.log(sum, execFileSync("echo", ["x"]).toString().trim(),
                        await fs.promises.readFile("file", "utf8"));
        });
    } else {
        parentPort.postMessage(1 + 2);
    }
"""

C = """
    #include <pthread.h>
    #include <spawn.h>
    #include <stdio.h>
    #include <sys/wait.h>
    extern char **environ;
    static void *work(void *argument) { return argument; }
    int main(void)
    {
        pthread_t thread;
        void *result;
        pid_t child;
        int status;
        char *argv[] = {"true", NULL};
        if (pthread_create(&thread, NULL, work, "ok") || pthread_join(thread, &result)
            || posix_spawnp(&child, "true", NULL, NULL, argv, environ)
            || waitpid(child, &status, 0) != child || status)
            return 1;
        return puts(result) < 0;
    }
"""


@pytest.mark.parametrize(
    ("language", "source", "out"),
    [("python", PYTHON, "ok\n"), ("node", NODE, "3 x x\n"), ("c", C, "ok\n")],
)
async def test_real_programs_work(
    open_service: OpenService, isolating_backend: str, language: str, source: str, out: str
) -> None:
    service = await open_service(isolating_backend)
    ran = await run_job(
        service,
        language=language,
        code=script("main", source).content.decode(),
        limits={"wall_time_s": 30.0},
    )
    assert ran.out == out


WATCH = """
    import ctypes, errno, fcntl, os, socket
    libc = ctypes.CDLL(None, use_errno=True)
    names = [errno.errorcode[ctypes.get_errno()] if libc.inotify_init1(0) < 0 else "works"]
    try:
        fcntl.fcntl(os.open("/usr", os.O_RDONLY), fcntl.F_NOTIFY, fcntl.DN_ACCESS)
        names.append("works")
    except OSError as error:
        names.append(errno.errorcode[error.errno])
    for family in (socket.AF_NETLINK, socket.AF_INET):
        try:
            socket.socket(family, socket.SOCK_DGRAM, 0)
            names.append("works")
        except OSError as error:
            names.append(errno.errorcode[error.errno])
    print(*names)
"""


@here
@pytest.mark.parametrize("cgroup", ["auto", "off"])
async def test_the_strict_filter_refuses_netlink_and_what_watches_files(
    open_service: OpenService, need: Any, cgroup: str
) -> None:
    said, policies = [], set()
    for kind in ("standard", "strict"):
        service = await open_service(need("bwrap"), sandbox={"seccomp": kind, "cgroup": cgroup})
        job = await service.jobs.submit(JobSpec(**program(WATCH)))
        said.append((await ended(job)).out)
        policies.add((await job.view()).job.policy)
    assert said == ["works works works works\n", "ENOSYS EINVAL EAFNOSUPPORT works\n"]
    assert len(policies) == 2  # its record tells them apart


LEASE = """
    import errno, fcntl, os
    for path in ("own", "/usr/bin/env"):
        file = os.open(path, os.O_RDONLY | (os.O_CREAT if path == "own" else 0))
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            print("works")
        except OSError as error:
            print(errno.errorcode[error.errno])
"""


@here
async def test_no_job_delays_whoever_opens_a_file(
    open_service: OpenService, isolating_backend: str
) -> None:
    # If the service is not root, what it shows to all jobs may belong to the user of each.
    service = await open_service(isolating_backend)
    ran = await run_job(service, **program(LEASE))
    assert ran.out == "EINVAL\nEINVAL\n"


# --- it fails closed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(b"\0" * 8, id="no program that ends"),  # the kernel refuses it
        pytest.param(b"\x06\0\0\0\0\0\xff\x7f!", id="a cut instruction"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x06\0\0\0\0\0\xff\x7f" * 4097, id="too long"),
    ],
)
@pytest.mark.parametrize("backend", ISOLATING)
async def test_a_program_never_runs_without_the_filter(
    open_service: OpenService,
    need: Any,
    backend: str,
    broken: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = await open_service(need(backend))
    monkeypatch.setattr("streamer.sandbox.pool.job_filter", lambda **_: broken)
    ran: Ran = await run_job(
        service, command=("sh", "main.sh"), files=(SourceFile("main.sh", b"echo it ran"),)
    )
    assert isinstance(ran.end, Error)
    assert ran.end.code == "sandbox_error"
    assert ran.text() == ""
    assert "could not install the system call filter for the program" in caplog.text
