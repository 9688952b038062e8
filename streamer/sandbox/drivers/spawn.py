"""Start processes from the event loop's own thread, and wait for them.

`subprocess.Popen` uses vfork(2) unless it gets ``preexec_fn``, ``user`` or ``group``: 0.3 ms
whatever the size of this process, while a fork takes 30 ms at 500 MiB. The thread matters too:
PR_SET_PDEATHSIG (prctl(2)) kills the child when the *thread* that spawned it ends, so the end of an
executor's thread would kill sandboxes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from streamer.spi import Host, LaunchPlan

__all__ = ["Spawned", "spawn", "start_command"]

UNKNOWN_EXIT: Final = 255

GROUP_LOOK_S: Final = 0.005


class Spawned:
    """A child process with a pidfd (pidfd_open(2)), so that no signal can reach a reused pid.

    Its process group is killed when it ends; with `keep_group` only by `end_group`.
    """

    is_init: ClassVar[bool] = False
    """As a wrapper (`gated`)."""

    def __init__(self, process: subprocess.Popen[bytes], *, keep_group: bool = False) -> None:
        self.pid = process.pid
        self._process = process
        self._keep_group = keep_group
        self.ended_at = 0.0
        """When it ended, on the clock of `time.monotonic`."""
        try:
            self._pidfd = os.pidfd_open(process.pid)
        except OSError:  # out of descriptors: it could be neither killed nor awaited
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = self._loop.create_future()
        """Its exit code, as in `exit_code`; do not cancel it."""
        self._loop.add_reader(self._pidfd, self._ended)

    @property
    def pidfd(self) -> int:
        """Its pidfd; -1 once it was reaped."""
        return self._pidfd

    def _ended(self) -> None:
        self.ended_at = time.monotonic()
        self._loop.remove_reader(self._pidfd)
        # It stays a zombie: until it is reaped, its process id cannot be reused.
        try:
            end = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            self._taken_from_us()
            return
        assert end is not None
        self.ended.set_result(end.si_status if end.si_code == os.CLD_EXITED else -end.si_status)
        if not self._keep_group:
            self.reap()

    def _taken_from_us(self) -> None:
        """Go on without the exit code: the host application has reaped the child.

        The process id may have been reused, so nothing is sent to its group.
        """
        os.close(self._pidfd)
        self._pidfd = -1
        self._process.wait()  # finds no child, and records that
        self.ended.set_result(UNKNOWN_EXIT)

    def reap(self) -> None:
        """Kill what the ended process left in its group, and reap it. Idempotent."""
        if self._pidfd >= 0 and self.ended.done():
            self.signal_group(signal.SIGKILL)
            os.close(self._pidfd)
            self._pidfd = -1
            self._process.wait()

    async def end_group(self) -> None:
        """Kill what the ended process left in its group, wait until it is dead, and reap.

        A signal is sent at once, but a process dies only when it gets a processor.
        """
        self.signal_group(signal.SIGKILL)
        while self._pidfd >= 0 and _lives(self.pid):  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(GROUP_LOOK_S)
        self.reap()

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal as in `subprocess`, or None while it runs."""
        return self.ended.result() if self.ended.done() else None

    async def wait(self) -> int:
        """Wait until the process has ended, and was reaped unless its group is kept."""
        return await asyncio.shield(self.ended)

    async def open_init(self, pid: int) -> int:
        """Return a pidfd of the init that it has started (`gated`)."""
        # The init waits for us, so its process id cannot have been reused.
        return os.pidfd_open(pid)

    def kill(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def signal_group(self, number: int) -> None:
        """Send a signal to its process group, unless it was reaped.

        Its process id cannot be reused before we reap it.
        """
        if self._pidfd >= 0:
            # EPERM: all its processes run as other users (kill(2)).
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


def _lives(group: int) -> bool:
    """Return whether a process group has a living member that we may signal."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile, or belongs to another user
            stat = (entry / "stat").read_text(errors="replace")
            # The process name before it may contain anything, also spaces and brackets.
            state, _, of_group = stat.rpartition(")")[2].split()[:3]
            # The first thread may have ended before the others.
            if int(of_group) == group and (
                state not in "ZX" or len(os.listdir(entry / "task")) > 1  # noqa: PTH208 - names
            ):
                os.kill(int(entry.name), 0)
                return True
    return False


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str,
    stdin: int,
    stdout: int,
    stderr: int,
    keep_group: bool = False,
) -> Spawned:
    """Start a command with exactly these three descriptors and this environment.

    It leads its own session and process group. Raises OSError if it cannot be started.
    """
    return Spawned(
        subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            close_fds=True,
            start_new_session=True,
        ),
        keep_group=keep_group,
    )


def start_command(plan: LaunchPlan, host: Host, entry: Sequence[str]) -> tuple[str, ...]:
    """Return the command that enters the control group, changes the user, and runs a plan.

    `entry` are the options with which the group is entered (`Cgroup.entry`).
    """
    options = [*entry]
    if plan.start_as is not None and host.root:
        options += [f"--uid={plan.start_as.uid}", f"--gid={plan.start_as.gid}"]
    if plan.own_pid_namespace:
        options.append("--pid-namespace")
        options += [f"--read-only={path}" for path in plan.read_only]
    if not options:
        return plan.argv
    return (str(host.init), "enter", *options, "--", *plan.argv)
