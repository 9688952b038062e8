"""Find the process whose end is the end of a sandbox's pid namespace (pid_namespaces(7))."""

from __future__ import annotations

from pathlib import Path

__all__ = ["first_above"]


def first_above(pid: int) -> int:
    """Return pid 1 of a process's namespace, if it is an ancestor of it in another one than ours.

    Otherwise return 0. With it the kernel kills all that is in the namespace.
    """
    depth = len(_ids(_status("self")))
    ids = _ids(status := _status(str(pid)))
    while len(ids) > depth:
        if ids[-1] == "1":
            return int(ids[0])
        ids = _ids(status := _status(_value(status, "PPid")))
    return 0


def _status(process: str) -> str:
    try:
        return Path(f"/proc/{process}/status").read_text(errors="replace")
    except OSError:
        return ""  # it has ended


def _ids(status: str) -> list[str]:
    """Return its process id in each namespace from ours inwards (proc_pid_status(5))."""
    return _value(status, "NSpid").split()


def _value(status: str, name: str) -> str:
    return next(
        (line.partition("\t")[2] for line in status.splitlines() if line.startswith(f"{name}:")), ""
    )
