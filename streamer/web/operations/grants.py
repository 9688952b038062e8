"""The operation that makes grants."""

from __future__ import annotations

from typing import Final

from streamer.web import answers, wire
from streamer.web.operations.operation import Body, Header, Operation, Reply

__all__ = ["CREATE"]

CREATE: Final = Operation(
    id="createGrant",
    method="POST",
    path="/api/jobs/{job_id}/grants",
    tag="jobs",
    text="Make a link with which anybody may read a job until it expires. With the grant as "
    "`?grant=` it opens the job's document, its stream, output and recording and, unless `files` "
    "is false, its files; nothing else, and no other job.",
    body=Body(
        "The grant.",
        json=wire._GrantRequest,  # noqa: SLF001 - as of jobs
        required=False,
        examples={"for ten minutes, without the files": {"expiresS": 600, "files": False}},
    ),
    replies=(
        Reply(
            201,
            "The grant.",
            json=answers.Grant,
            headers=(
                Header("Cache-Control", "Who has it may read the job.", {"const": "no-store"}),
            ),
        ),
    ),
    codes=("invalid_json",),
)
