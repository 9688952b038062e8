"""A project as the half that accepts jobs sees it: what it has, and what may lie over it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from streamer.errors import InvalidJob, quoted
from streamer.model.job import USER_PACKAGES, JobProject, Limits, SourceFile, most_inodes
from streamer.model.project import StoredEntry

__all__ = ["Contents", "Project"]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a project has. It never changes."""

    files: tuple[StoredEntry, ...]
    bytes: int
    _files: frozenset[str] = field(repr=False)
    _folders: frozenset[str] = field(repr=False)

    @classmethod
    def of(cls, entries: Iterable[StoredEntry]) -> Contents:
        listed = tuple(entries)
        files = tuple(entry for entry in listed if entry.is_file)
        return cls(
            files,
            sum(file.bytes for file in files),
            frozenset(file.name for file in files),
            frozenset(entry.name for entry in listed if not entry.is_file),
        )

    def __contains__(self, name: str) -> bool:
        return name in self._files

    @property
    def names(self) -> Iterable[str]:
        return self._files

    @property
    def entries(self) -> int:
        """Its files and folders."""
        return len(self._files) + len(self._folders)

    def check_over(self, files: Sequence[SourceFile], limits: Limits) -> None:
        """Check that files can lie over it, and that all fits. Raises `InvalidJob`."""
        checked: set[str] = set()
        for index, file in enumerate(files):
            path = f"$.files[{index}].name"
            if file.name in self._folders:
                raise InvalidJob(f"{quoted(file.name)} is a folder of the project", path=path)
            for folder in _above(file.name):
                if folder in self._folders or folder in checked:
                    break  # and so are those above
                checked.add(folder)
                if folder in self._files:
                    raise InvalidJob(f"{quoted(folder)} is a file of the project", path=path)
        size = self.bytes + sum(len(file.content) for file in files)
        if size > limits.disk_bytes:
            raise InvalidJob(
                f"the project and the files are {size} bytes together and diskBytes allows "
                f"{limits.disk_bytes}",
                path="$.projectId",
            )
        # The workspace counts, too.
        most = most_inodes(limits) - 1
        if self.entries > most:
            raise InvalidJob(
                f"the project has {self.entries} files and folders and diskBytes allows {most}",
                path="$.projectId",
            )


def _above(name: str) -> Iterator[str]:
    """Yield the folders in a name, the innermost first."""
    end = name.rfind("/")
    while end > 0:
        yield name[:end]
        end = name.rfind("/", 0, end)


@dataclass(frozen=True, slots=True)
class Project:
    """A stored project. `expires_at` is in seconds since the epoch."""

    id: str
    contents: Contents
    expires_at: float
    begin: bytes = field(default=b"", repr=False)
    """The beginning of the file that was asked for with it."""

    @property
    def for_job(self) -> JobProject:
        contents = self.contents
        packages = any(name.split("/", 1)[0] == USER_PACKAGES for name in contents.names)
        return JobProject(self.id, contents.bytes, contents.entries, packages)
