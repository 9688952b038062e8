"""The JSON documents about sessions: see `streamer.web.answers`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from streamer.web.answers import Answer

__all__ = [
    "Session",
    "SessionEntry",
    "SessionFile",
    "SessionFiles",
    "SessionLinks",
    "SessionList",
]


class SessionLinks(Answer):
    """The addresses of what can be asked of a session, with the prefix of the service."""

    session: str
    """The session's document."""
    files: str
    """Its files; with a slash and a name at the end one of them."""


class Session(Answer):
    """A session: a workspace that lasts over several jobs."""

    session_id: str
    """What a job names in ``sessionId``."""
    status: Literal["opening", "idle", "running"]
    """Whether a job of it runs."""
    sandbox: str
    """The backend of its sandbox."""
    environment: str | None
    """The packages of the operator's that its jobs have; null if none were asked for."""
    languages: Sequence[str]
    """Those that its jobs may be in."""
    keep_processes: bool
    """Whether what a job leaves running goes on."""
    network: bool
    """Whether its jobs have the network."""
    limits: Mapping[str, float]
    """The most that each of its jobs may use."""
    idle_s: float
    """After so many seconds without a job or a request it ends."""
    metadata: Mapping[str, str]
    """What it was opened with."""
    created_at: str
    """When it was opened: ISO 8601, UTC, to the millisecond."""
    expires_at: str
    """When it ends if it is not used before; at the latest when its total time is up."""
    links: SessionLinks


class SessionList(Answer):
    """The caller's sessions, the newest first."""

    sessions: Sequence[Session]


class SessionFile(Answer):
    """A file of a session."""

    name: str
    """Its path in the workspace."""
    bytes: int
    """Its size."""


class SessionEntry(Answer):
    """Something in the workspace of a session."""

    name: str
    """Its path in the workspace."""
    kind: Literal["file", "folder", "link", "other"]
    """Only files can be read; a link is never followed."""
    bytes: int
    """The size of a file."""


class SessionFiles(Answer):
    """What is in the workspace of a session."""

    files: Sequence[SessionEntry]
    """Folders come before what is in them."""
    complete: bool
    """Whether this is all: there may be more than is listed, and names that are not UTF-8."""
