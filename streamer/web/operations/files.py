"""The operations on the files that jobs leave."""

from __future__ import annotations

from typing import Final

from streamer.web import answers
from streamer.web.operations.operation import Header, Operation, Parameter, Reply
from streamer.web.operations.shared import FLAG, RANGE, SAFE, TEXT
from streamer.web.previews import PREVIEWS

__all__ = ["LIST", "READ"]

ETAG: Final = Header("ETag", "The SHA-256 of the file, in quotes.", TEXT)
KEPT: Final = Header(
    "Cache-Control", "Only for the caller, who asks whether it is still there.", TEXT
)

LIST: Final = Operation(
    id="listFiles",
    method="GET",
    path="/api/jobs/{job_id}/files",
    name="streamer-files",
    tag="files",
    text="List the files that a job has left, of those that it asked for in `artifacts`; none "
    "before it is over. With `archive` the answer is all of them in one file.",
    parameters=(
        Parameter("archive", "The format of an archive of all files.", {**TEXT, "enum": ["zip"]}),
    ),
    replies=(
        Reply(
            200,
            "The files, or with `archive` the archive: a body that breaks off is incomplete.",
            json=answers.Files,
            media=("application/zip",),
            headers=tuple(
                Header(one.name, one.text, one.schema, always=False)
                for one in (*SAFE, Header("Cache-Control", "It is not kept.", TEXT))
            ),
        ),
    ),
)

READ: Final = Operation(
    id="readFile",
    method="GET",
    path="/api/jobs/{job_id}/files/{path}",
    name="streamer-file",
    tag="files",
    text="Download a file that a job has left, or a part of it. A body that breaks off is "
    "incomplete, and can be continued with `Range`.",
    parameters=(
        Parameter(
            "inline",
            "Whether a browser may show the file. It has a type only if it is one of "
            f"{', '.join(PREVIEWS)}, by its first bytes; any other is a download all the same.",
            FLAG,
        ),
        RANGE,
        Parameter(
            "If-Range",
            "The `ETag` of the file that the client has a part of; another is sent as a whole.",
            TEXT,
            place="header",
        ),
        Parameter(
            "If-None-Match", "The `ETag` of the file that the client has.", TEXT, place="header"
        ),
    ),
    replies=(
        Reply(
            200,
            "The file.",
            media=("application/octet-stream", *PREVIEWS),
            headers=(
                *SAFE,
                ETAG,
                KEPT,
                Header("Accept-Ranges", "Parts of it can be asked for.", {"const": "bytes"}),
            ),
        ),
        Reply(
            206,
            "The part of it.",
            media=("application/octet-stream", *PREVIEWS),
            headers=(
                *SAFE,
                ETAG,
                KEPT,
                Header("Content-Range", "Which part it is, and the size of the file.", TEXT),
            ),
        ),
        Reply(304, "The client has it.", headers=(ETAG, KEPT)),
    ),
    codes=("range_not_satisfiable", "gone"),
)
