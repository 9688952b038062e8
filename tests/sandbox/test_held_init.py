"""The init holds a program: where it could notice its job, and not before."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import select
import signal
import socket
import struct
import sys
from pathlib import Path

import pytest

from streamer.sandbox.drivers.protocol import HOLD
from tests.running import descendants
from tests.sandbox.init_peer import Init, run_frame, served_init, waits_ms

PYTHON = "/usr/bin/python3"
SAME = ("/usr", "/lib", "/lib64", "/bin", "/etc")
HELD = (b"P", bytes(4))
PTRACE = {"x86_64": 101, "aarch64": 117}

pytestmark = pytest.mark.skipif(not os.access(PYTHON, os.X_OK), reason="there is no Python there")


class Pipes:
    """The standard descriptors of one program."""

    def __init__(self) -> None:
        self.stdin, self.writing = os.pipe()
        self.reading, self.stdout = os.pipe()

    def end_input(self) -> None:
        os.close(self.writing)
        self.writing = -1

    def close(self) -> None:
        for fd in (self.writing, self.reading):
            if fd >= 0:
                os.close(fd)

    def output(self) -> bytes:
        """Return all that is written until nobody has the pipe any more."""
        return b"".join(iter(lambda: os.read(self.reading, 65536), b""))


def begin(init: Init, *argv: str, same: tuple[str, ...] = SAME, env: tuple[str, ...] = ()) -> Pipes:
    """Let the init start a program that is to be held."""
    pipes = Pipes()
    init.send(b"T", b"".join(path.encode() + b"\0" for path in same))
    fds = [pipes.stdin, pipes.stdout, pipes.stdout]
    socket.send_fds(init.sock, [struct.pack("<I", 1) + b"D"], fds)
    os.close(pipes.stdin)
    os.close(pipes.stdout)
    tail = b"".join(variable.encode() + b"\0" for variable in env)
    init.send(b"R", run_frame(*argv, variables=len(env), tail=tail, flags=HOLD))
    return pipes


def told(init: Init) -> tuple[bytes, bytes]:
    """Return the next frame that is not about a start."""
    kind, payload = init.read()
    return told(init) if kind == b"S" else (kind, payload)


def script(code: str) -> tuple[str, ...]:
    """Return a command that makes no call of its own that could reveal something."""
    return (PYTHON, "-I", "-S", "-c", code)


def child_of(init: Init) -> int:
    path = Path(f"/proc/{init.process.pid}/task/{init.process.pid}/children")
    (child,) = path.read_text().split()
    return int(child)


def has_threads(init: Init) -> bool:
    """Return whether its program has begun to make threads."""
    with contextlib.suppress(ValueError, FileNotFoundError):  # there is no program yet
        return len([*Path(f"/proc/{child_of(init)}/task").iterdir()]) > 1
    return False


def call_of(pid: int) -> str:
    """Return the number of the system call that a stopped process is about to make."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0]


def ends(init: Init) -> tuple[str, int]:
    """Return why a program has ended, and its exit code."""
    kind, payload = told(init)
    assert kind == b"X"
    status = int.from_bytes(payload[1:5], "little")
    return chr(payload[0]), os.waitstatus_to_exitcode(status)


def test_a_program_is_held_until_its_job_comes(init: Init, tmp_path: Path) -> None:
    code = "print(open('word').read(), [x for x in open('/proc/self/status') if 'Tracer' in x])"
    (tmp_path / "main.py").write_text("raise SystemExit('this is not the file of the job')")
    pipes = begin(init, PYTHON, f"{tmp_path}/main.py", env=(f"HOME={tmp_path}",))
    assert told(init) == HELD
    (tmp_path / "main.py").write_text(f"import os; os.chdir({str(tmp_path)!r}); {code}")
    (tmp_path / "word").write_text("late")
    init.send(b"G")
    assert pipes.output() == b"late ['TracerPid:\\t0\\n']\n"
    assert ends(init) == ("-", 0)
    pipes.close()


def test_where_no_job_may_bring_packages_a_program_looks_before(init: Init, tmp_path: Path) -> None:
    pipes = begin(init, PYTHON, f"{tmp_path}/main.py", env=(f"HOME={tmp_path}",))
    assert told(init) == HELD
    # It has come to its own file, and not only to where its user's packages would be.
    address = int(Path(f"/proc/{child_of(init)}/syscall").read_text().split()[2], 16)
    with Path(f"/proc/{child_of(init)}/mem").open("rb") as memory:
        memory.seek(address)
        assert memory.read(4096).partition(b"\0")[0] == os.fsencode(tmp_path / "main.py")
    init.send(b"K")
    assert ends(init) == ("k", -signal.SIGKILL)
    pipes.close()


def test_files_are_written_while_a_program_is_held(init: Init, tmp_path: Path) -> None:
    pipes = begin(init, *script(f"print(open('{tmp_path}/a/file').read())"))
    assert told(init) == HELD
    init.send(b"Q", struct.pack("<I", 1000))
    init.send(b"F", struct.pack("<I", 0o644) + b"a/file\0content")
    assert init.files_written() == 0
    init.send(b"G")
    assert pipes.output() == b"content\n"
    assert ends(init) == ("-", 0)
    pipes.close()


def test_it_does_not_go_on_without_files_that_could_not_be_written(init: Init) -> None:
    pipes = begin(init, *script("import posix; posix.stat('.')"))
    assert told(init) == HELD
    init.send(b"Q", struct.pack("<I", 0))
    init.send(b"F", struct.pack("<I", 0o644) + b"file\0content")
    init.send(b"G")
    kind, what = told(init)
    assert (kind, what[:1], int.from_bytes(what[1:], "little")) == (b"E", b"r", errno.EDQUOT)
    assert call_of(child_of(init)) != "running"
    pipes.close()


CALL = "import ctypes, struct; ctypes.CDLL(None).syscall"
REVEALING = {
    "the workspace": ("posix.stat('{work}')", 262),
    "a name beside that of packages": ("posix.stat('{work}/.locale')", 262),
    "a new file among packages": (
        "posix.open('{work}/.local', posix.O_CREAT | posix.O_WRONLY)",
        257,
    ),
    "a relative path": ("posix.stat('main.py')", 262),
    "the working directory": ("posix.open('.', 0)", 257),
    "a way to the workspace": ("posix.stat('/usr/..{work}/f')", 262),
    "another folder": ("posix.listdir('/tmp')", 257),
    "who traces it": ("posix.open('/proc/self/status', 0)", 257),
    "its descriptors": ("posix.open('/proc/self/fd/0', 0)", 257),
    "standard input": ("posix.read(0, 1)", 0),
    "how much there is to read": ("fcntl.ioctl(0, 0x541B, b'1234')", 16),
    "standard output": ("posix.write(1, b'x')", 1),
    "a copy of standard input": ("posix.dup(0)", 72),
    "a copy over standard output": ("posix.dup2(a, 1)", 33),
    "the end of standard output": ("posix.close(1)", 3),
    "a new file": ("posix.open('/usr/new', posix.O_CREAT | posix.O_WRONLY)", 257),
    "a file to write": ("posix.open('/etc/passwd', posix.O_WRONLY)", 257),
    "a new folder": ("posix.mkdir('/tmp/new')", 83),
    "another folder to work in": ("posix.chdir('/usr')", 80),
    "a child": ("posix.fork()", 56),
    "a thread that nobody may trace": (f"{CALL}(56, 0x810000)", 56),
    "a thread that is waited for": (f"{CALL}(56, 0x14000)", 56),
    "such a thread by clone3": (f"{CALL}(435, struct.pack('11Q', 0x810000, *[0] * 10), 88)", 435),
    "another program": ("posix.execv('/bin/true', ['true'])", 59),
    "a signal": ("posix.kill(0, 0)", 62),
    "a pause": ("time.sleep(0.001)", 230),
    "an alarm": ("signal.setitimer(0, 100)", 38),
    "limits of another": ("resource.prlimit({init}, resource.RLIMIT_NOFILE)", 302),
    "a session": ("posix.setsid()", 112),
    "its end": ("posix._exit(0)", 231),
}
"""Calls that are made once, with the number of the system call that each is on x86_64."""

HARMLESS = """
import _signal as signal, fcntl, posix, resource, time
posix.getcwd(), posix.getppid(), posix.umask(0o22), posix.urandom(1), time.clock_gettime(0)
a, b = posix.pipe()
posix.write(b, b"x"), posix.read(a, 1), posix.fstat(0), posix.isatty(1), posix.stat("/usr")
posix.close(posix.open("/etc/passwd", 0)), posix.listdir("/usr")
resource.getrlimit(resource.RLIMIT_NOFILE)
"""
"""What is built in, or in /usr, can be imported too."""


@pytest.mark.parametrize(("call", "number"), REVEALING.values(), ids=REVEALING)
def test_it_is_held_before_a_call_that_reveals_something(
    init: Init, tmp_path: Path, call: str, number: int
) -> None:
    call = call.format(work=tmp_path, init=init.process.pid)
    pipes = begin(init, *script(f"{HARMLESS}\n{call}\nposix._exit(0)"))
    assert told(init) == HELD
    if platform.machine() == "x86_64":
        assert call_of(child_of(init)) == str(number)
    os.set_blocking(pipes.reading, False)
    with pytest.raises(BlockingIOError):
        os.read(pipes.reading, 1)
    assert [*tmp_path.iterdir()] == []
    init.send(b"K")
    assert ends(init) == ("k", -signal.SIGKILL)
    pipes.close()


def test_what_the_workspace_is_in_is_not_the_same_for_all(init: Init, tmp_path: Path) -> None:
    folder = str(tmp_path.parent)
    code = f"import posix; posix.listdir({folder!r}); posix._exit(0)"
    pipes = begin(init, *script(code), same=(*SAME, folder))
    assert told(init) == HELD
    if platform.machine() == "x86_64":
        assert call_of(child_of(init)) == "257"
    init.send(b"K")
    assert ends(init) == ("k", -signal.SIGKILL)
    pipes.close()


def test_its_other_threads_are_held_too(init: Init, tmp_path: Path) -> None:
    code = f"""
import _thread, posix
seen, looked, stays, waits, ends = [], *[_thread.allocate_lock() for _ in range(4)]
for lock in (looked, stays, waits, ends):
    lock.acquire()
def look():
    seen.append(posix.listdir({str(tmp_path)!r}))
    looked.release()
    stays.acquire()  # or it would be gone when its status is read
def wait():
    waits.acquire()
    ends.release()
_thread.start_new_thread(look, ())
_thread.start_new_thread(wait, ())
posix.read(0, 1)
looked.acquire()
traced = {{
    line
    for task in posix.listdir("/proc/self/task")
    for line in open(f"/proc/self/task/{{task}}/status")
    if line.startswith("TracerPid")
}}
waits.release()
ends.acquire()
print(seen, traced)
"""
    pipes = begin(init, *script(code))
    assert told(init) == HELD
    (tmp_path / "file").touch()
    pipes.end_input()
    init.send(b"G")
    assert pipes.output() == b"[['file']] {'TracerPid:\\t0\\n'}\n"
    assert ends(init) == ("-", 0)
    pipes.close()


def test_it_goes_on_at_once_if_its_job_is_there_already(init: Init, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("print('up')")
    for _ in range(20):
        pipes = begin(init, PYTHON, f"{tmp_path}/main.py", env=(f"HOME={tmp_path}",))
        init.send(b"G")
        assert pipes.output() == b"up\n"
        kind, payload = told(init)
        while kind == b"P":  # it was faster
            kind, payload = told(init)
        assert (kind, payload[:5]) == (b"X", b"-" + bytes(4))
        pipes.close()


def test_it_tells_whether_a_program_goes_on(init: Init) -> None:
    pipes = begin(init, *script("import posix; posix.read(0, 1)"))
    init.send(b"G", b"?")
    pipes.end_input()
    answers = {told(init)[0] for _ in range(2)}
    assert answers <= {b"P", b"G", b"X"}
    assert b"G" in answers
    pipes.close()


def test_it_tells_whether_a_program_has_ended_before(init: Init) -> None:
    pipes = begin(init, *script("import posix; posix.read(0, 1)"))
    assert told(init) == HELD
    os.kill(child_of(init), signal.SIGKILL)
    assert told(init)[0] == b"X"
    init.send(b"G", b"?")
    assert told(init) == (b"G", b"\0")
    pipes.close()


@pytest.mark.slow
def test_no_thread_stays_stopped_that_begins_while_it_is_let_go(init: Init) -> None:
    """One in about ten programs begins a thread in that moment."""
    code = """
import _thread, posix
for _ in range(200):
    _thread.start_new_thread(int, ())
while _thread._count():
    pass
posix.write(1, b"all have ended")
posix._exit(0)  # Python may crash otherwise: a thread that is no longer counted may still be there
"""
    for _ in range(20):
        pipes = begin(init, *script(code))
        while not has_threads(init):
            pass
        init.send(b"G")
        assert pipes.output() == b"all have ended"
        answer, payload = told(init)
        if answer == b"P":  # on a busy machine it is held before it is let go
            assert payload == bytes(4)
            answer, payload = told(init)
        assert (answer, payload[:5]) == (b"X", b"-" + bytes(4))
        pipes.close()


def test_a_program_that_never_waits_can_be_released_and_ended(init: Init) -> None:
    for kind, end in ((b"G", "k"), (b"U", "k")):
        pipes = begin(init, *script("while True: pass"))
        init.send(kind, bytes(4 if kind == b"U" else 0))
        init.send(b"K")
        answer, payload = told(init)
        while answer == b"U":
            answer, payload = told(init)
        assert (answer, chr(payload[0])) == (b"X", end)
        pipes.close()


def test_a_program_that_ends_before_is_told_as_any_other(init: Init) -> None:
    pipes = begin(init, "/nonexistent/program")
    assert ends(init) == ("-", 127)
    assert pipes.output() == b""  # that they have the pipes in common must do its job no harm
    init.send(b"G")  # its job had come meanwhile
    init.send_stdio()
    init.send(b"R", run_frame("/bin/true"))
    assert ends(init) == ("-", 0)
    pipes.close()


def test_one_that_is_killed_while_it_is_held_is_no_more(init: Init) -> None:
    for _ in range(2):
        pipes = begin(init, *script("import posix; posix.read(0, 1)"))
        assert told(init) == HELD
        os.kill(child_of(init), signal.SIGKILL)
        kind, payload = told(init)
        assert (kind, payload[:1]) == (b"X", b"-")
        assert os.waitstatus_to_exitcode(int.from_bytes(payload[1:5], "little")) == -9
        assert payload[-8:] == bytes(8)  # no time of its job has passed
        pipes.close()


def test_one_that_is_held_ends_with_the_init(init: Init) -> None:
    pipes = begin(init, *script("import posix; posix.read(0, 1)"))
    assert told(init) == HELD
    pid = child_of(init)
    init.process.kill()
    init.process.wait()
    assert pipes.output() == b""
    while pid in descendants():  # its descriptors are closed a moment before
        pass
    pipes.close()


def test_a_signal_waits_for_its_job(init: Init) -> None:
    pipes = begin(init, *script("import posix; posix.read(0, 1)"))
    assert told(init) == HELD
    init.send(b"S", struct.pack("<I", signal.SIGTERM))
    init.send(b"U", bytes(4))
    assert told(init)[0] == b"U"
    init.send(b"G")
    assert ends(init) == ("-", -signal.SIGTERM)
    pipes.close()


def test_a_signal_that_comes_while_it_starts_is_taken_at_once(init: Init) -> None:
    code = """
import _signal, posix
taken = []
_signal.signal(_signal.SIGWINCH, lambda *_: taken.append(1))
while not taken:
    pass
posix.write(1, b"taken")
"""
    pipes = begin(init, *script(code))
    while not select.select([init.sock], [], [], 0.01)[0]:
        init.send(b"S", struct.pack("<I", signal.SIGWINCH))  # ignored until it has its handler
    assert told(init) == HELD
    init.send(b"G")
    assert pipes.output() == b"taken"
    assert ends(init) == ("-", 0)
    pipes.close()


def test_one_that_somebody_has_stopped_stays_so_until_it_is_continued(init: Init) -> None:
    pipes = begin(init, *script("import posix; posix.read(0, 1); print('up')"))
    assert told(init) == HELD
    pipes.end_input()
    os.kill(child_of(init), signal.SIGSTOP)
    init.send(b"G")
    os.kill(child_of(init), signal.SIGCONT)
    assert pipes.output() == b"up\n"
    assert ends(init) == ("-", 0)
    pipes.close()


def test_while_it_is_held_nothing_is_looked_at(init: Init) -> None:
    pipes = begin(init, *script("import posix; posix.read(0, 1)"))
    assert told(init) == HELD
    assert waits_ms(init.process.pid) == -1
    pipes.close()


REFUSE_PTRACE = """
import ctypes, os, struct, sys
number, request, error = map(int, sys.argv[1:4])
steps = (
    (0x20, 0, 0, 0), (0x15, 0, 3, number), (0x20, 0, 0, 16), (0x15, 0, 1, request),
    (0x06, 0, 0, 0x0005_0000 | error), (0x06, 0, 0, 0x7FFF_0000),
)
program = b"".join(struct.pack("<HBBI", *step) for step in steps)
kept = ctypes.create_string_buffer(program)
libc = ctypes.CDLL(None)
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 38, 22
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
fprog = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(kept))
assert libc.prctl(PR_SET_SECCOMP, 2, ctypes.create_string_buffer(fprog), 0, 0) == 0
os.execv(sys.argv[4], sys.argv[4:])
"""
SEIZE, GET_SYSCALL_INFO = 0x4206, 0x420E


@pytest.mark.skipif(platform.machine() not in PTRACE, reason="its number is not known here")
@pytest.mark.parametrize(
    ("request_", "error"),
    [(SEIZE, errno.EPERM), (GET_SYSCALL_INFO, errno.EIO)],
    ids=["forbidden", "before 5.3"],
)
def test_it_says_so_where_nobody_may_be_traced(tmp_path: Path, request_: int, error: int) -> None:
    numbers = map(str, (PTRACE[platform.machine()], request_, error))
    with served_init(tmp_path, (sys.executable, "-c", REFUSE_PTRACE, *numbers)) as init:
        for _ in range(2):
            pipes = begin(init, *script("import posix; posix.read(0, 1)"))
            assert told(init) == (b"P", error.to_bytes(4, "little"))
            assert told(init)[0] == b"X"
            assert pipes.output() == b""
            pipes.close()
        init.send_stdio()
        init.send(b"R", run_frame("/bin/true"))
        assert ends(init) == ("-", 0)
