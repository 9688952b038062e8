"""The operations that open, show, list and end sessions, and read and write their workspaces."""

from __future__ import annotations

from typing import Final

from streamer.web import sessionanswers as answers
from streamer.web import wire
from streamer.web.operations.operation import Body, Header, Operation, Parameter, Reply
from streamer.web.operations.shared import RANGE, SAFE, TEXT

__all__ = ["END", "FILES", "LIST", "OPEN", "READ", "REMOVE", "SHOW", "WRITE"]

FILE: Final = "/api/sessions/{session_id}/files/{path}"

KEPT: Final = (
    Header("ETag", "The version of the workspace, in quotes: every job changes it.", TEXT),
    Header("Cache-Control", "Only for the caller, who asks whether it has changed.", TEXT),
    Header("Accept-Ranges", "Parts of it can be asked for.", {"const": "bytes"}),
)
READ_NOW: Final = (*SAFE, *KEPT)

OPEN: Final = Operation(
    id="openSession",
    method="POST",
    path="/api/sessions",
    tag="sessions",
    text="Open a session. The answer comes once its sandbox is there. Jobs that name it in "
    "`sessionId` run in its workspace one after another, and find what the earlier ones have left.",
    body=Body(
        "The session.",
        json=wire._SessionRequest,  # noqa: SLF001 - as of jobs
        required=False,
        examples={"a small one": {"limits": {"diskBytes": "32MiB"}, "idleS": 60}},
    ),
    replies=(
        Reply(
            201,
            "The session is open.",
            json=answers.Session,
            headers=(Header("Location", "The address of the session's document.", TEXT),),
            links=("showSession", "listSessionFiles", "endSession"),
        ),
    ),
    codes=(
        *(
            "invalid_json",
            "unknown_language",
            "unknown_project",
            "queue_full",
            "sandbox_unavailable",
        ),
        "shutting_down",
    ),
)

LIST: Final = Operation(
    id="listSessions",
    method="GET",
    path="/api/sessions",
    tag="sessions",
    text="List your sessions, the newest first.",
    replies=(Reply(200, "The sessions.", json=answers.SessionList),),
)

SHOW: Final = Operation(
    id="showSession",
    method="GET",
    path="/api/sessions/{session_id}",
    name="streamer-session",
    tag="sessions",
    text="Show a session.",
    replies=(Reply(200, "The session.", json=answers.Session),),
    codes=("gone",),
)

END: Final = Operation(
    id="endSession",
    method="DELETE",
    path="/api/sessions/{session_id}",
    tag="sessions",
    text="End a session, and all that runs in it. Its files are gone.",
    replies=(Reply(204, "It has ended."),),
    codes=("gone",),
)

FILES: Final = Operation(
    id="listSessionFiles",
    method="GET",
    path="/api/sessions/{session_id}/files",
    name="streamer-session-files",
    tag="sessions",
    text="List the workspace of a session, while no job of it runs.",
    replies=(Reply(200, "What is in it.", json=answers.SessionFiles),),
    codes=("conflict", "gone"),
)

READ: Final = Operation(
    id="readSessionFile",
    method="GET",
    path=FILE,
    tag="sessions",
    text="Read a file of a session, while no job of it runs. No link is followed.",
    parameters=(
        RANGE,
        Parameter(
            "If-Range",
            "The `ETag` that came with the part that the client has; if it is another now, all of "
            "the file is sent.",
            TEXT,
            place="header",
        ),
        Parameter(
            "If-None-Match",
            "The `ETag` that came with the file that the client has.",
            TEXT,
            place="header",
        ),
    ),
    replies=(
        Reply(200, "The file.", media=("application/octet-stream",), headers=READ_NOW),
        Reply(
            206,
            "The part.",
            media=("application/octet-stream",),
            headers=(
                *READ_NOW,
                Header("Content-Range", "Which part it is, and the size of the file.", TEXT),
            ),
        ),
        Reply(304, "The client has it.", headers=KEPT),
    ),
    codes=(
        *("conflict", "gone", "payload_too_large", "range_not_satisfiable"),
        "storage_full",
    ),
)

WRITE: Final = Operation(
    id="writeSessionFile",
    method="PUT",
    path=FILE,
    tag="sessions",
    text="Write a file of a session, while no job of it runs. The body is its content; folders in "
    "its name are made.",
    parameters=(
        Parameter(
            "mode",
            "Its permission bits, three octal digits.",
            {**TEXT, "pattern": f"^{wire.MODE.pattern}$", "default": "644"},
        ),
    ),
    body=Body("The content.", required=False),
    replies=(Reply(200, "It is written.", json=answers.SessionFile),),
    codes=("conflict", "gone", "storage_full"),
)

REMOVE: Final = Operation(
    id="removeSessionFile",
    method="DELETE",
    path=FILE,
    tag="sessions",
    text="Remove a file, a link or an empty folder of a session, while no job of it runs.",
    replies=(Reply(204, "It is removed."),),
    codes=("conflict", "gone"),
)
