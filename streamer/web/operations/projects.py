"""The operations that upload, show and delete projects."""

from __future__ import annotations

from typing import Final

from streamer.web import answers
from streamer.web.operations.operation import Body, Operation, Reply
from streamer.web.operations.shared import BYTES, LOCATION

__all__ = ["DELETE", "SHOW", "UPLOAD"]

FORM: Final = {
    "type": "object",
    "properties": {
        "files": {
            "type": "array",
            "items": BYTES,
            "minItems": 1,
            "description": "The files. Their parts may have any other name, too.",
        }
    },
    "additionalProperties": BYTES,
    "minProperties": 1,
}

UPLOAD: Final = Operation(
    id="uploadProject",
    method="POST",
    path="/api/projects",
    tag="projects",
    text="Upload a project. The body is an archive, which is known by its first bytes whatever its "
    "`Content-Type`: zip, tar, tar.gz or tar.zst; or it is a form with a part for each file, whose "
    "`filename` is the file's path in the project, and whose name does not matter. It must have no "
    "`Content-Encoding`. With `Expect: 100-continue` what is too large is refused before it is "
    "sent.",
    body=Body(
        "The files.",
        media={
            "application/zip": BYTES,
            "application/x-tar": BYTES,
            "application/gzip": BYTES,
            "application/zstd": BYTES,
            "multipart/form-data": FORM,
        },
    ),
    replies=(
        Reply(
            201,
            "The project is stored.",
            json=answers.Project,
            headers=(LOCATION,),
            links=("showProject", "deleteProject", "execute"),
        ),
    ),
    codes=("storage_full", "shutting_down"),
)

SHOW: Final = Operation(
    id="showProject",
    method="GET",
    path="/api/projects/{project_id}",
    name="streamer-project",
    tag="projects",
    text="Show a project: its files, and when it is deleted.",
    replies=(Reply(200, "The project.", json=answers.Project),),
)

DELETE: Final = Operation(
    id="deleteProject",
    method="DELETE",
    path="/api/projects/{project_id}",
    tag="projects",
    text="Delete a project. Jobs that were submitted with it keep it.",
    replies=(Reply(204, "It is deleted."),),
)
