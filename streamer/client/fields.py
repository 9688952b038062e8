"""The fields of requests, as keyword arguments that a type checker knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from streamer.model.job import Case, SourceFile, TerminalSize
from streamer.model.webhook import Webhook

__all__ = ["JobFields", "SessionFields"]

Given = Mapping[str, Any]
"""What is given by its names in JSON, as a file or a case can be."""


class JobFields(TypedDict, total=False):
    """The fields of a job: those of ``POST /api/execute``, by their names there or in `JobSpec`."""

    language: str | None
    command: Sequence[str]
    code: str | None
    files: Sequence[SourceFile | Given]
    project_id: str | None
    projectId: str | None
    session_id: str | None
    sessionId: str | None
    entry: str | None
    args: Sequence[str]
    env: Mapping[str, str]
    stdin: bytes | str | None
    interactive: bool
    terminal: TerminalSize | Given | None
    limits: Mapping[str, float | str]
    network: bool
    sandbox: str | None
    environment: str | None
    artifacts: Sequence[str]
    output_encoding: Literal["utf-8", "base64"]
    outputEncoding: Literal["utf-8", "base64"]
    metadata: Mapping[str, str]
    cases: Sequence[Case | Given]
    stop_on_failure: bool
    stopOnFailure: bool
    priority: int
    retry: int
    webhook: Webhook | Given | None


class SessionFields(TypedDict, total=False):
    """The fields of a session: those of ``POST /api/sessions``, or of `SessionSpec`."""

    sandbox: str | None
    limits: Mapping[str, float | str]
    network: bool
    project_id: str | None
    projectId: str | None
    environment: str | None
    languages: Sequence[str]
    keep_processes: bool
    keepProcesses: bool
    idle_s: float | None
    idleS: float | None
    metadata: Mapping[str, str]
