"""Write a job as the body of ``POST /api/execute``: the other direction of `streamer.web.wire`."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from streamer.errors import InvalidJob
from streamer.model.job import JobSpec, SourceFile, TerminalSize
from streamer.model.names import camel

__all__ = ["request_of", "with_wire_names"]


def request_of(job: JobSpec) -> dict[str, Any]:
    """Return the request that submits a job; what it leaves out is the service's to choose."""
    nothing = JobSpec()
    given = {
        field.name: value
        for field in fields(JobSpec)
        if (value := getattr(job, field.name)) != getattr(nothing, field.name)
    }
    return with_wire_names(given)


def with_wire_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request that these fields make.

    Names may be those of HTTP or of `JobSpec` (``outputEncoding``, ``output_encoding``), limits
    as well; a file may be a `SourceFile`. Raises `InvalidJob`.
    """
    request = {camel(name): _plain(value, name) for name, value in given.items()}
    if isinstance(limits := request.get("limits"), Mapping):
        request["limits"] = {camel(name): value for name, value in limits.items()}
    return request


def _plain(value: object, name: str) -> object:
    if isinstance(value, SourceFile):
        content: bytes | str = value.content  # text stands for bytes, as everywhere
        data = content.encode() if isinstance(content, str) else content
        return {
            "name": value.name,
            "content": base64.b64encode(data).decode(),
            "encoding": "base64",
            "mode": f"{value.mode:04o}",
        }
    if isinstance(value, TerminalSize):
        return {"cols": value.cols, "rows": value.rows}
    if isinstance(value, list | tuple):
        return [_plain(part, name) for part in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise InvalidJob(
                "these bytes are not UTF-8 text; send them to a job with interactive, by write()",
                path=f"$.{camel(name)}",
            ) from None
    return value
