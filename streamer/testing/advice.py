"""Tell the author of a backend the usual cause of a successful attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamer.spi import Backend, Isolation
from streamer.testing.attack import Attack
from streamer.testing.attacks import THEMES

__all__ = ["advice"]

_FILTER: Final = "no system call filter: set `seccomp = True`"
_CAPABILITIES: Final = (
    "the job has capabilities, or can gain them: drop all and set no_new_privs before the init "
    "(setpriv --bounding-set=-all --inh-caps=-all --no-new-privs)"
)
_MOUNTS: Final = (
    "the host's files are in the sandbox: mount only what `job.shown` names, read-only, and a "
    "private /tmp"
)
_PID: Final = (
    "the sandbox has no PID namespace of its own, or the host's /proc: see `own_pid_namespace`"
)

CAUSES: Final[Mapping[str, str]] = {
    "Namespaces": f"{_FILTER}; or {_CAPABILITIES}",
    "Privileges": _CAPABILITIES,
    "Processes of others": _PID,
    "Files of others": _MOUNTS,
    "Network": "the sandbox is in the host's network namespace though `job.network` is False",
    "Other jobs": "jobs share a /tmp, an IPC namespace or a user: start as `job.identity`",
    "Information": f"{_MOUNTS}; or the environment is not empty",
    "The kernel": _FILTER,
    "Shared resources of the host": f"{_FILTER}; or devices of the host are in the sandbox's /dev",
    "Processor and processes": f"the limit is not enforced for the whole job; or {_PID}",
    "Memory": "the job can write to memory that is not counted: see `private_mounts`",
    "Disk, files and output": "the job can write outside of the workspace: see `private_mounts`",
    "Staying alive": _PID,
    "Forging the verdict": f"the job can reach the init: {_PID}",
    "What is left in the workspace": "the job's files do not belong to `job.identity`",
    "While compiling": "the same as for a program: the compiler runs in the same sandbox",
}
"""The usual cause, by theme."""

_THEMES: Final = [(theme, attack.name) for theme, attacks in THEMES.items() for attack in attacks]


def advice(attack: Attack, backend: Backend) -> str:
    """Return two lines: who promises to withstand the attack, and the usual cause if it works."""
    promising = [level for level in Isolation if level not in attack.except_for]
    theme = next((name for name, named in _THEMES if named == attack.name), "")
    cause = CAUSES.get(theme, "not known; read the attack's program")
    return (
        f"a job tries to get at {attack.name}: promised by Isolation.{promising[0].name} and above, "
        f"and {backend.name} claims {backend.isolation.name}\n"
        f"usual cause: {cause}"
    )
