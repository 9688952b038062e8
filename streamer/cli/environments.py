"""The commands `streamer environment`: build packages for programs of jobs, list, remove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from streamer.cli.completion import language_names
from streamer.cli.options import ConfigOptions, config_options, load
from streamer.model.terminal import visible

if TYPE_CHECKING:
    from streamer.config.schema import Config
    from streamer.environments.manifest import Manifest
    from streamer.model.environment import Environment

__all__ = ["environment"]

OF_USER: Final = "~/.config/streamer/config.toml"
EXIT_FAILED: Final = 1


@click.group()
def environment() -> None:
    """Build packages for the programs of jobs, which have no network; list and remove them."""


@environment.command("build")
@config_options(OF_USER)
@click.argument("name", metavar="NAME")
@click.argument("packages", metavar="[PACKAGE]...", nargs=-1)
@click.option(
    "--language",
    metavar="L",
    shell_complete=language_names,
    help="Default: the first one in the configuration.",
)
@click.option(
    "-r",
    "--requirements",
    "files",
    metavar="FILE",
    multiple=True,
    help="A file of requirements for pip, or a package.json; repeatable for pip.",
)
@click.option("--path", metavar="DIR", help="Default: environments.NAME.path of the configuration.")
@click.option(
    "--allow-source",
    is_flag=True,
    help="Let packages run code of theirs on this host: source packages, scripts of npm.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def build_one(
    options: ConfigOptions,
    name: str,
    packages: tuple[str, ...],
    language: str | None,
    files: tuple[str, ...],
    path: str | None,
    *,
    allow_source: bool,
    as_json: bool,
) -> int:
    """Build the environment NAME with packages of pip or npm, in the place of what it had.

    Jobs that run meanwhile keep what they had. Exits with 1 if it cannot be built; what was there
    then stays.
    """
    from streamer.environments.build import build
    from streamer.environments.fault import EnvironmentFault
    from streamer.environments.packages import Wanted
    from streamer.model.runtime import by_name

    if not (packages or files):
        raise click.UsageError("name packages, or a file of them with -r")
    config = load(options)
    wanted = _named(config, name, language, path)
    runtime = by_name(config.runtimes)[wanted.languages[0]]
    try:
        how = Wanted(tuple(map(Path, files)), packages, allow_source)
        manifest = build(wanted, runtime, config.sandbox.path, how)
    except (EnvironmentFault, OSError) as fault:
        return _failed(fault)
    if as_json:
        click.echo(_json({"name": name, "path": wanted.path, **_described(manifest)}))
        return 0
    number = len(manifest.packages)
    click.echo(
        visible(
            f"{name}: {number} package{'s' * (number != 1)} for {runtime.title or runtime.name} "
            f"{manifest.version} in {wanted.path}"
        )
    )
    if config.environments.get(name) != wanted:
        click.echo(
            "to use it, write into the service's configuration:\n\n"
            f'[environments.{name}]\nlanguages = ["{wanted.languages[0]}"]\n'
            f'path = "{visible(wanted.path)}"'
        )
    return 0


@environment.command("list")
@config_options(OF_USER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_all(options: ConfigOptions, *, as_json: bool) -> None:
    """List the configured environments, and those that are built where they usually are."""
    from streamer.config.environments import environments_folder
    from streamer.environments.build import built_in

    config = load(options)
    rows = [_row(config, each) for each in config.environments.values()]
    configured = {each.path for each in config.environments.values()}
    folder = environments_folder(config.server.state_dir)
    for name, manifest in built_in(folder).items():
        if (path := str(folder / name)) not in configured:
            reason = "it is not in the configuration"
            rows.append(_listed(name, [manifest.language], path, reason, manifest))
    if as_json:
        click.echo(_json(rows))
        return
    for row in rows:
        number = len(row["packages"])
        packages = (
            f"{number} package{'s' * (number != 1)} for {', '.join(row['languages'])}, "
            f"in {row['path']}"
        )
        what = filter(None, (row["reason"], packages if row["builtAt"] else ""))
        click.echo(visible(f"{row['name']}: {'; '.join(what)}"))


@environment.command("remove")
@config_options(OF_USER)
@click.argument("name", metavar="NAME")
@click.option("--path", metavar="DIR", help="Default: environments.NAME.path of the configuration.")
def remove_one(options: ConfigOptions, name: str, path: str | None) -> int:
    """Remove what was built for the environment NAME; the configuration keeps its lines."""
    from streamer.environments.build import remove
    from streamer.environments.fault import EnvironmentFault

    config = load(options)
    try:
        # Its language does not matter here.
        remove(_named(config, name, next(iter(config.runtimes)), path))
    except (EnvironmentFault, OSError) as fault:
        return _failed(fault)
    return 0


def _named(config: Config, name: str, language: str | None, path: str | None) -> Environment:
    """Return the environment that the arguments name, as configured or as it could be."""
    from streamer.config.environments import environments_folder
    from streamer.model.environment import Environment
    from streamer.model.runtime import by_name

    configured = config.environments.get(name)
    if language is None and configured is None:
        raise click.UsageError(f"say with --language what {name} is for, such as python")
    languages = configured.languages if configured is not None else ()
    if language is not None and language not in languages:
        known = by_name(config.runtimes)
        if language not in known:
            raise click.UsageError(
                f"--language {language}: unknown language; known: {', '.join(sorted(known))}"
            )
        languages = (language,)
    if path is not None:
        place = str(Path(path).absolute())
    elif configured is not None:
        place = configured.path
    else:
        place = str(environments_folder(config.server.state_dir) / name)
    if configured is not None and (languages, place) == (configured.languages, configured.path):
        return configured
    return Environment(name, languages, place)


def _row(config: Config, environment: Environment) -> dict[str, Any]:
    from streamer.environments.fault import EnvironmentFault
    from streamer.environments.manifest import found
    from streamer.model.runtime import by_name

    languages = list(environment.languages)
    try:
        manifest = found(environment, by_name(config.runtimes), config.sandbox.path)
    except EnvironmentFault as fault:
        return _listed(environment.name, languages, environment.path, str(fault), None)
    return _listed(environment.name, languages, environment.path, "", manifest)


def _listed(
    name: str, languages: list[str], path: str, reason: str, manifest: Manifest | None
) -> dict[str, Any]:
    return {
        "name": name,
        "languages": languages,
        "available": not reason,
        "reason": reason,
        "builtAt": None if manifest is None else manifest.built_at,
        "packages": {} if manifest is None else dict(manifest.packages),
        "path": path,
    }


def _described(manifest: Manifest) -> dict[str, Any]:
    import msgspec

    document: dict[str, Any] = msgspec.to_builtins(manifest)
    return document


def _failed(fault: Exception) -> int:
    click.echo("\n".join(map(visible, f"streamer: {fault}".splitlines())), err=True)
    return EXIT_FAILED


def _json(document: object) -> str:
    import json

    return json.dumps(document, indent=2)
