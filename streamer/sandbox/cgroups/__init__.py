"""Bound a job's memory and number of processes by control groups, where there are any.

Plain file I/O on cgroupfs: cgroups(7), the kernel's cgroup-v2.rst and cgroup-v1/*.rst. Two
shapes are supported. Version 1: a root service makes groups below its own in the
hierarchies ``memory``, ``pids`` and ``cpuacct``. Version 2: the service's own group must be
delegated to it (a systemd unit or scope with ``Delegate=yes``) with memory and pids.

The process that starts a sandbox puts itself into the job's groups before it executes
anything (``streamer-init enter --cgroup``): so nothing of the job was ever outside.
"""

from streamer.sandbox.cgroups.cgroup import OVERHEAD_PROCESSES, Cgroup, Level
from streamer.sandbox.cgroups.tree import CgroupTree, cgroup_tree

__all__ = ["OVERHEAD_PROCESSES", "Cgroup", "CgroupTree", "Level", "cgroup_tree"]
