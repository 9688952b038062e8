"""Keep the groups of ended sandboxes for the next ones.

To make, watch and remove a group takes half a millisecond of CPU time, to take one back much less.
A sandbox never gets a group in which something is left of an earlier one: a process, more than
`MOST_LEFT_BYTES` of memory, or a peak that the kernel cannot reset. Such a group is removed, and
its slot makes another for the next sandbox.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from streamer.sandbox.cgroups.cgroup import Cgroup
from streamer.sandbox.cgroups.tree import CgroupTree

__all__ = ["GroupSlot", "GroupSlots"]


class GroupSlot:
    """One sandbox's group after another, or the same again: pair it with what else a slot keeps."""

    def __init__(self, tree: CgroupTree, uid: int | None = None) -> None:
        """`uid` is as in `CgroupTree.group`."""
        self._tree = tree
        self._uid = uid
        self._kept: Cgroup | None = None

    @asynccontextmanager
    async def lend(self, on_oom: Callable[[], None]) -> AsyncIterator[Cgroup]:
        """Lend the group to one sandbox; `on_oom` is called at its memory limit.

        At the end everything in it is killed, however long that takes: the caller must bound it.
        """
        group, self._kept = self._kept, None
        if group is not None and not group.renewed():
            await group.remove()
            group = None
        keep = False
        try:
            if group is None:
                # Random: other accounts see the names.
                group = self._tree.group(secrets.token_hex(8), self._uid)
                group.make()
            group.lent(on_oom)
            yield group
            keep = group.returned()
        finally:
            if keep:
                self._kept = group
            elif group is not None:
                await group.remove()

    async def remove(self) -> None:
        """Remove the group that it keeps."""
        group, self._kept = self._kept, None
        if group is not None:
            await group.remove()

    def close(self) -> None:
        """Close the files of the group that it keeps; the end of the tree removes it."""
        if self._kept is not None:
            self._kept.close()


class GroupSlots:
    """The slots of a service: one for each user of templates, and those of all other sandboxes.

    At most `most` of the others keep a group while they are free.
    """

    def __init__(self, tree: CgroupTree, most: int) -> None:
        self._tree = tree
        self._most = most
        self._free: deque[GroupSlot] = deque()
        self._of_users: dict[int, GroupSlot] = {}

    @asynccontextmanager
    async def lend(
        self, on_oom: Callable[[], None], uid: int | None = None
    ) -> AsyncIterator[Cgroup]:
        """Lend a group to one sandbox; see `GroupSlot.lend`.

        `uid` is its user, who has no other sandbox, if a template may make it.
        """
        if uid is not None and self._tree.by_user:
            if uid not in self._of_users:
                self._of_users[uid] = GroupSlot(self._tree, uid)
            async with self._of_users[uid].lend(on_oom) as group:
                yield group
            return
        # The one that has been free for longest: the kernel frees some memory only later.
        slot = self._free.popleft() if self._free else GroupSlot(self._tree)
        async with slot.lend(on_oom) as group:
            yield group
        if len(self._free) < self._most:
            self._free.append(slot)
        else:
            await slot.remove()

    def close(self) -> None:
        for slot in (*self._free, *self._of_users.values()):
            slot.close()
        self._free.clear()
        self._of_users.clear()
