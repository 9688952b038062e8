"""The options that all commands share, and loading the configuration that they name.

The options are declared whatever is run; only loading needs the configuration's modules.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, TypeVar

import click

from streamer.cli.completion import backend_names, files

if TYPE_CHECKING:
    from streamer.config.schema import Config

__all__ = [
    "OF_SERVICE",
    "OF_USER",
    "ORIGINS",
    "ConfigOptions",
    "config_options",
    "load",
    "load_serving",
]

OF_SERVICE: Final = "./config.toml"
OF_USER: Final = "~/.config/streamer/config.toml"
"""Where commands look for a configuration, as their help says."""

ORIGINS: Final = "streamer.origins"
"""Where the loaded configuration came from, in the context of the command."""

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class ConfigOptions:
    """What the command line says of the configuration."""

    file: str | None
    profile: str | None
    overrides: tuple[str, ...]
    sandbox: str | None


def config_options(
    where: str,
) -> Callable[[Callable[Concatenate[ConfigOptions, ...], R]], Callable[..., R]]:
    """Add the options of the configuration to a command, which gets them as its first argument.

    `where` names the default file in help.
    """
    options = (
        click.option(
            "--config",
            "file",
            metavar="FILE",
            shell_complete=files,
            help=f"Configuration file; default $STREAMER_CONFIG, else {where}, if any.",
        ),
        click.option("--profile", metavar="NAME", help="Use [profiles.NAME] of the file."),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="SECTION.KEY=VALUE",
            help="Override one value; repeatable.",
        ),
        click.option(
            "--sandbox",
            metavar="NAME",
            shell_complete=backend_names,
            help="The sandbox backend, or auto.",
        ),
    )

    def decorate(function: Callable[Concatenate[ConfigOptions, ...], R]) -> Callable[..., R]:
        @functools.wraps(function)
        def command(
            *,
            file: str | None,
            profile: str | None,
            overrides: tuple[str, ...],
            sandbox: str | None,
            **own: Any,
        ) -> R:
            return function(ConfigOptions(file, profile, overrides, sandbox), **own)

        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def load_serving(options: ConfigOptions) -> tuple[Config, Mapping[str, str]]:
    """Return the configuration of the service: its folder's config.toml if no file is named."""
    from streamer.config.file import FILE_NAME, is_ours, read_document

    path = _named(options)
    here = Path(FILE_NAME)
    if path is None and os.path.isfile(here):  # noqa: PTH113 - Path.is_file may raise
        if is_ours(read_document(here)):
            path = here
        else:
            _note(f"{FILE_NAME} in this folder has none of our sections and is not read")
    return _load(path, options)


def load(options: ConfigOptions) -> Config:
    """Return the user's configuration; one in this folder may belong to an untrusted program."""
    from msgspec.structs import replace

    from streamer.config.file import FILE_NAME, seems_ours, users_file

    path = _named(options)
    if path is None:
        path = users_file(os.environ)
        here = Path(FILE_NAME)
        if seems_ours(here) and not (path and path.samefile(here)):
            _note(f"{FILE_NAME} in this folder is not read; to use it: --config {FILE_NAME}")
    config = _load(path, options)[0]
    # These commands are about this host, or run one program here, whatever part of a service the
    # configuration is for.
    return replace(config, server=replace(config.server, role="all"))


def _named(options: ConfigOptions) -> Path | None:
    named = options.file or os.environ.get("STREAMER_CONFIG")
    return Path(named) if named else None


def _load(path: Path | None, options: ConfigOptions) -> tuple[Config, Mapping[str, str]]:
    from streamer.config.load import load_with_origins, stray_variables

    for name, meant in stray_variables(os.environ):
        _note(f"warning: the variable {name} is not read; did you mean {meant}?")
    sandbox = [f"sandbox.backend={options.sandbox}"] if options.sandbox else []
    config, origins = load_with_origins(
        path,
        environ=os.environ,
        overrides=[*options.overrides, *sandbox],
        profile=options.profile,
    )
    click.get_current_context().meta[ORIGINS] = origins
    return config, origins


def _note(text: str) -> None:
    click.echo(f"streamer: {text}", err=True)
