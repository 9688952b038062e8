"""What an init's answers mean for its job."""

from __future__ import annotations

import errno
import os
import socket
import struct

import pytest

from streamer.errors import SandboxFailure
from streamer.model.job import Limits
from streamer.sandbox.drivers.channel import InitChannel
from streamer.sandbox.shape import FilesDoNotFit


@pytest.mark.parametrize(
    ("number", "walk_disk", "fault"),
    [
        (0, True, None),
        (errno.EDQUOT, True, FilesDoNotFit),
        (errno.EDQUOT, False, FilesDoNotFit),
        (errno.ENOSPC, False, FilesDoNotFit),  # a mount of its own
        (errno.ENOSPC, True, SandboxFailure),  # the host's disk
        (errno.EIO, False, SandboxFailure),
    ],
)
async def test_a_disk_of_the_hosts_that_is_full_is_not_the_jobs_fault(
    number: int, fault: type[Exception] | None, *, walk_disk: bool
) -> None:
    ours, theirs = socket.socketpair()
    channel = InitChannel(ours)
    with theirs:
        theirs.send(struct.pack("<IcI", 5, b"C", number))
        if fault is None:
            await channel.put_files((), Limits(), walk_disk=walk_disk)
        else:
            words = os.strerror(number) if fault is SandboxFailure else None
            with pytest.raises(fault, match=words):
                await channel.put_files((), Limits(), walk_disk=walk_disk)
    channel.close()
