"""Open a folder or an archive to upload it: a folder becomes a tar archive.

The client and the command line use it; it must not import what takes long.
"""

from __future__ import annotations

import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from streamer.errors import InvalidRequest

__all__ = ["opened_upload"]


@contextmanager
def opened_upload(path: str | Path) -> Iterator[IO[bytes]]:
    """Open an archive, or a file without a name with an archive of the folder `path`.

    Raises OSError, and `InvalidRequest` for a link or anything else that is neither a file nor a
    folder: a service would refuse it.
    """
    path = Path(path)
    if not path.is_dir():
        with path.open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            _add(archive, path, "")
        file.seek(0)
        yield file


def _add(archive: tarfile.TarFile, folder: Path, above: str) -> None:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = f"{above}{entry.name}"
            mode = entry.stat(follow_symlinks=False).st_mode
            info = tarfile.TarInfo(name)
            info.mode = stat.S_IMODE(mode)
            if stat.S_ISDIR(mode):
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
                _add(archive, Path(entry.path), f"{name}/")
            elif stat.S_ISREG(mode):
                with open(entry.path, "rb") as file:  # noqa: PTH123 - as its entry was found
                    info.size = os.fstat(file.fileno()).st_size
                    archive.addfile(info, file)
            else:
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "a special file"
                raise InvalidRequest(
                    f"{name}: {kind}; a project has files and folders only: "
                    "upload an archive without it (tar --exclude)"
                )
