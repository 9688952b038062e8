"""What a program of these tables is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streamer.model.job import USER_PACKAGES, JobSpec, SourceFile

__all__ = ["Case"]


@dataclass(frozen=True)
class Case:
    code: str
    stdin: bytes | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    entry: str | None = None

    @property
    def has_packages(self) -> bool:
        """Whether it brings packages of its own, which an interpreter looks for when it starts."""
        return any(name.startswith(f"{USER_PACKAGES}/") for name in self.files)

    def job(self, language: str, **others: Any) -> JobSpec:
        return JobSpec(
            language=language,
            code=self.code,
            stdin=self.stdin,
            files=tuple(SourceFile(name, content) for name, content in self.files.items()),
            args=self.args,
            env=self.env,
            limits=self.limits,
            entry=self.entry,
            output_encoding="base64",
            **others,
        )
