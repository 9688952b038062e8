"""The attacks by theme, as data (`streamer.testing.attack`).

Only `streamer.testing` and the tests import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamer.testing.attack import Attack
from streamer.testing.attacks.artifacts import ATTACKS as ARTIFACTS
from streamer.testing.attacks.cases import ATTACKS as CASES
from streamer.testing.attacks.compiling import ATTACKS as COMPILING
from streamer.testing.attacks.files import ATTACKS as FILES
from streamer.testing.attacks.hostwide import ATTACKS as HOSTWIDE
from streamer.testing.attacks.information import ATTACKS as INFORMATION
from streamer.testing.attacks.kernel import ATTACKS as KERNEL
from streamer.testing.attacks.lifetime import ATTACKS as LIFETIME
from streamer.testing.attacks.memory import ATTACKS as MEMORY
from streamer.testing.attacks.namespaces import ATTACKS as NAMESPACES
from streamer.testing.attacks.neighbours import ATTACKS as NEIGHBOURS
from streamer.testing.attacks.network import ATTACKS as NETWORK
from streamer.testing.attacks.packages import ATTACKS as PACKAGES
from streamer.testing.attacks.planted import ATTACKS as PLANTED
from streamer.testing.attacks.privileges import ATTACKS as PRIVILEGES
from streamer.testing.attacks.processes import ATTACKS as PROCESSES
from streamer.testing.attacks.sessions import ATTACKS as SESSIONS
from streamer.testing.attacks.storage import ATTACKS as STORAGE
from streamer.testing.attacks.terminals import ATTACKS as TERMINALS
from streamer.testing.attacks.usage import ATTACKS as USAGE
from streamer.testing.attacks.verdicts import ATTACKS as VERDICTS

__all__ = ["ATTACKS", "THEMES"]

THEMES: Final[Mapping[str, tuple[Attack, ...]]] = {
    "Namespaces": NAMESPACES,
    "Privileges": PRIVILEGES,
    "Processes of others": PROCESSES,
    "Files of others": FILES,
    "Network": NETWORK,
    "Other jobs": NEIGHBOURS,
    "Cases of one job": CASES,
    "Packages of the operator": PACKAGES,
    "Information": INFORMATION,
    "The kernel": KERNEL,
    "Shared resources of the host": HOSTWIDE,
    "On a terminal": TERMINALS,
    "Processor and processes": USAGE,
    "Memory": MEMORY,
    "Disk, files and output": STORAGE,
    "Staying alive": LIFETIME,
    "Forging the verdict": VERDICTS,
    "What is left in the workspace": PLANTED,
    "The files that it leaves": ARTIFACTS,
    "In a session": SESSIONS,
    "While compiling": COMPILING,
}

ATTACKS: Final = tuple(attack for attacks in THEMES.values() for attack in attacks)
