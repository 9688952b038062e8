"""Named sets of values, so that nobody has to set twenty values to begin.

``sandbox.preset`` chooses one. It lies between the built-in defaults and the file, so each of
its values can still be changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["PRESETS"]

MIB: Final = 1024 * 1024

PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    # For untrusted callers: small limits, and no start where memory and processes are only polled.
    "strict": {
        "sandbox": {"require": ["memory:cgroup", "processes:cgroup"], "seccomp": "strict"},
        "limits": {
            "default": {
                "wall_time_s": 10.0,
                "cpu_time_s": 5.0,
                "memory_bytes": 128 * MIB,
                "processes": 32,
                "open_files": 64,
                "file_bytes": 16 * MIB,
                "disk_bytes": 32 * MIB,
                "output_bytes": MIB,
            },
            "max": {
                "wall_time_s": 30.0,
                "cpu_time_s": 20.0,
                "memory_bytes": 512 * MIB,
                "processes": 64,
                "open_files": 256,
                "file_bytes": 32 * MIB,
                "disk_bytes": 64 * MIB,
                "output_bytes": 8 * MIB,
                "stack_bytes": 512 * MIB,
            },
        },
    },
    # The built-in defaults.
    "balanced": {},
    # For your own programs on your own machine.
    "dev": {
        "sandbox": {"allow": ["firejail", "plain"], "allow_command": True, "kill_grace_s": 2.0},
        "limits": {
            "default": {"wall_time_s": 600.0, "cpu_time_s": 600.0, "memory_bytes": 2048 * MIB},
            "max": {
                "wall_time_s": 86400.0,
                "cpu_time_s": 86400.0,
                "memory_bytes": 16384 * MIB,
                "stack_bytes": 16384 * MIB,
            },
        },
    },
}
