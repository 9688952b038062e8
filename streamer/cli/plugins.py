"""The command `streamer plugins`: what is installed, and what each plugin provides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from streamer.cli.options import OF_USER, ConfigOptions, config_options, load

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pluggy

__all__ = ["plugins"]

EXIT_BROKEN = 1


@click.command()
@config_options(OF_USER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(options: ConfigOptions, *, as_json: bool) -> int:
    """List the plugins: from which distribution, with which hooks, and what they provide.

    Exits with 1 if one of them stops the start of a service: `reason` says what to do.
    """
    from streamer.plugins import load_backends, load_plugins

    disabled = load(options).plugins.disabled
    rows = list(_rows(disabled))
    if as_json:
        from streamer.cli.service import as_json as in_json

        click.echo(in_json(rows))
    else:
        from streamer.cli.table import show_rows

        show_rows([_shown(row) for row in rows])
    if any(row["state"] == "broken" for row in rows):
        return EXIT_BROKEN
    # Each may be whole and clash with another, or `plugins.disabled` name one that is not there.
    load_backends(load_plugins((), disabled), {})
    return 0


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "plugin": row["plugin"],
        "distribution": f"{row['distribution']} {row['version']}",
        "state": row["state"],
        "hooks": ", ".join(row["hooks"]),
        "backends": ", ".join(row["backends"]),
        "routes": ", ".join(row["routes"]),
        "reason": row["reason"],
    }


def _rows(disabled: Sequence[str]) -> Iterator[dict[str, Any]]:
    from importlib import import_module

    import streamer
    from streamer.errors import PluginError
    from streamer.installed import installed
    from streamer.plugins import BUILTIN, ROUTES, empty_manager
    from streamer.plugins import register as register_plugin

    for module in (*BUILTIN.values(), ROUTES):
        manager = empty_manager()
        register_plugin(manager, import_module(module), module)
        yield _row(module, "aiohttp-streamer", streamer.__version__, "used", manager)
    for one in installed():
        what = (one.name, one.distribution, one.version)
        if one.is_in(disabled):
            yield _row(*what, "disabled", None)
            continue
        manager = empty_manager()
        try:
            plugin = one.load()
            with one.blamed():
                register_plugin(manager, plugin, one.name)
                row = _row(*what, "used", manager)
        except PluginError as error:
            row = _row(*what, "broken", None, str(error))
        yield row


def _row(
    plugin: str,
    distribution: str,
    version: str,
    state: str,
    manager: pluggy.PluginManager | None,
    reason: str = "",
) -> dict[str, Any]:
    from streamer.plugins import backend_classes

    hooks: list[str] = []
    backends: list[str] = []
    routes: list[str] = []
    if manager is not None:
        backends = [cls.name for cls in backend_classes(manager)]
        routes = [group.name for groups in manager.hook.streamer_routes() for group in groups]
        hooks = sorted(
            caller.name
            for registered in manager.get_plugins()
            for caller in manager.get_hookcallers(registered) or ()
        )
    return {
        "plugin": plugin,
        "distribution": distribution,
        "version": version,
        "state": state,
        "hooks": hooks,
        "backends": backends,
        "routes": routes,
        "reason": reason,
    }
