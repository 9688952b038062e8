"""Upload projects, show and delete them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from urllib.parse import quote

from streamer.client.connection import Verbs
from streamer.client.documents import Nothing, ProjectDocument
from streamer.packing import opened_upload

__all__ = ["ProjectVerbs"]


class ProjectVerbs(Verbs):
    """What can be asked about projects."""

    async def upload(self, path: str | os.PathLike[str]) -> ProjectDocument:
        """Upload a folder, or a zip, tar, tar.gz or tar.zst archive, and return its document.

        Its ``projectId`` is what jobs name; it has ``files`` and ``expiresAt``, too. Raises OSError
        if the path cannot be read, and `InvalidRequest` if a folder has a link in it.
        """
        with contextlib.ExitStack() as opened:
            file = await asyncio.to_thread(opened.enter_context, opened_upload(Path(path)))
            return await self._connection.call(
                "POST", "api/projects", ProjectDocument, body=file, twice=False
            )

    async def project(self, project_id: str) -> ProjectDocument:
        """Return the document of a project. Raises `ServiceProblem` (404) if there is none."""
        return await self._connection.call("GET", _path(project_id), ProjectDocument)

    async def delete_project(self, project_id: str) -> None:
        """Delete a project. The jobs that were submitted with it keep it."""
        await self._connection.call("DELETE", _path(project_id), Nothing)


def _path(project_id: str) -> str:
    return f"api/projects/{quote(project_id, safe='')}"
