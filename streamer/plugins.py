"""Load plugins, and check what their hooks return.

The built-in backends are imported first and by name, so an uninstalled checkout works. They must
lie beside this package: otherwise another distribution with a package ``sandboxes`` could silently
replace the sandbox.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import pluggy

from streamer import hookspecs
from streamer.config.options import configured, did_you_mean
from streamer.config.schema import SandboxConfig
from streamer.errors import ConfigError, PluginError
from streamer.installed import installed, selected
from streamer.spi import Backend, Isolation

__all__ = [
    "BUILTIN",
    "backend_classes",
    "empty_manager",
    "load_backends",
    "load_plugins",
    "register",
]

BUILTIN: Final = {
    "plain": "sandboxes.plain",
    "bwrap": "sandboxes.bwrap",
    "firejail": "sandboxes.firejail",
}
ROUTES: Final = "streamer.compat.plugin"
"""The built-in groups of routes. It imports nothing of HTTP before its hook is called."""
HOOK_PREFIX: Final = "streamer_"
AHEAD: Final = ("program", "sandbox", "nothing")
BACKEND_NAME: Final = re.compile("[a-z][a-z0-9_]*")
RESERVED: Final = frozenset(
    {"auto", *(field.name for field in msgspec.structs.fields(SandboxConfig))}
)
"""Keys of ``[sandbox]``, which cannot be names of backends."""


def load_plugins(
    plugins: Iterable[object] = (), disabled: Sequence[str] = ()
) -> pluggy.PluginManager:
    """Return a plugin manager with the built-ins, the installed plugins and `plugins`.

    Raises `ConfigError` for an unknown name in `disabled`, and `PluginError` for a plugin that
    cannot be imported, clashes with another, has no hook, or has a hook that is unknown, not
    decorated or asynchronous.
    """
    manager = empty_manager()
    _check_sandboxes_are_ours()
    for module in BUILTIN.values():
        manager.register(importlib.import_module(module), module)
    manager.register(importlib.import_module(ROUTES), ROUTES)
    for one in selected(disabled):
        plugin = one.load()
        with one.blamed():
            register(manager, plugin, one.name)
    if isinstance(plugins, str) or not isinstance(plugins, Iterable):
        raise PluginError(
            f"plugins = {plugins!r}: pass a list of instances or modules, as [Mine()]"
        )
    for plugin in plugins:
        register(manager, plugin, None)
    return manager


def empty_manager() -> pluggy.PluginManager:
    """Return a manager that knows the hooks, and no plugin."""
    manager = pluggy.PluginManager("streamer")
    manager.add_hookspecs(hookspecs)
    return manager


def load_backends(
    manager: pluggy.PluginManager, options: Mapping[str, Mapping[str, object]]
) -> dict[str, Backend]:
    """Return every backend by name, with its options from ``[sandbox.NAME]``.

    Raises `PluginError` for a malformed backend or a name given twice, `ConfigError` for an option
    that is unknown or has the wrong type.
    """
    classes: dict[str, type[Backend]] = {}
    for cls in backend_classes(manager):
        if cls.name in classes:
            raise PluginError(
                f"two backends are named {cls.name!r}: in {classes[cls.name].__module__} "
                f"and in {cls.__module__}: uninstall one"
            )
        classes[cls.name] = cls
    missing = sorted(BUILTIN.keys() - classes.keys())
    if missing:
        raise PluginError(f"the built-in backends {missing} are missing: reinstall the package")
    for name in options:
        if name not in classes:
            raise ConfigError(
                f"sandbox.{name}: unknown key, and no backend has this name"
                f"{did_you_mean(name, classes)}; backends here: {', '.join(sorted(classes))}"
            )
    return {
        name: configured(cls, options.get(name, {}), f"sandbox.{name}")
        for name, cls in classes.items()
    }


def backend_classes(manager: pluggy.PluginManager) -> Iterator[type[Backend]]:
    """Yield the checked backends of all plugins, those of the built-in ones first.

    Each plugin is asked alone, so that it can be named: raises `PluginError`. Where one wraps the
    others they are asked together.
    """
    hooks = manager.hook.streamer_backends.get_hookimpls()
    if any(hook.wrapper or hook.hookwrapper for hook in hooks):
        # pluggy calls the last registered plugin first; here the built-ins come first.
        for group in reversed(manager.hook.streamer_backends()):
            yield from _checked(group)
        return
    for hook in hooks:
        with _named(hook.plugin_name):
            group = hook.function()
            if group is not None:  # which pluggy leaves out
                yield from _checked(group)


def _checked(group: object) -> list[type[Backend]]:
    if not isinstance(group, list | tuple):
        raise PluginError(
            f"streamer_backends returned {group!r}: return a list of classes, as [MyBackend]"
        )
    for cls in group:
        _check_backend(cls)
    return list(group)


@contextmanager
def _named(name: str | None) -> Iterator[None]:
    """Name the installed plugin in each error, if it is one; a host knows what it has passed."""
    try:
        yield
    except Exception:
        for one in installed():
            if one.name == name:
                with one.blamed():
                    raise
        raise


def register(manager: pluggy.PluginManager, plugin: object, name: str | None) -> None:
    """Add a plugin that has at least one hook, and only hooks that are called.

    Raises `PluginError`.
    """
    label = name or str(getattr(plugin, "__name__", repr(plugin)))
    if inspect.isclass(plugin):
        raise PluginError(f"plugin {label} is a class: pass an instance, {label}()")
    _check_marks(plugin, label)
    try:
        manager.register(plugin, name)
        # A hook may have another name than its function (`specname`).
        manager.check_pending()
    except (ValueError, pluggy.PluginValidationError) as error:
        raise PluginError(f"plugin {label} cannot be registered: {error}") from error
    hooks = [
        hook
        for caller in manager.get_hookcallers(plugin) or ()
        for hook in caller.get_hookimpls()
        if hook.plugin is plugin
    ]
    if not hooks:
        raise PluginError(
            f"plugin {label} has no hook: write a function such as streamer_backends() and "
            f"decorate it with @streamer.hookimpl; known: {', '.join(hookspecs.__all__)}"
        )
    for hook in hooks:
        if inspect.iscoroutinefunction(hook.function) or inspect.isasyncgenfunction(hook.function):
            raise PluginError(
                f"plugin {label}: {hook.function.__name__} is async; hooks are plain functions"
            )


def _check_marks(plugin: object, label: str) -> None:
    for attribute in dir(plugin):
        if not attribute.startswith(HOOK_PREFIX):
            continue
        hook = getattr(plugin, attribute)
        if not callable(hook) or inspect.isclass(hook):
            continue
        # pluggy ignores an undecorated function: an authorization rule would have no effect.
        if not hasattr(hook, "streamer_impl"):
            raise PluginError(
                f"plugin {label}: {attribute} is not decorated: add @streamer.hookimpl"
            )
        if not hasattr(hookspecs, attribute):
            raise PluginError(
                f"plugin {label}: unknown hook {attribute}"
                f"{did_you_mean(attribute, hookspecs.__all__)}"
            )


def _check_sandboxes_are_ours() -> None:
    spec = importlib.util.find_spec("sandboxes")
    ours = Path(__file__).resolve().parent.parent / "sandboxes"
    found = [Path(place).resolve() for place in (spec and spec.submodule_search_locations) or ()]
    if found != [ours]:
        raise PluginError(
            f"the package sandboxes is {[str(place) for place in found]}, not {ours}: another "
            "distribution or the working directory shadows the sandboxes of streamer; "
            "remove it, or start from another directory"
        )


def _check_backend(cls: object) -> None:
    if not (isinstance(cls, type) and issubclass(cls, Backend)):
        raise PluginError(f"streamer_backends returned {cls!r}, which is not a subclass of Backend")
    where = f"backend {cls.__module__}.{cls.__qualname__}"
    if not isinstance(getattr(cls, "name", None), str):
        raise PluginError(f"{where} has no name: set `name: ClassVar[str] = ...`")
    if not isinstance(getattr(cls, "isolation", None), Isolation):
        raise PluginError(f"{where} has no isolation: set `isolation: ClassVar[Isolation] = ...`")
    if not BACKEND_NAME.fullmatch(cls.name):
        # Otherwise no environment variable could name it.
        raise PluginError(f"{where}: the name {cls.name!r} is not of the form [a-z][a-z0-9_]*")
    if cls.name in RESERVED:
        raise PluginError(f"{where}: sandbox.{cls.name} is a setting: take another name")
    if cls.ahead not in AHEAD:
        raise PluginError(f"{where}: ahead is {cls.ahead!r}: set it to one of {', '.join(AHEAD)}")
    if inspect.isabstract(cls):
        raise PluginError(f"{where} does not implement {sorted(cls.__abstractmethods__)}")
    _check_methods(cls, where)


def _check_methods(cls: type[Backend], where: str) -> None:
    if not inspect.iscoroutinefunction(cls.probe):
        raise PluginError(f"{where}: probe is not async: write `async def probe(self, host)`")
    for plain in ("plan", "template_plan", "run_as", "explain"):
        if inspect.iscoroutinefunction(getattr(cls, plain)):
            raise PluginError(f"{where}: {plain} is async: write `def {plain}(self, ...)`")
    if inspect.isasyncgenfunction(cls.session) or inspect.iscoroutinefunction(cls.session):
        raise PluginError(
            f"{where}: session is not a context manager: decorate it with "
            "@contextlib.asynccontextmanager"
        )
