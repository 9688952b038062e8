"""The commands `streamer project`: upload, show and delete a project of a service."""

from __future__ import annotations

import click

from streamer.cli.completion import files
from streamer.cli.service import as_json as in_json
from streamer.cli.service import asked, of_service
from streamer.model.terminal import visible

__all__ = ["project"]


@click.group()
def project() -> None:
    """Upload projects to a service, show and delete them."""


@project.command()
@click.argument("path", metavar="DIR|ARCHIVE", shell_complete=files)
@click.option("--json", "as_json", is_flag=True, help="Print the whole document.")
@of_service
def upload(path: str, url: str, token: str | None, token_file: str | None, *, as_json: bool) -> int:
    """Upload a folder, or a zip, tar, tar.gz or tar.zst archive; print the id of the project."""
    from streamer.cli.progress import Progress

    with Progress(f"uploading {path}", lines=not as_json):
        code, document = asked(url, token, token_file, lambda client: client.upload(path))
    if document is not None:
        click.echo(in_json(document) if as_json else visible(document["projectId"]))
    return code


@project.command()
@click.argument("project_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@of_service
def show(
    project_id: str, url: str, token: str | None, token_file: str | None, *, as_json: bool
) -> int:
    """List the files of a project."""
    code, document = asked(url, token, token_file, lambda client: client.project(project_id))
    if document is not None:
        if as_json:
            click.echo(in_json(document))
        else:
            from streamer.cli.table import show_rows

            if files := document["files"]:
                show_rows([{"name": one["name"], "bytes": one["bytes"]} for one in files])
    return code


@project.command()
@click.argument("project_id", metavar="ID")
@of_service
def delete(project_id: str, url: str, token: str | None, token_file: str | None) -> int:
    """Delete a project; jobs that were submitted with it keep it."""
    code, _ = asked(url, token, token_file, lambda client: client.delete_project(project_id))
    return code
