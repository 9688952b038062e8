"""The six tools, on a service that is reached by its client."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal

import aiohttp

from streamer.bounded import ends_in
from streamer.client import Client, ServiceProblem
from streamer.errors import StreamerError, UnknownJob
from streamer.mcp import arguments
from streamer.mcp.answers import FileContent, FileList, FileWritten, Job, ListedFile
from streamer.mcp.excerpt import Excerpt
from streamer.mcp.following import Following, Progress
from streamer.mcp.problems import Refused
from streamer.mcp.workspaces import Caller, Ended, Workspaces

__all__ = ["Tools"]

STOP_S: Final = 10.0
INPUT_S: Final = 30.0
"""How long input may wait for a program that does not read."""
LARGEST_READ: Final = 16 * 1024 * 1024
MAX_LISTED: Final = 1000
MIB: Final = 1024 * 1024
Connect = Callable[[Caller], AbstractAsyncContextManager[Client]]


class Tools:
    """Do what is called for; each method raises what `streamer.mcp.problems.told` can tell."""

    def __init__(self, connect: Connect, workspaces: Workspaces) -> None:
        self._connect = connect
        self._workspaces = workspaces
        self._waiting: Counter[str] = Counter()
        self._abandoned: dict[str, asyncio.Task[None]] = {}
        self._claimable: set[str] = set()
        """Those of them that go on if somebody waits for them."""

    async def run(
        self, caller: Caller, given: arguments.Run, progress: Progress, grace_s: float
    ) -> Job:
        """Run a program. If this is cancelled it is stopped, unless waited for in `grace_s`."""
        if given.interactive and given.stdin is not None:
            raise Refused(
                "stdin and interactive exclude each other: leave stdin out and send it with "
                "wait(input=...), or leave interactive out"
            )
        if given.code is None and given.entry is None:
            raise Refused("give the program in code, or name a file of the workspace in entry")
        async with self._connect(caller) as client:
            job_id, again = await self._submitted(client, caller, given)
            following = Following(client, job_id, 0, Excerpt(given.max_chars, 0, paging=False))
            if again:
                following.notes.append(
                    f"workspace {given.workspace!r} had ended, so this is a new one without the "
                    "files of earlier calls"
                )
            until = given.until or ("output" if given.interactive else "end")
            try:
                await following.follow(given.wait_s, until, progress)
            except asyncio.CancelledError:
                self._abandon(caller, job_id, grace_s)
                raise
            return following.answer(given.workspace)

    @property
    def abandoned(self) -> int:
        """How many jobs will be stopped unless somebody waits for them."""
        return len(self._abandoned)

    async def _submitted(
        self, client: Client, caller: Caller, given: arguments.Run
    ) -> tuple[str, bool]:
        fields = _request(given)
        for last in (False, True):
            try:
                async with self._workspaces.opened(client, caller, given.workspace) as found:
                    session, again = found
                    # A call that is given up here leaves no job behind that nobody knows of.
                    submitting = asyncio.ensure_future(session.submit(**fields))
                    try:
                        return await asyncio.shield(submitting), again
                    except asyncio.CancelledError:
                        submitting.add_done_callback(
                            lambda done: self._abandon_submitted(caller, done)
                        )
                        await asyncio.wait({submitting}, timeout=1.0)
                        raise
            except Ended:
                # What is run with its code needs nothing of what is gone.
                if last or given.code is None:
                    raise
        raise AssertionError

    def _abandon_submitted(self, caller: Caller, done: asyncio.Future[str]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._abandon(caller, done.result(), 0.0)

    def _abandon(self, caller: Caller, job_id: str, grace_s: float) -> None:
        async def stop() -> None:
            try:
                await asyncio.sleep(grace_s)
                self._claimable.discard(job_id)
                if grace_s and self._waiting[job_id]:
                    return
                async with self._connect(caller) as client:
                    with contextlib.suppress(StreamerError, aiohttp.ClientError, TimeoutError):
                        await ends_in(STOP_S, client.cancel(job_id))
            finally:
                self._claimable.discard(job_id)
                self._abandoned.pop(job_id, None)

        if grace_s:
            self._claimable.add(job_id)
        self._abandoned[job_id] = asyncio.ensure_future(stop())

    async def wait(self, caller: Caller, given: arguments.Wait, progress: Progress) -> Job:
        """Wait for a job; other calls, of this or of another client, may wait for it too."""
        job_id, after = given.job_id, given.after or 0
        waits = given.input is not None or given.close_input
        async with self._connect(caller) as client:
            with _known(job_id):
                if after or waits:
                    document = await client.job(job_id)  # what is unknown is told before the input
                    if waits:
                        _check_takes_input(document)
            if job_id in self._claimable:
                self._abandoned[job_id].cancel()
            self._waiting[job_id] += 1
            try:
                if waits:
                    await self._send(client, given)
                paging = given.after is not None
                excerpt = Excerpt(given.max_chars, after, paging=paging)
                following = Following(client, job_id, after, excerpt)
                with _known(job_id):
                    until = given.until or ("output" if waits else "end")
                    await following.follow(given.wait_s, until, progress)
                return following.answer()
            finally:
                self._waiting[job_id] -= 1
                if not self._waiting[job_id]:
                    del self._waiting[job_id]

    async def _send(self, client: Client, given: arguments.Wait) -> None:
        data = b"" if given.input is None else given.input.encode()
        sending = client.write(given.job_id, data, close=given.close_input)
        try:
            if not await ends_in(INPUT_S, sending):
                raise Refused(
                    "the program does not read its input: see what it does with wait, or stop it"
                )
        except ServiceProblem as problem:
            if problem.status != 409:
                raise
            raise Refused(
                f"{problem.message}: look at its end with wait without input; a program that is "
                "to read several times must be run with interactive"
            ) from problem

    async def stop(self, caller: Caller, given: arguments.Stop, progress: Progress) -> Job:
        """Stop a job and return its verdict."""
        job_id = given.job_id
        async with self._connect(caller) as client:
            with _known(job_id):
                was_over = (await client.job(job_id)).get("result") is not None
                await client.cancel(job_id)
                excerpt = Excerpt(arguments.DEFAULT_CHARS, 0, paging=False)
                following = Following(client, job_id, 0, excerpt)
                await following.follow(STOP_S, "end", progress)
            if was_over:
                following.notes.append("it was over before")
            return following.answer()

    async def read_file(self, caller: Caller, given: arguments.ReadFile) -> FileContent:
        """Return a part of a file."""
        async with (
            self._connect(caller) as client,
            self._workspaces.opened(client, caller, given.workspace) as (session, _),
        ):
            listed = {file["name"]: file for file in await session.files()}
            file = listed.get(given.path.removeprefix("./"))
            if file is not None and file.get("kind") == "folder":
                raise Refused(f"{given.path!r} is a folder: list_files shows what is in it")
            if file is not None and (file.get("bytes") or 0) > LARGEST_READ:
                raise Refused(
                    f"{given.path!r} has {file['bytes']} bytes, too many to read here: run a "
                    "program that prints the part that you need"
                )
            try:
                whole = await session.read(given.path.removeprefix("./"))
            except ServiceProblem as problem:
                if problem.status != 404 or file is not None:
                    raise
                raise Refused(
                    f"there is no file {given.path!r} in workspace {given.workspace!r}: list_files "
                    "shows which there are"
                ) from problem
        if given.offset > len(whole):
            raise Refused(f"{given.path!r} has only {len(whole)} bytes: use a smaller offset")
        return _part(given, whole)

    async def write_file(self, caller: Caller, given: arguments.WriteFile) -> FileWritten:
        """Write a file."""
        content = given.content.encode()
        if given.encoding == "base64":
            try:
                content = base64.b64decode(given.content, validate=True)
            except (binascii.Error, ValueError):
                raise Refused("content is not base64: encode it, or leave encoding out") from None
        async with (
            self._connect(caller) as client,
            self._workspaces.opened(client, caller, given.workspace) as (session, _),
        ):
            mode = 0o755 if given.executable else 0o644
            await session.write(given.path.removeprefix("./"), content, mode=mode)
        return FileWritten(path=given.path, bytes=len(content), workspace=given.workspace)

    async def list_files(self, caller: Caller, given: arguments.ListFiles) -> FileList:
        """List the files of a workspace."""
        async with (
            self._connect(caller) as client,
            self._workspaces.opened(client, caller, given.workspace) as (session, _),
        ):
            found = await session.files()
        files = [
            ListedFile(path=file["name"], kind=str(file.get("kind")), bytes=file.get("bytes"))
            for file in found[:MAX_LISTED]
        ]
        omitted = max(0, len(found) - MAX_LISTED)
        return FileList(workspace=given.workspace, files=files, omitted=omitted)

    async def languages(self, caller: Caller) -> list[str]:
        """Return the languages that can be used now."""
        async with self._connect(caller) as client:
            return [one["name"] for one in await client.runtimes() if one.get("available")]

    async def close(self) -> None:
        """End all that was begun for callers."""
        tasks = list(self._abandoned.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._workspaces.end_all()


def _request(given: arguments.Run) -> dict[str, Any]:
    limits: dict[str, float | int] = {}
    if given.timeout_s is not None:
        limits["wallTimeS"] = given.timeout_s
    if given.memory_mib is not None:
        limits["memoryBytes"] = given.memory_mib * MIB
    fields: dict[str, Any] = {
        "language": given.language,
        "code": given.code,
        "entry": given.entry,
        "args": given.args,
        "env": given.env,
        "stdin": given.stdin,
        "interactive": given.interactive,
        "limits": limits,
    }
    return {name: value for name, value in fields.items() if value not in (None, [], {}, False)}


def _check_takes_input(document: Mapping[str, Any]) -> None:
    if document.get("result") is not None:
        raise Refused(
            "the program has ended and takes no input: call wait without input for its output and "
            "verdict"
        )


@contextlib.contextmanager
def _known(job_id: str) -> Iterator[None]:
    try:
        yield
    except UnknownJob:
        raise Refused(
            f"there is no job {job_id!r}: use a job_id that run has returned; results are kept for "
            "a limited time, so it may have to be run again"
        ) from None


def _part(given: arguments.ReadFile, whole: bytes) -> FileContent:
    part = whole[given.offset : given.offset + given.max_bytes]
    encoding: Literal["utf-8", "base64"] = "utf-8"
    try:
        content = part.decode()
    except UnicodeDecodeError as error:
        # A character that is cut at the end comes with the next part.
        if error.end == len(part) and error.reason == "unexpected end of data" and error.start:
            part = part[: error.start]
            content = part.decode()
        else:
            encoding, content = "base64", base64.b64encode(part).decode()
    after = given.offset + len(part)
    return FileContent(
        path=given.path,
        content=content,
        encoding=encoding,
        offset=given.offset,
        bytes=len(part),
        total_bytes=len(whole),
        next_offset=after if after < len(whole) else None,
    )
