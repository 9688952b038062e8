"""The effect of an init's answers on its job."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from streamer.errors import SandboxFailure
from streamer.model.job import Limits, SourceFile
from streamer.sandbox.drivers import protocol
from streamer.sandbox.drivers.channel import InitChannel
from streamer.sandbox.drivers.protocol import WALK_DISK
from streamer.sandbox.shape import FilesDoNotFit, PathRefused
from streamer.sandbox.stdio import Stdio
from tests.running import descriptors


@pytest.mark.parametrize(
    ("number", "walk_disk", "fault"),
    [
        (0, True, None),
        (errno.EDQUOT, True, FilesDoNotFit),
        (errno.EDQUOT, False, FilesDoNotFit),
        (errno.ENOSPC, False, FilesDoNotFit),  # a mount of its own
        (errno.ENOSPC, True, SandboxFailure),  # the host's disk
        (errno.EIO, False, SandboxFailure),
        (errno.ELOOP, False, PathRefused),
        (errno.ENOENT, False, PathRefused),  # a process has just removed its folder
        (errno.ETXTBSY, False, PathRefused),  # a program that runs
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
            words = None if fault is FilesDoNotFit else os.strerror(number)
            with pytest.raises(fault, match=words) as told:
                await channel.put_files((), Limits(), walk_disk=walk_disk)
            assert told.type is fault
    channel.close()


async def test_a_question_that_was_given_up_unsent_waits_for_no_answer(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    channel = InitChannel(ours)
    loop = asyncio.get_running_loop()
    with theirs, (tmp_path / "f").open("wb") as file:
        sending = asyncio.create_task(channel.put_filter(bytes(4 << 20)))  # fills the socket
        unsent = asyncio.create_task(channel.open_path("a", os.O_RDONLY, 0))
        await asyncio.sleep(0)
        unsent.cancel()
        await asyncio.wait({unsent})
        asking = asyncio.create_task(channel.open_path("b", os.O_RDONLY, 0))
        taken = b""
        while not taken.endswith(b"b\0"):
            taken += await loop.sock_recv(theirs, 1 << 20)
        await sending
        assert taken.count(b"O") == 1
        socket.send_fds(theirs, [struct.pack("<IcI", 5, b"O", 0)], [file.fileno()])
        fd = await asyncio.wait_for(asking, 20)
        assert os.path.sameopenfile(fd, file.fileno())
        os.close(fd)
    channel.close()


async def test_after_a_frame_that_was_cut_short_none_is_sent() -> None:
    ours, theirs = socket.socketpair()
    channel = InitChannel(ours)
    with theirs:
        cut = asyncio.create_task(channel.put_filter(bytes(4 << 20)))
        await asyncio.sleep(0)
        cut.cancel()
        await asyncio.wait({cut})
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while theirs.recv(1 << 20):
                pass  # there is room again
        assert not channel.kill()
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
        with pytest.raises(SandboxFailure, match="did not accept an earlier frame"):
            await channel.open_path("a", os.O_RDONLY, 0)
    channel.close()


async def test_a_descriptor_for_one_that_has_just_given_up_is_closed(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    channel = InitChannel(ours)
    before = descriptors()
    with theirs, (tmp_path / "f").open("wb") as file:
        asking = asyncio.create_task(channel.open_path("f", os.O_RDONLY, 0))
        await asyncio.get_running_loop().run_in_executor(None, theirs.recv, 100)
        socket.send_fds(theirs, [struct.pack("<IcI", 5, b"O", 0)], [file.fileno()])
        channel._receive()  # in the same turn of the loop
        asking.cancel()
        await asyncio.wait({asking})
    channel.close()
    assert asking.cancelled()
    assert len(descriptors()) == len(before) - 2


async def test_a_program_is_started_only_between_other_frames() -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    channel = InitChannel(ours)
    loop = asyncio.get_running_loop()
    stdio = Stdio.null()
    with theirs:
        sending = asyncio.create_task(channel.put_filter(bytes(4 << 20)))  # fills the socket
        await asyncio.sleep(0)
        starting = asyncio.create_task(
            channel.start(
                ("true",),
                env={},
                cwd="/",
                limits=Limits(),
                stdio=stdio.theirs,
                flags=WALK_DISK,
            )
        )
        kinds, taken = b"", b""
        while not kinds.endswith(b"R"):
            taken += await asyncio.wait_for(loop.sock_recv(theirs, 1 << 20), 20)
            size = int.from_bytes(taken[:4], "little")
            while len(taken) >= 4 + size > 4:
                kinds += taken[4:5]
                taken = taken[4 + size :]
                size = int.from_bytes(taken[:4], "little")
        assert kinds == b"BDR"
        await asyncio.gather(sending, starting)
    stdio.close()
    channel.close()


async def test_files_wait_for_their_own_answer() -> None:
    ours, theirs = socket.socketpair()
    channel = InitChannel(ours)
    with theirs:
        first, second = (
            asyncio.create_task(channel.put_files((), Limits(), walk_disk=True)) for _ in range(2)
        )
        await asyncio.sleep(0)
        first.cancel()
        theirs.send(struct.pack("<IcI", 5, b"C", errno.EIO))  # the answer to the cancelled request
        theirs.send(struct.pack("<IcI", 5, b"C", 0))
        await asyncio.wait_for(second, 20)
    channel.close()


async def test_no_program_is_started_by_an_init_that_has_failed() -> None:
    ours, theirs = socket.socketpair()
    channel = InitChannel(ours)
    stdio = Stdio.null()
    with theirs:
        theirs.send(struct.pack("<IccIQQQQ", 38, b"X", b"-", 0, 0, 0, 0, 0))
        await channel.ended
        assert channel.exited.done()
        theirs.send(struct.pack("<IccI", 6, b"E", b"p", errno.EPROTO))
        await asyncio.wait_for(channel.gone.wait(), 20)
        with pytest.raises(SandboxFailure, match="follow the protocol"):
            await asyncio.wait_for(channel.use(walk_disk=True), 20)
        for _ in range(2):
            with pytest.raises(SandboxFailure, match="follow the protocol"):
                await channel.start(
                    ("true",),
                    env={},
                    cwd="/",
                    limits=Limits(),
                    stdio=stdio.theirs,
                    flags=WALK_DISK,
                )
            theirs.close()
            for _ in range(3):  # it hears of that
                await asyncio.sleep(0)
    stdio.close()
    channel.close()


async def test_what_is_being_sent_fails_when_the_channel_is_closed() -> None:
    ours, theirs = socket.socketpair()
    channel = InitChannel(ours)
    with theirs:
        sending = asyncio.create_task(channel.put_filter(bytes(4 << 20)))  # fills the socket
        await asyncio.sleep(0)
        channel.close()
        with pytest.raises(SandboxFailure, match="the channel was closed"):
            await asyncio.wait_for(sending, 20)


async def test_small_frames_are_sent_with_the_next_question() -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    channel = InitChannel(ours)
    with theirs:
        await channel.put_filter(b"filter")
        await channel.watch_mounts(["/tmp"])
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
        files = [SourceFile("a", b"1"), SourceFile("b", b"2")]
        writing = asyncio.create_task(channel.put_files(files, Limits(), walk_disk=True))
        await asyncio.sleep(0)
        kinds = [kind for kind, _ in protocol.Frames().feed(theirs.recv(1 << 16))]
        assert kinds == [b"B", b"M", b"Q", b"F", b"F", b"C"]
        theirs.send(struct.pack("<IcI", 5, b"C", 0))
        await asyncio.wait_for(writing, 20)
    channel.close()


async def test_more_than_is_held_back_is_sent_in_order() -> None:
    ours, theirs = socket.socketpair()
    channel = InitChannel(ours)
    loop = asyncio.get_running_loop()
    theirs.setblocking(False)
    with theirs:
        await channel.put_filter(b"filter")
        files = [SourceFile(str(number), bytes(100_000)) for number in range(5)]
        writing = asyncio.create_task(channel.put_files(files, Limits(), walk_disk=True))
        frames = protocol.Frames()
        found: list[tuple[bytes, bytes]] = []
        while not found or found[-1][0] != b"C":
            found += frames.feed(await asyncio.wait_for(loop.sock_recv(theirs, 1 << 20), 20))
        assert b"".join(kind for kind, _ in found) == b"BQFFFFFC"
        theirs.send(struct.pack("<IcI", 5, b"C", 0))
        await asyncio.wait_for(writing, 20)
    channel.close()


@pytest.mark.parametrize("size", [0, 1025, 2**32 - 1])
async def test_what_sends_an_impossible_frame_is_heard_no_more(size: int) -> None:
    """As text of a wrapper, whose first letters are a length of a gigabyte."""
    ours, theirs = socket.socketpair()
    channel = InitChannel(ours)
    with theirs:
        theirs.send(size.to_bytes(4, "little") + b"x" * 1000)
        async with asyncio.timeout(20):
            with pytest.raises(SandboxFailure, match="not the init"):
                await channel.greeted
            theirs.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    theirs.send(bytes(65536))  # until the socket is full
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            with pytest.raises(BlockingIOError):
                theirs.send(bytes(65536))
    channel.close()


async def test_descriptors_that_nobody_asked_for_are_not_kept(tmp_path: Path) -> None:
    before = descriptors()
    ours, theirs = socket.socketpair()
    channel = InitChannel(ours)
    with theirs, (tmp_path / "f").open("wb") as file:
        asking = asyncio.create_task(channel.open_path("f", os.O_RDONLY, 0))
        await asyncio.sleep(0)
        for _ in range(10):
            socket.send_fds(theirs, [b"\5"], [file.fileno()])
        async with asyncio.timeout(20):
            with pytest.raises(SandboxFailure, match="without a question"):
                await asking
        await asyncio.sleep(0)
        assert len(descriptors()) <= len(before) + 5  # both sockets, the file, its answer, one more
    channel.close()
    assert descriptors() == before


ASK: dict[str, Callable[[InitChannel], Awaitable[object]]] = {
    "files": lambda channel: channel.put_files((), Limits(), walk_disk=True),
    "listen": lambda channel: channel.listen(7777),
    "open": lambda channel: channel.open_path("f", os.O_RDONLY, 0),
    "use": lambda channel: channel.use(walk_disk=True),
}


@pytest.mark.parametrize("question", ASK)
async def test_an_init_that_ends_leaves_no_question_open(question: str) -> None:
    ours, theirs = socket.socketpair()
    channel = InitChannel(ours)
    with theirs:
        asking = asyncio.ensure_future(ASK[question](channel))
        await asyncio.sleep(0)
    with pytest.raises(SandboxFailure, match="the init ended"):
        await asyncio.wait_for(asking, 20)
    channel.close()


@pytest.mark.parametrize("question", ASK)
async def test_the_last_words_of_an_init_are_told_to_those_who_ask_too_late(question: str) -> None:
    ours, theirs = socket.socketpair()
    channel = InitChannel(ours)
    with theirs:
        theirs.send(struct.pack("<IccI", 6, b"E", b"b", errno.EPERM))
    with pytest.raises(SandboxFailure, match="system call filter"):
        await ASK[question](channel)
    channel.close()
