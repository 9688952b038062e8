"""The attacks by theme, as data (`streamer.testing.attack`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamer.testing.attack import Attack
from streamer.testing.attacks import (
    compiling,
    files,
    information,
    kernel,
    lifetime,
    memory,
    namespaces,
    neighbours,
    network,
    planted,
    privileges,
    processes,
    storage,
    usage,
    verdicts,
)

__all__ = ["ATTACKS", "THEMES"]

THEMES: Final[Mapping[str, tuple[Attack, ...]]] = {
    "Namespaces": namespaces.ATTACKS,
    "Privileges": privileges.ATTACKS,
    "Processes of others": processes.ATTACKS,
    "Files of others": files.ATTACKS,
    "Network": network.ATTACKS,
    "Other jobs": neighbours.ATTACKS,
    "Information": information.ATTACKS,
    "The kernel": kernel.ATTACKS,
    "Processor and processes": usage.ATTACKS,
    "Memory": memory.ATTACKS,
    "Disk, files and output": storage.ATTACKS,
    "Staying alive": lifetime.ATTACKS,
    "Forging the verdict": verdicts.ATTACKS,
    "What is left in the workspace": planted.ATTACKS,
    "While compiling": compiling.ATTACKS,
}

ATTACKS: Final = tuple(attack for attacks in THEMES.values() for attack in attacks)
