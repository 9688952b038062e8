"""Check the patterns of a job's files."""

from __future__ import annotations

from collections.abc import Sequence

from streamer.config.artifacts import ArtifactsConfig
from streamer.errors import InvalidJob, quoted
from streamer.model.capabilities import BackendFacts
from streamer.model.globs import MAX_GLOBS, MAX_GLOBS_BYTES, why_not_glob

__all__ = ["check_artifacts"]


def check_artifacts(
    patterns: Sequence[str], config: ArtifactsConfig, backend: str, facts: BackendFacts
) -> None:
    """Raise `InvalidJob` if no files are kept, or not of this backend, or a pattern is wrong."""
    if patterns and not config.max_files:
        raise InvalidJob("this service keeps no files (artifacts.max_files)", path="$.artifacts")
    if patterns and not facts.readable:
        raise InvalidJob(
            f"files cannot be taken out of the sandbox {quoted(backend)}", path="$.artifacts"
        )
    if len(patterns) > MAX_GLOBS:
        raise InvalidJob(
            f"{len(patterns)} patterns are too many: {MAX_GLOBS} at most", path="$.artifacts"
        )
    size = 0
    for index, pattern in enumerate(patterns):
        if why := why_not_glob(pattern):
            raise InvalidJob(why, path=f"$.artifacts[{index}]")
        size += len(pattern.encode())
    if size > MAX_GLOBS_BYTES:
        raise InvalidJob(
            f"the patterns are {size} bytes together: {MAX_GLOBS_BYTES} at most", path="$.artifacts"
        )
