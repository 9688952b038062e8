"""Start processes, from the event loop's own thread, and wait for them.

`subprocess.Popen` uses vfork(2) as long as it gets no ``preexec_fn``, ``user`` or
``group``: 0.3 ms at any size of this process, where a fork takes 30 ms at 500 MiB.
The thread matters too: PR_SET_PDEATHSIG (prctl(2)) fires when the *thread* that
spawned ends, so an executor's thread would take its sandboxes with it.
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
from typing import Final

from streamer.spi import Host, LaunchPlan

__all__ = ["Spawned", "spawn", "start_command"]

UNKNOWN_EXIT: Final = 255

GROUP_LOOK_S: Final = 0.005


class Spawned:
    """A child process held by a pidfd (pidfd_open(2)), so that no signal meets a reused pid.

    Its process group ends with it, or with `end_group` if the group is kept.
    """

    def __init__(self, process: subprocess.Popen[bytes], *, keep_group: bool = False) -> None:
        self.pid = process.pid
        self._process = process
        self._keep_group = keep_group
        self.ended_at = 0.0
        """When it ended, on the clock of `time.monotonic`."""
        try:
            self._pidfd = os.pidfd_open(process.pid)
        except OSError:  # out of descriptors; nobody could end it, or would hear of its end
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        self._loop = asyncio.get_running_loop()
        self._exit: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(self._pidfd, self._ended)

    def _ended(self) -> None:
        self.ended_at = time.monotonic()
        self._loop.remove_reader(self._pidfd)
        # It stays a zombie: until it is reaped, its number means its group and nothing else.
        try:
            end = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            self._taken_from_us()
            return
        assert end is not None
        self._exit.set_result(end.si_status if end.si_code == os.CLD_EXITED else -end.si_status)
        if not self._keep_group:
            self.reap()

    def _taken_from_us(self) -> None:
        """Make do without the exit code: the application around us reaps every child it has.

        Its number may be somebody else's by now, so nothing is sent to its group.
        """
        os.close(self._pidfd)
        self._pidfd = -1
        self._process.wait()  # finds nothing, and notes that
        self._exit.set_result(UNKNOWN_EXIT)

    def reap(self) -> None:
        """Kill what the ended process left in its group, and give its number back. Idempotent."""
        if self._pidfd >= 0 and self._exit.done():
            self.signal_group(signal.SIGKILL)
            os.close(self._pidfd)
            self._pidfd = -1
            self._process.wait()

    async def end_group(self) -> None:
        """Kill what the ended process left in its group, wait until it is dead, and reap.

        A signal is sent at once, but who gets it dies only when a processor is free for that.
        """
        self.signal_group(signal.SIGKILL)
        while self._pidfd >= 0 and _lives(self.pid):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(GROUP_LOOK_S)
        self.reap()

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal as in `subprocess`, or None while it runs."""
        return self._exit.result() if self._exit.done() else None

    async def wait(self) -> int:
        """Wait until the process has ended, and was reaped unless its group is kept."""
        return await asyncio.shield(self._exit)

    def kill(self) -> None:
        """Send SIGKILL, unless it is over."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def signal_group(self, number: int) -> None:
        """Send a signal to the process group it leads, unless the leader was reaped.

        The leader's number cannot be reused before it is reaped, and that is done by us.
        """
        if self._pidfd >= 0:
            # EPERM: nobody in it but what runs as another user (kill(2)).
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


def _lives(group: int) -> bool:
    """Return whether a process group has a living member that we may signal."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended since, or is another user's
            stat = (entry / "stat").read_text(errors="replace")
            # The name before it may hold anything, spaces and brackets too.
            state, _, of_group = stat.rpartition(")")[2].split()[:3]
            # The first thread may be over, and the others not.
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

    It leads a session, and so a process group, of its own. Raises OSError if it cannot
    be started.
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


def start_command(plan: LaunchPlan, host: Host, entrances: Sequence[str]) -> tuple[str, ...]:
    """Return the command of a plan, begun in a control group and as the user of the sandbox.

    `entrances` are the files by which a process enters the group.
    """
    options = [f"--cgroup={entrance}" for entrance in entrances]
    if plan.start_as is not None and host.root:
        options += [f"--uid={plan.start_as.uid}", f"--gid={plan.start_as.gid}"]
    if plan.own_pid_namespace:
        options.append("--pid-namespace")
    if not options:
        return plan.argv
    return (str(host.init), "enter", *options, "--", *plan.argv)
