"""Limit memory and the number of processes with control groups, if there are any.

Plain file I/O on cgroupfs: see cgroups(7), the kernel's cgroup-v2.rst and cgroup-v1/*.rst. Both
versions are supported. Version 1: a root service creates groups below its own in the hierarchies
``memory``, ``pids`` and ``cpuacct``. Version 2: the service's own group must be delegated to it (a
systemd unit or scope with ``Delegate=yes``) with memory and pids.

The process that starts a sandbox is in the sandbox's groups before it executes anything
(``streamer-init enter``), so no process of a job was ever outside. The groups of an ended sandbox
are kept for a later one, if nothing is left in them (`slots`).
"""
