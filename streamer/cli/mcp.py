"""The command `streamer mcp`: tools for language models."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from streamer.cli.options import OF_USER, ConfigOptions, config_options, load
from streamer.cli.work import work

if TYPE_CHECKING:
    from streamer.config.schema import Config

__all__ = ["mcp"]

OF_THE_SDK = ("mcp", "mcp_types", "pydantic", "anyio", "starlette", "httpx2", "jsonschema")


@click.command()
@config_options(OF_USER)
@click.option("--http", is_flag=True, help="Serve many clients over HTTP; else one, over stdio.")
@click.option("--host", metavar="ADDRESS", help="With --http; default 127.0.0.1.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="With --http; default that of the configuration."
)
@click.option("--url", metavar="URL", help="Run programs on the service at URL, not in here.")
@click.option("--token-file", metavar="FILE", help="A file with the token for --url.")
@click.option(
    "--token",
    metavar="TOKEN",
    envvar="STREAMER_TOKEN",
    help="The token itself; every user of this host can see it. Better: $STREAMER_TOKEN.",
)
@click.option(
    "--environment", metavar="NAME", help="Run programs with these packages of the operator's."
)
def mcp(
    options: ConfigOptions,
    host: str | None,
    port: int | None,
    url: str | None,
    token: str | None,
    token_file: str | None,
    environment: str | None,
    *,
    http: bool,
) -> None:
    """Serve language models: the Model Context Protocol, with tools to run programs.

    The tools run, wait, stop, read_file, write_file and list_files work in sandboxes of this
    process, or with --url on a service. All ends with the command; over stdio when the client
    closes standard input.
    """
    if not http and (host is not None or port is not None):
        raise click.UsageError("--host and --port are for --http")
    from streamer.web.server.logs import configure_logging

    fields = {} if environment is None else {"environment": environment}
    try:
        from streamer.mcp import serving
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in OF_THE_SDK:
            raise
        raise click.UsageError(
            f"this needs the package {package}: pip install 'aiohttp-streamer[cli,mcp]'"
        ) from None
    config = load(options)
    configure_logging(config.logging)
    if url:
        from streamer.cli.remote import token_in

        if token_file:
            token = token_in(token_file)
        if http:
            config = _listening(config, host, port)
            work(serving.serve_http_remote(url, token, config, fields, _say))
        else:
            work(serving.serve_stdio_remote(url, token, fields))
    elif http:
        work(serving.serve_http(_listening(config, host, port), fields, _say))
    else:
        work(serving.serve_stdio_here(config, fields))


def _say(address: str) -> None:
    if sys.stderr is not None:
        click.echo(f"streamer: MCP clients connect to {address}", err=True)


def _listening(config: Config, host: str | None, port: int | None) -> Config:
    from msgspec.structs import replace

    # A host of the configuration is that of the service, which may be for others.
    server = replace(
        config.server,
        host="127.0.0.1" if host is None else host,
        port=config.server.port if port is None else port,
    )
    return replace(config, server=server)
