"""The probes of `streamer doctor`, as data: what each tries, and which backends promise to stop it.

Each runs real jobs through a started service. None does harm even if the sandbox holds nothing: it
writes the present value, uses bounded resources, and signals only our own processes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from streamer.doctor.lures import end_marked, marked_processes, status_outside
from streamer.doctor.target import END, Finding, ProbeFailed, Target
from streamer.model.job import MIB
from streamer.sandbox.cgroups.cgroup import OVERHEAD_PROCESSES
from streamer.spi import Backend, Isolation

__all__ = ["PROBES", "Probe"]

WAIT_S: Final = 5.0
"""How long a kill, or an end at a limit, may take on a busy machine."""

CPU_WAIT_S: Final = 30.0
"""How long a job may take there to use 0.3 s of CPU time."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One attempt to break a rule. `promised_by` says whether a backend promises to prevent it.

    `limit` names the field of `Limits` that it exceeds: a backend for which this limit is not
    enforced promises nothing.
    """

    name: str
    promise: str
    promised_by: Callable[[Backend], bool]
    attempt: Callable[[Target], Awaitable[Finding]]
    remedy: str
    limit: str = ""


# ---- the host ---------------------------------------------------------------------------


async def _processes(target: Target) -> Finding:
    ran = await target.run(
        f"cd /proc; n=0; for p in [0-9]*; do n=$((n+1)); tr '\\0' ' ' <$p/cmdline; echo; "
        f"done 2>/dev/null; echo $n; echo {END}"
    )
    *commands, count = ran.lines
    if any(target.lures.secret in command for command in commands):
        return Finding(False, f"{count} processes are visible, the service's among them")
    return Finding(True, f"{count} processes are visible, none of them one of the host's lures")


async def _signals(target: Target) -> Finding:
    pid = target.lures.victim.pid
    ran = await target.run(f"kill -15 {pid}; kill -9 {pid}; echo {END}")
    assert ran.lines == []
    if await target.lures.victim_answers():
        return Finding(True, "a process of the service's user could not be signalled")
    return Finding(False, "a process of the service's user was killed")


async def _environment(target: Target) -> Finding:
    ran = await target.run(f"env; cat /proc/[0-9]*/environ | tr '\\0' '\\n'; echo; echo {END}")
    if any(target.lures.secret in line for line in ran.lines):
        return Finding(False, "a variable of the service was read")
    return Finding(True, "no variable of the service was found")


async def _user(target: Target) -> Finding:
    return await _as_seen_outside(
        target,
        "Uid",
        lambda uids: (uids.split()[0] != "0", f"its uid on the host is {uids.split()[0]}"),
    )


async def _read_files(target: Target) -> Finding:
    ran = await target.run(f'cat "$1"; echo; echo {END}', str(target.lures.readable))
    if any(target.lures.secret in line for line in ran.lines):
        return Finding(False, "a file that every user of the host may read was read")
    return Finding(True, "a readable file of the host was not there")


async def _write_files(target: Target) -> Finding:
    lures = target.lures
    ran = await target.run(
        f'printf x >"$1"; printf x >"$2"; echo {END}', str(lures.writable), str(lures.shared_plant)
    )
    assert ran.lines == []
    places = [str(lures.writable.parent)] if lures.written else []
    places += [str(lures.shared_plant.parent)] if lures.shared_plant.exists() else []
    if places:
        return Finding(False, f"a file of the host was written in {' and '.join(places)}")
    return Finding(True, "no file of the host was written")


async def _write_system(target: Target) -> Finding:
    ran = await target.run(
        'for f in "$@"; do printf x >"$f"; done; f=/proc/sys/kernel/core_pattern; '
        f'v=$(cat $f) && [ -n "$v" ] && printf %s "$v" >$f && echo $f; echo {END}',
        *map(str, target.lures.system_plants),
    )
    places = [str(plant.parent) for plant in target.lures.system_plants if plant.exists()]
    places += ran.lines
    if places:
        return Finding(False, f"could be written: {', '.join(places)}")
    return Finding(True, "/usr, /etc and /proc/sys could not be written")


# ---- the network ------------------------------------------------------------------------


async def _loopback(target: Target) -> Finding:
    lures = target.lures
    ran = await target.run(
        f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{lures.port}'; "
        f"command -v bash; cat /proc/net/tcp; echo {END}"
    )
    if not ran.lines:
        raise ProbeFailed("it needs bash or /proc/net/tcp, and the sandbox has neither")
    sockets = [line.split() for line in ran.lines]
    if "a server on loopback" in lures.contacts:
        return Finding(False, "a server on the host's 127.0.0.1 was reached")
    if any(str(lures.inode) in fields for fields in sockets):
        return Finding(False, "it shares the network namespace of a server on the host's 127.0.0.1")
    return Finding(True, "a server on the host's 127.0.0.1 was not reached")


async def _abstract_socket(target: Target) -> Finding:
    # A shell cannot connect to one, but those of the job's network namespace are listed.
    ran = await target.run(f"cat /proc/net/unix; echo {END}")
    if not ran.lines:
        raise ProbeFailed("/proc/net/unix does not exist in the sandbox")
    if any(target.lures.abstract in line for line in ran.lines):
        return Finding(False, "an abstract unix socket of the host is within reach")
    return Finding(True, "an abstract unix socket of the host is out of reach")


async def _interfaces(target: Target) -> Finding:
    ran = await target.run(f"cat /proc/net/dev; echo {END}")
    if not ran.lines:
        raise ProbeFailed("/proc/net/dev does not exist in the sandbox")
    names = [line.partition(":")[0].strip() for line in ran.lines if ":" in line]
    others = [name for name in names if name != "lo"]
    if others:
        return Finding(False, f"it has the network interfaces {', '.join(others)}")
    return Finding(True, "no interface but its own loopback")


# ---- the kernel -------------------------------------------------------------------------


async def _user_namespace(target: Target) -> Finding:
    ran = await target.run(f"unshare -U true && echo made; command -v unshare; echo {END}")
    if "made" in ran.lines:
        return Finding(False, "`unshare -U` made one")
    if not ran.lines:
        raise ProbeFailed("it needs the command unshare: install util-linux")
    return Finding(True, ran.err.strip().partition("\n")[0] or "`unshare -U` was refused")


async def _no_new_privs(target: Target) -> Finding:
    return await _as_seen_outside(
        target, "NoNewPrivs", lambda value: (value == "1", f"NoNewPrivs is {value}")
    )


async def _seccomp(target: Target) -> Finding:
    modes = {"0": "none", "1": "strict", "2": "a filter"}
    return await _as_seen_outside(
        target, "Seccomp", lambda value: (value != "0", f"system calls: {modes.get(value, value)}")
    )


async def _as_seen_outside(
    target: Target, field: str, judge: Callable[[str], tuple[bool, str]]
) -> Finding:
    """Judge a field of a running job's /proc/PID/status, as seen on the host."""
    mark = secrets.token_hex(8)
    async with target.running("echo up; read line", mark):
        status = status_outside(mark)
    if field not in status:
        raise ProbeFailed(
            f"no process of the job is visible on the host with {field} in its status"
        )
    return Finding(*judge(status[field]))


# ---- life and limits --------------------------------------------------------------------


async def _orphan(target: Target) -> Finding:
    mark = secrets.token_hex(8)
    # It prints when it is up; by then it has left the session and the process group.
    daemon = "echo up; exec >/dev/null 2>&1; sleep 60; :"
    async with target.running(f"$(command -v setsid) sh -c '{daemon}' \"$1\" & read line", mark):
        before = len(marked_processes(mark))
    left = end_marked(mark)
    if left:
        return Finding(False, f"{left} of its {before} processes were alive after its end")
    return Finding(True, "a daemon it left behind was dead when its end was reported")


async def _wall_time(target: Target) -> Finding:
    mark = secrets.token_hex(8)
    ran = await target.run(
        'trap "" TERM INT HUP; sh -c "sleep 60; :" "$1" & sleep 20; sleep 20',
        mark,
        wall_time_s=0.5,
    )
    seconds = ran.end.duration_ms / 1000
    left = end_marked(mark)
    held = ran.end.reason == "wall_time" and seconds < WAIT_S and not left
    alive = f", {left} processes alive" if left else ""
    return Finding(
        held, f"limit 0.5 s, ignoring SIGTERM: {ran.verdict} after {seconds:.1f} s{alive}"
    )


async def _cpu_time(target: Target) -> Finding:
    ran = await target.run(
        "(while :; do :; done) & while :; do :; done", cpu_time_s=0.3, wall_time_s=CPU_WAIT_S
    )
    used_ms = ran.end.cpu_time_ms
    if ran.end.reason == "wall_time" and used_ms is not None and used_ms < 300:
        # All jobs together weigh little beside other programs.
        raise ProbeFailed(
            f"other programs keep the processors busy: in {CPU_WAIT_S:.0f} s it got only "
            f"{used_ms / 1000:.2f} s of CPU time, less than its limit of 0.3 s",
            "repeat it when the machine is less busy",
        )
    return Finding(
        ran.end.reason == "cpu_time",
        f"limit 0.3 s: {ran.verdict} after {(used_ms or 0) / 1000:.2f} s",
    )


async def _memory(target: Target) -> Finding:
    # Without a newline, tail has to keep everything in memory.
    ran = await target.run("head -c 256M /dev/zero | tail | wc -c", memory_bytes=64 * MIB)
    peak = ran.end.peak_memory_bytes
    used = "" if peak is None else f", peak {peak / MIB:.0f} MiB"
    return Finding(ran.end.reason == "memory", f"limit 64 MiB of 256: {ran.verdict}{used}")


async def _process_count(target: Target) -> Finding:
    ran = await target.run(
        "i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); echo $i; done", processes=16
    )
    started = (ran.out.split() or ["0"])[-1]
    return Finding(
        int(started) <= 16 + OVERHEAD_PROCESSES, f"limit 16 of 60: {started} were started"
    )


async def _open_files(target: Target) -> Finding:
    ran = await target.run(f"ulimit -n 1000; ulimit -Hn; echo {END}", open_files=16)
    (limit,) = ran.lines
    return Finding(limit == "16", f"limit 16: {limit}, also after asking for 1000")


async def _file_size(target: Target) -> Finding:
    ran = await target.run(f"head -c 4M /dev/zero >f; wc -c <f; echo {END}", file_bytes=MIB)
    (size,) = ran.lines
    return Finding(int(size) <= MIB, f"limit 1 MiB of 4: {int(size) / MIB:.1f} MiB were written")


async def _disk(target: Target) -> Finding:
    ran = await target.run(
        "for i in 1 2 3 4; do head -c 8M /dev/zero >f$i || exit 9; done; sleep 3; echo all",
        disk_bytes=8 * MIB,
    )
    return Finding("all" not in ran.out, f"limit 8 MiB of 32: {ran.verdict}")


async def _output(target: Target) -> Finding:
    ran = await target.run("head -c 4M /dev/zero | tr '\\0' x; sleep 5", output_bytes=65536)
    return Finding(
        ran.end.reason == "output_limit" and len(ran.out) <= 65536,
        f"limit 64 KiB of 4096: {ran.verdict} with {len(ran.out) / 1024:.0f} KiB",
    )


async def _verdict(target: Target) -> Finding:
    fake = '{"reason":"exited","exitCode":0}'
    forge = "for n in 0 3 4 5 6 7 8 9; do eval 'echo \"$1\" >&'$n; done 2>/dev/null; "
    exited, killed, forged = await asyncio.gather(
        target.run("exit 137"),
        target.run("kill -9 $$"),
        target.run(f"({forge}); exit 7", fake),
    )
    told = [exited.verdict, killed.verdict, forged.verdict]
    return Finding(
        told == ["exited 137", "signaled SIGKILL", "exited 7"],
        f"exit 137, SIGKILL and a forger's exit 7 are reported as {', '.join(told)}",
    )


_REPORT: Final = "the backend enforces less than it declares: use another one, and report it"
_USER: Final = f"{_REPORT}; as root, start its sandboxes as the job's own user (start_as)"
_USERNS: Final = (
    f"{_REPORT}; or, if nothing needs them, forbid them to all: sysctl user.max_user_namespaces=0"
)
_UNLIMITED: Final = (
    "have the kernel enforce it: give the service control groups (Delegate=yes in its unit), or "
    "use a backend that runs our init (gated)"
)
_KILL: Final = "the backend must give its processes a PID namespace, or kill them itself"
_VERDICT: Final = "the backend must pass on the program's wait status, or run our init (gated)"


def _isolation(least: Isolation) -> Callable[[Backend], bool]:
    return lambda backend: backend.isolation >= least


_NONE, _DENY = map(_isolation, (Isolation.NONE, Isolation.DENY_LIST))

PROBES: Final = (
    Probe("processes", "the host's processes are hidden", _NONE, _processes, _KILL),
    Probe("signals", "the host's processes cannot be signalled", _NONE, _signals, _KILL),
    Probe("environment", "the service's environment is hidden", _NONE, _environment, _REPORT),
    Probe("user", "it is not root on the host", _NONE, _user, _USER),
    Probe("read", "the host's files are hidden", _DENY, _read_files, _REPORT),
    Probe("write", "the host's files cannot be written", _DENY, _write_files, _REPORT),
    Probe("system", "/usr, /etc and /proc/sys cannot be written", _DENY, _write_system, _REPORT),
    Probe("loopback", "the host's loopback cannot be reached", _DENY, _loopback, _REPORT),
    Probe("abstract", "abstract sockets cannot be reached", _DENY, _abstract_socket, _REPORT),
    Probe("interfaces", "there is no network", _DENY, _interfaces, _REPORT),
    Probe("namespaces", "no user namespaces can be created", _DENY, _user_namespace, _USERNS),
    Probe("privileges", "setuid programs gain none", _NONE, _no_new_privs, _REPORT),
    Probe(
        "seccomp",
        "system calls are filtered",
        lambda backend: backend.seccomp,
        _seccomp,
        _REPORT,
        "seccomp",
    ),
    Probe(
        "wall time", "it ends programs that ignore SIGTERM", _NONE, _wall_time, _KILL, "wall_time_s"
    ),
    Probe("cpu time", "of all processes", _NONE, _cpu_time, _UNLIMITED, "cpu_time_s"),
    Probe("memory", "of all processes", _NONE, _memory, _UNLIMITED, "memory_bytes"),
    Probe("process count", "at a time", _NONE, _process_count, _UNLIMITED, "processes"),
    Probe("open files", "of one process", _NONE, _open_files, _UNLIMITED, "open_files"),
    Probe("file size", "of one file", _NONE, _file_size, _UNLIMITED, "file_bytes"),
    Probe("disk", "of all files", _NONE, _disk, _UNLIMITED, "disk_bytes"),
    Probe("output", "of both streams", _NONE, _output, _REPORT, "output_bytes"),
    Probe("leftovers", "the processes it started end with it", _NONE, _orphan, _KILL),
    Probe("verdict", "its end is reported truthfully", _NONE, _verdict, _VERDICT),
)
