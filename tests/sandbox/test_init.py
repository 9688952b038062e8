"""Send frames to the init: malformed, truncated or unexpected ones do no harm."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest

from streamer.errors import SandboxFailure
from streamer.sandbox.drivers.channel import InitChannel
from streamer.sandbox.drivers.protocol import GROUP_MEMORY, GROUP_SHARE, GROUP_TIME, KEEP, PROTOCOL
from tests.running import descendants
from tests.sandbox.init_peer import INIT, Init, run_frame, waits_ms


def until_started(init: Init) -> None:
    """Wait for the answer to a later question: whatever came before has been read then."""
    init.send(b"U", struct.pack("<I", 1))
    assert init.read()[0] == b"U"


def test_it_runs_a_program_and_tells_its_end(init: Init) -> None:
    init.send_stdio()
    init.send(b"R", run_frame("/bin/sh", "-c", "exit 137"))
    kind, payload = init.read()
    assert kind == b"X"
    assert os.waitstatus_to_exitcode(int.from_bytes(payload[1:5], "little")) == 137


def test_it_runs_one_program_after_another(init: Init) -> None:
    for _ in range(20):
        init.send_stdio()
        init.send(b"R", run_frame("/bin/true"))
        assert init.read()[0] == b"X"


def test_it_looks_seldom_where_a_group_keeps_to_the_limits(init: Init) -> None:
    init.send_stdio()
    by_group = GROUP_MEMORY | GROUP_SHARE | GROUP_TIME
    init.send(b"R", run_frame("/bin/sleep", "600", flags=by_group))
    deadline = time.monotonic() + 20
    while waits_ms(init.process.pid) < 400:  # 500 on average; where it has to look, 50
        assert time.monotonic() < deadline
    init.send(b"K")
    assert init.read()[0] == b"X"


def test_it_lowers_the_priority_of_no_process_of_the_host(init: Init) -> None:
    """Here it has no namespace of process ids, so it sees them all; as root it may change them."""
    if os.readlink("/proc/self/ns/pid") != "pid:[4026531836]":
        pytest.skip("this is a container: what is here is not told from a sandbox")
    before = os.getpriority(os.PRIO_PROCESS, 0)
    crowd = "while :; do (:); done & " * 8 * (os.cpu_count() or 1) + "wait"
    init.send_stdio()
    init.send(b"R", run_frame("/bin/sh", "-c", crowd))
    looked = looks(init)
    deadline = time.monotonic() + 60
    while looks(init) < looked + 30:  # it lowers after four looks at a crowd that changes
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
    init.send(b"K")
    assert init.read()[0] == b"X"


def looks(init: Init) -> int:
    """Return how often the init has waited, which it does between two looks."""
    status = Path(f"/proc/{init.process.pid}/status").read_text()
    return int(status.partition("voluntary_ctxt_switches:")[2].split()[0])


@pytest.mark.parametrize("size", [0, 2**24 + 1, 2**31, 2**32 - 1])
def test_it_hangs_up_on_an_impossible_length(init: Init, size: int) -> None:
    init.sock.sendall(struct.pack("<I", size) + b"R")
    assert init.ends() == 125


def test_it_ends_when_a_frame_is_cut_short(init: Init) -> None:
    init.sock.sendall(struct.pack("<I", 100) + b"Rxx")
    init.sock.shutdown(socket.SHUT_WR)
    assert init.ends() == 0


def test_it_takes_a_frame_byte_by_byte(init: Init) -> None:
    init.send_stdio()
    payload = run_frame("/bin/true")
    for byte in struct.pack("<I", 1 + len(payload)) + b"R" + payload:
        init.sock.sendall(bytes([byte]))
    assert init.read()[0] == b"X"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0" * 27,
        run_frame("/bin/true")[:-1],
        run_frame("/bin/true", arguments=0),
        run_frame("/bin/true", arguments=2),
        run_frame("/bin/true", arguments=2**32 - 1),
        run_frame("/bin/true", variables=2**32 - 1),
        run_frame("/bin/true", limits=2**32 - 1),
        run_frame("/bin/true", limits=2**28),
    ],
    ids=[
        "empty",
        "short",
        "no-end",
        "none",
        "one-more",
        "arguments",
        "variables",
        "limits",
        "limits2",
    ],
)
def test_it_refuses_a_malformed_program_and_goes_on(init: Init, payload: bytes) -> None:
    init.send_stdio()
    init.send(b"R", payload)
    kind, what = init.read()
    assert (kind, what[:1]) == (b"E", b"r")
    init.send(b"R", run_frame("/bin/true"))
    assert init.read()[0] == b"X"


def test_it_refuses_a_program_without_descriptors(init: Init) -> None:
    init.send(b"R", run_frame("/bin/true"))
    assert init.read()[0] == b"E"


@pytest.mark.parametrize("count", [1, 2, 4, 12])
def test_it_takes_no_other_number_of_descriptors(init: Init, count: int) -> None:
    init.send_stdio(count)
    assert init.ends() == 125


def test_it_refuses_a_second_program_beside_the_first(init: Init) -> None:
    init.send_stdio()
    init.send(b"R", run_frame("/bin/sleep", "600"))
    until_started(init)  # the descriptors of two programs at once would be refused
    init.send_stdio()
    init.send(b"R", run_frame("/bin/true"))
    assert init.read()[0] == b"E"
    init.send(b"K")
    kind, payload = init.read()
    assert (kind, payload[:1]) == (b"X", b"k")


def test_it_says_that_it_does_not_know_a_frame(init: Init) -> None:
    init.send(b"?", b"x")
    kind, what = init.read()
    assert (kind, what[:1]) == (b"E", b"p")


def test_it_listens_on_loopback_and_hands_out_the_socket(init: Init) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        init.send(b"N", struct.pack("<H", port))
        kind, told = init.read()
        assert (kind, told[:1]) == (b"E", b"n")
        assert int.from_bytes(told[1:], "little") == errno.EADDRINUSE
    init.send(b"N", struct.pack("<H", port))
    frame, (descriptor,), _, _ = socket.recv_fds(init.sock, 64, 3)
    assert frame == struct.pack("<I", 1) + b"L"
    with socket.socket(fileno=descriptor) as listener:
        assert listener.getsockname() == ("127.0.0.1", port)
        with socket.create_connection(("127.0.0.1", port)) as caller:
            accepted, address = listener.accept()
            accepted.close()
            assert address == caller.getsockname()
    # The init has kept nothing of it; it may still be about to close its own copy.
    with pytest.raises(ConnectionRefusedError):
        while True:
            socket.create_connection(("127.0.0.1", port)).close()


@pytest.mark.parametrize("payload", [b"", b"\1", bytes(3)])
def test_it_refuses_a_malformed_port(init: Init, payload: bytes) -> None:
    init.send(b"N", payload)
    kind, told = init.read()
    assert (kind, told[:1]) == (b"E", b"n")


def test_a_signal_or_a_kill_without_a_program_is_nothing(init: Init) -> None:
    for _ in range(100):
        init.send(b"S", struct.pack("<I", 9))
        init.send(b"S", b"x")
        init.send(b"K")
    init.send_stdio()
    init.send(b"R", run_frame("/bin/true"))
    assert init.read()[0] == b"X"


def test_it_tells_when_the_program_has_ended_and_left_others(init: Init) -> None:
    init.send_stdio()
    init.send(b"R", run_frame("/bin/sh", "-c", "sleep 600 & exit 3"))
    assert init.read()[0] == b"W"
    init.send(b"K")
    kind, payload = init.read()
    assert (kind, payload[:1]) == (b"X", b"-")
    assert os.waitstatus_to_exitcode(int.from_bytes(payload[1:5], "little")) == 3
    assert len(descendants()) == 1  # the init


def test_what_a_program_left_may_come_to_its_own_end(init: Init, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    init.send_stdio()
    script = f"cd {tmp_path}; {{ cat fifo >/dev/null; touch ended; }} & exit 3"
    init.send(b"R", run_frame("/bin/sh", "-c", script))
    assert init.read()[0] == b"W"
    (tmp_path / "fifo").write_bytes(b"go on")
    kind, payload = init.read()
    assert (kind, payload[:1]) == (b"X", b"-")
    assert (tmp_path / "ended").exists()


def test_an_impossible_signal_is_nothing(init: Init) -> None:
    init.send_stdio()
    init.send(b"R", run_frame("/bin/sleep", "600"))
    init.send(b"S", struct.pack("<I", 2**31 + 5))
    init.send(b"S", struct.pack("<I", 99))
    init.send(b"K")
    assert init.read()[1][:1] == b"k"


def test_it_ends_all_when_the_service_is_gone(init: Init) -> None:
    init.send_stdio()
    init.send(b"R", run_frame("/bin/sh", "-c", "setsid sleep 600 & trap '' TERM; sleep 600"))
    until_started(init)
    init.sock.close()
    assert init.ends() == 0
    assert descendants() == {}


@pytest.mark.parametrize("count", range(6))
def test_without_descriptors_it_does_not_go_on(init: Init, count: int) -> None:
    # A job of the same user could set this without a system call filter.
    init.send_stdio()
    init.send(b"R", run_frame("/bin/sleep", "600"))
    until_started(init)
    resource.prlimit(init.process.pid, resource.RLIMIT_NOFILE, (count, count))
    assert init.read() == (b"", b"")
    init.ends()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(-1, 0)  # the program has died with it, and is ours to reap


def test_it_says_how_it_is_called() -> None:
    for words in ((), ("serve", "x"), ("enter",), ("enter", "true"), ("enter", "--"), ("other",)):
        done = subprocess.run((INIT, *words), capture_output=True, timeout=30, check=False)
        assert done.returncode == 125, words
        assert b"streamer-init" in done.stderr, words


async def test_what_an_init_said_before_it_hung_up_is_told() -> None:
    ours, theirs = socket.socketpair()
    channel = InitChannel(ours)
    failure = struct.pack("<IcB", 6, b"E", ord("r")) + struct.pack("<I", errno.ENOMEM)
    with theirs:
        # Sent before the service has read anything, then closed with our frames unread.
        theirs.send(failure)
    with pytest.raises(SandboxFailure, match="start the program: Cannot allocate memory"):
        await channel.put_filter(bytes(1 << 20))
    channel.close()


async def test_an_init_of_another_build_is_told_as_such() -> None:
    ours, theirs = socket.socketpair()
    channel = InitChannel(ours)
    with theirs:
        theirs.send(struct.pack("<IcBB", 3, b"H", PROTOCOL - 1, 1))
        with pytest.raises(SandboxFailure, match="build it again"):
            await channel.greeted
    channel.close()


def test_a_program_is_in_a_session_that_neither_it_nor_the_init_leads(
    init: Init, tmp_path: Path
) -> None:
    # The kernel may distribute the processors among sessions, and the init must get its share.
    script = "import os; print(os.getsid(0), os.getpid(), os.getppid())"
    init.send_stdio()
    init.send(b"R", run_frame("/bin/sh", "-c", f"exec python3 -c '{script}' > {tmp_path}/told"))
    assert init.read()[0] == b"X"
    session, program, parent = map(int, (tmp_path / "told").read_text().split())
    assert parent == init.process.pid
    assert session not in (program, os.getsid(parent))


def test_what_a_program_leaves_goes_on_only_if_it_may(init: Init) -> None:
    leaves = run_frame("/bin/sh", "-c", "sleep 600 &", flags=KEEP)
    for number in range(1, 3):
        init.send_stdio()
        init.send(b"R", leaves)
        assert init.read()[0] == b"W"
        init.send(b"V")
        assert init.read()[0] == b"X"
        assert len(descendants()) == 1 + number
    init.send(b"V")  # without a program it has no effect, and no answer
    init.send_stdio()
    init.send(b"R", run_frame("/bin/sh", "-c", "sleep 600 &"))
    assert init.read()[0] == b"W"
    init.send(b"V")
    assert init.read()[0] == b"X"
    assert [*descendants()] == [init.process.pid]


def test_who_kills_a_program_kills_what_was_left_before(init: Init) -> None:
    for script in ("sleep 600 &", "sleep 600"):
        init.send_stdio()
        init.send(b"R", run_frame("/bin/sh", "-c", script, flags=KEEP))
        if script.endswith("&"):
            assert init.read()[0] == b"W"
            init.send(b"V")
            assert init.read()[0] == b"X"
    init.send(b"K")
    kind, told = init.read()
    assert (kind, told[:1]) == (b"X", b"k")
    assert [*descendants()] == [init.process.pid]


def boot_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def test_a_program_ends_when_its_time_is_over(init: Init) -> None:
    init.send(b"L", struct.pack("<Q", boot_us() + 300_000))
    init.send_stdio()
    init.send(b"R", run_frame("/bin/sh", "-c", "sleep 600 & sleep 600"))
    kind, told = init.read()
    assert (kind, told[:1]) == (b"X", b"l")
    assert [*descendants()] == [init.process.pid]
    init.send_stdio()
    init.send(b"R", run_frame("/bin/true"))
    kind, told = init.read()
    assert (kind, told[:1]) == (b"X", b"-"), "each time is told once"


def test_a_program_goes_on_while_it_is_told_so(init: Init) -> None:
    init.send(b"L", struct.pack("<Q", boot_us() + 500_000))
    init.send_stdio()
    init.send(b"R", run_frame("/bin/sleep", "1"))
    init.send(b"L", struct.pack("<Q", boot_us() + 600_000_000))
    init.send(b"L", b"short")  # is no time
    kind, told = init.read()
    assert (kind, told[:1]) == (b"X", b"-")


def test_what_programs_have_left_ends_when_their_time_is_over(init: Init) -> None:
    init.send_stdio()
    init.send(b"R", run_frame("/bin/sh", "-c", "sleep 600 &", flags=KEEP))
    assert init.read()[0] == b"W"
    init.send(b"V")
    assert init.read()[0] == b"X"
    assert len(descendants()) == 2
    init.send(b"L", struct.pack("<Q", boot_us()))
    until_started(init)  # which may have come with the time, and is then answered before its end
    until_started(init)
    assert [*descendants()] == [init.process.pid]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees what the init has open")
def test_its_timer_goes_on_while_the_machine_is_suspended(init: Init) -> None:
    """As poll(2) does not: it would sleep the rest of the time afterwards."""
    init.send(b"L", struct.pack("<Q", boot_us() + 600_000_000))
    until_started(init)
    told = [path.read_text() for path in Path(f"/proc/{init.process.pid}/fdinfo").iterdir()]
    [timer] = [text for text in told if "clockid" in text]
    assert f"clockid: {time.CLOCK_BOOTTIME}\n" in timer
    seconds = timer.partition("it_value: (")[2].partition(",")[0]
    assert 590 < int(seconds) <= 600
