"""The answers of the tools: structured for programs, and as text for a model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

__all__ = ["FileContent", "FileList", "FileWritten", "Job", "ListedFile", "Omitted", "Verdict"]


class Verdict(BaseModel):
    """How the job ended."""

    reason: str = Field(
        description=(
            "exited, signaled, wall_time, cpu_time, memory, output_limit, disk or cancelled; or "
            "error if it could not be run"
        )
    )
    exit_code: int | None
    signal: str | None
    duration_ms: int | None
    cpu_time_ms: int | None = None
    peak_memory_bytes: int | None = None
    output_truncated: bool = Field(
        default=False, description="Whether output beyond the service's limit was thrown away."
    )
    message: str | None = Field(default=None, description="Why it could not be run.")


class Omitted(BaseModel):
    """Output that is not in this answer, and can still be read."""

    characters: int
    after: int = Field(description="Call wait with this as after to read it.")
    before: int = Field(description="It comes before this event.")


class Job(BaseModel):
    """A job, and its output since the event that was asked for."""

    job_id: str
    status: Literal["queued", "preparing", "compiling", "running", "ended"]
    workspace: str | None = None
    stdout: str
    stderr: str
    last_event: int = Field(description="Call wait with this as after for what comes later.")
    omitted: Omitted | None = None
    verdict: Verdict | None = None
    notes: list[str] = Field(default=[], description="What else to know, and how to go on.")

    def text(self) -> str:
        """Return all of it for a reader."""
        lines = [f"job {self.job_id}: {self._state()}"]
        lines += [f"note: {note}" for note in self.notes]
        for name, output in (("stdout", self.stdout), ("stderr", self.stderr)):
            if output:
                lines += [f"--- {name} ---", output.removesuffix("\n")]
        if not self.stdout and not self.stderr:
            lines.append("(no output)")
        return "\n".join(lines)

    def _state(self) -> str:
        end = self.verdict
        if end is None:
            return f"{self.status}, up to event {self.last_event}"
        if end.reason == "error":
            return f"it could not be run: {end.message}"
        how = {
            "exited": f"exited with code {end.exit_code}",
            "signaled": f"ended by {end.signal}",
            "cancelled": "was stopped",
            "wall_time": "killed: it reached its time limit",
            "cpu_time": "killed: it reached its limit of CPU time",
            "memory": "killed: it reached its memory limit",
            "disk": "killed: it reached its disk limit",
            "output_limit": "killed: it reached its output limit",
        }.get(end.reason, end.reason)
        spent = "" if end.duration_ms is None else f" after {end.duration_ms / 1000:.2f} s"
        return how + spent


class FileContent(BaseModel):
    """A part of a file."""

    path: str
    content: str
    encoding: Literal["utf-8", "base64"]
    offset: int
    bytes: int = Field(description="How many bytes of the file content stands for.")
    total_bytes: int
    next_offset: int | None = Field(description="Read on from here; null at the end of the file.")

    def text(self) -> str:
        if self.next_offset is None and not self.offset and self.encoding == "utf-8":
            return self.content
        part = f"bytes {self.offset} to {self.offset + self.bytes} of {self.total_bytes}"
        on = "" if self.next_offset is None else f"; read on with offset {self.next_offset}"
        return f"[{self.path}: {part}, {self.encoding}{on}]\n{self.content}"


class FileWritten(BaseModel):
    path: str
    bytes: int
    workspace: str

    def text(self) -> str:
        return f"wrote {self.bytes} bytes to {self.path} in workspace {self.workspace}"


class ListedFile(BaseModel):
    path: str
    kind: str = Field(description="file, folder or link")
    bytes: int | None


class FileList(BaseModel):
    workspace: str
    files: list[ListedFile]
    omitted: int = Field(default=0, description="How many more there are, that are not listed.")

    def text(self) -> str:
        if not self.files:
            return f"workspace {self.workspace} has no files"
        lines = [
            f"{file.path}{'/' if file.kind == 'folder' else ''}"
            + (f"  {file.bytes} bytes" if file.kind == "file" else "")
            for file in self.files
        ]
        if self.omitted:
            lines.append(f"[{self.omitted} more are not listed: run a program that looks at them]")
        return "\n".join(lines)
