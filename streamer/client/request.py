"""Write a job as the body of ``POST /api/execute``, which `streamer.web.wire` parses."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from streamer.errors import InvalidJob
from streamer.model.job import Case, JobSpec, SourceFile, TerminalSize
from streamer.model.names import camel
from streamer.model.webhook import Webhook

__all__ = ["request_of", "with_wire_names"]


def request_of(job: JobSpec) -> dict[str, Any]:
    """Return the body that submits a job; fields with their default value are left out."""
    nothing = JobSpec()
    given = {
        field.name: value
        for field in fields(JobSpec)
        if (value := getattr(job, field.name)) != getattr(nothing, field.name)
    }
    return with_wire_names(given)


def with_wire_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body with these fields.

    The names of fields and limits may be those of HTTP or of `JobSpec` (``outputEncoding``,
    ``output_encoding``); a file may be a `SourceFile`, a case a `Case`. Raises `InvalidJob`.
    """
    request = {camel(name): _plain(value, name) for name, value in given.items()}
    if isinstance(cases := request.get("cases"), list):
        request["cases"] = [
            with_wire_names(one) if isinstance(one, Mapping) else one for one in cases
        ]
    if isinstance(limits := request.get("limits"), Mapping):
        request["limits"] = {camel(name): value for name, value in limits.items()}
    return request


def _plain(value: object, name: str) -> object:
    if isinstance(value, SourceFile):
        content: bytes | str = value.content  # a host may pass text
        data = content.encode() if isinstance(content, str) else content
        return {
            "name": value.name,
            "content": base64.b64encode(data).decode(),
            "encoding": "base64",
            "mode": f"{value.mode:04o}",
        }
    if isinstance(value, Case):
        given = {field.name: getattr(value, field.name) for field in fields(Case)}
        return {name: part for name, part in given.items() if part not in (None, {})}
    if isinstance(value, TerminalSize | Webhook):
        names = ("cols", "rows") if isinstance(value, TerminalSize) else ("url", "events")
        return {part: _plain(getattr(value, part), name) for part in names}
    if isinstance(value, list | tuple):
        return [_plain(part, name) for part in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise InvalidJob(
                "not UTF-8; send such bytes to an interactive job, by write()",
                path=f"$.{camel(name)}",
            ) from None
    return value
