"""A session as plain frozen values: what a caller asks for, what a worker opens, what it is asked.

A session is a sandbox that stays open: the jobs that name it run in it one after another, and its
workspace can be read and written between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from streamer.model.job import JobProject, Limits
from streamer.model.ranges import ByteRange

__all__ = [
    "ANY_VERSION",
    "Done",
    "EndReason",
    "Known",
    "ListFiles",
    "Listed",
    "ListedFile",
    "Open",
    "ReadFile",
    "Refusal",
    "Refused",
    "RemoveFile",
    "ResolvedSession",
    "SessionAnswer",
    "SessionRequest",
    "SessionSpec",
    "Stored",
    "WriteFile",
]

EndReason = Literal[
    "deleted",
    "idle",
    "total_time",
    "cpu_time",
    "memory",
    "disk",
    "sandbox_error",
    "worker_lost",
    "shutting_down",
]
"""Why a session has ended."""


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """A session as the caller asks for it; what is left out is as the configuration says.

    `limits` are the most that each of its jobs may use; they are given as those of a `JobSpec`.
    `project_id` is laid out in the workspace at the start. `environment` is that of all of its jobs
    in a language that it is for; `languages` are those that its jobs may be in, by default those of
    the worker that has the most. With `keep_processes` what a job leaves running goes on until the
    session's end. It ends after `idle_s` seconds without a job or a request.
    """

    sandbox: str | None = None
    limits: Mapping[str, float | str] = field(default_factory=dict)
    network: bool = False
    project_id: str | None = None
    environment: str | None = None
    keep_processes: bool = False
    idle_s: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    languages: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ResolvedSession:
    """A session that was accepted: everything about its sandbox is decided.

    `network`, `allow_hosts`, `read_only` (with the folder of its `environment`), `etc` and
    `tmp_bytes` are those of a `ResolvedJob`, for all its jobs, which are in one of its `languages`,
    or commands.
    """

    session_id: str
    tenant: str
    backend: str
    limits: Limits
    idle_s: float
    total_s: float
    network: bool = False
    allow_hosts: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    etc: tuple[str, ...] = ()
    tmp_bytes: int | None = None
    terminal: bool = False
    project: JobProject | None = None
    environment: str | None = None
    languages: tuple[str, ...] = ()
    keep_processes: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)


class Open(msgspec.Struct, frozen=True, tag=True):
    """Answered once the sandbox is open, and the project is in it; refused if that does not fit."""


class ListFiles(msgspec.Struct, frozen=True, tag=True):
    """Tell what is in the workspace."""


ANY_VERSION: Final = -1


class ReadFile(msgspec.Struct, frozen=True, tag=True):
    """Store a file, or a part of it, as a blob.

    In the version `known` of the workspace, which may be `ANY_VERSION`, nothing is stored; and in
    another than `part_of` all of the file is.
    """

    name: str
    part: ByteRange | None = None
    part_of: int | None = None
    known: int | None = None


class WriteFile(msgspec.Struct, frozen=True, tag=True):
    """Write a file whose content is a blob; missing folders are made."""

    name: str
    mode: int
    blob_id: str


class RemoveFile(msgspec.Struct, frozen=True, tag=True):
    """Remove a file, or an empty folder."""

    name: str


SessionRequest = Open | ListFiles | ReadFile | WriteFile | RemoveFile


class Done(msgspec.Struct, frozen=True, tag=True):
    """It is done."""


class ListedFile(msgspec.Struct, frozen=True):
    """A file, folder, or something else in the workspace."""

    name: str
    kind: Literal["file", "folder", "link", "other"]
    bytes: int


class Listed(msgspec.Struct, frozen=True, tag=True):
    """What is in the workspace; it is not `complete` if there is more than is listed."""

    files: tuple[ListedFile, ...]
    complete: bool


class Stored(msgspec.Struct, frozen=True, tag=True):
    """A file, or a part of it, as a blob, which the reader deletes.

    It has `bytes` from `start` on, of `total`, in a `version` of the workspace: as long as that is
    the same, so is every file.
    """

    blob_id: str
    start: int
    bytes: int
    total: int
    version: int
    is_part: bool


class Known(msgspec.Struct, frozen=True, tag=True):
    """The file is there, in the version that the reader knows."""

    version: int


Refusal = Literal[
    "not_found", "conflict", "too_large", "range", "limited", "full", "away", "failed"
]


class Refused(msgspec.Struct, frozen=True, tag=True):
    """It was not done; `message` is for the caller. For a ``range`` `total` is the file's size."""

    kind: Refusal
    message: str
    total: int = 0


SessionAnswer = Done | Listed | Stored | Known | Refused
