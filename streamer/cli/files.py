"""The command `streamer files`: list and download the files that a job has left."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from streamer.cli.service import as_json as in_json
from streamer.cli.service import asked, of_service

if TYPE_CHECKING:
    from streamer.client import Client
    from streamer.client.documents import FileDocument

__all__ = ["files", "place_of"]


@click.command()
@click.argument("job_id", metavar="JOB")
@click.argument("name", metavar="[PATH]", required=False)
@click.option(
    "-o",
    "--output",
    metavar="DIR|FILE",
    help="Save PATH as FILE, or beneath DIR if that exists or ends with a slash; without PATH "
    "all files beneath DIR.",
)
@click.option("--raw", is_flag=True, help="Do not filter a file on a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@of_service
def files(
    job_id: str,
    name: str | None,
    output: str | None,
    url: str,
    token: str | None,
    token_file: str | None,
    *,
    raw: bool,
    as_json: bool,
) -> int:
    """List the files that a job has left, print one, or save them."""

    async def ask(client: Client) -> list[FileDocument] | None:
        if name is None and output is None:
            return await client.files(job_id)
        if name is None:
            await _save_all(client, job_id, output or "")
        elif output is None:
            await _print(client, job_id, name, raw=raw)
        else:
            await _save(client, job_id, name, output)
        return None

    code, listed = asked(url, token, token_file, ask)
    if listed is not None:
        if as_json:
            click.echo(in_json({"files": listed}))
        elif listed:
            from streamer.cli.table import show_rows

            show_rows([{"name": file["name"], "bytes": file["bytes"]} for file in listed])
    return code


async def _print(client: Client, job_id: str, name: str, *, raw: bool) -> None:
    from streamer.cli.stdio import Outlet

    outlet = Outlet(1, raw=raw)
    async for chunk in client.read_file(job_id, name):
        await outlet.write(chunk)
    await outlet.end()


async def _save(client: Client, job_id: str, name: str, output: str) -> None:
    from streamer.saving import save

    folder, last = place_of(output, name)
    await save(folder, last, client.read_file(job_id, name))


def place_of(output: str, name: str) -> tuple[str, str]:
    """Return the folder and the name with which a file is saved."""
    if output.endswith("/") or os.path.isdir(output):  # noqa: PTH112 - Path.is_dir may raise
        return output, name.rpartition("/")[2]
    folder, last = os.path.split(output)
    return folder or ".", last


async def _save_all(client: Client, job_id: str, folder: str) -> None:
    from streamer.cli.progress import Progress
    from streamer.saving import save

    listed = await client.files(job_id)
    total = sum(file["bytes"] for file in listed)
    with Progress("saving") as progress:
        saved = 0

        async def counted(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
            nonlocal saved
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk
                    saved += len(chunk)
                    progress.set(saved, total)

        for file in listed:
            chunks = counted(client.read_file(job_id, file["name"]))
            await save(folder, file["name"], chunks)
