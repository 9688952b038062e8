"""The plugins that are installed with pip: found by their entry points, and named if they fail.

Whoever starts a service seldom knows which package brought a plugin, so each message about one
names its distribution, and what can be done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from itertools import pairwise
from typing import Final

from streamer.config.options import did_you_mean
from streamer.errors import ConfigError, PluginError

__all__ = ["ENTRY_POINT_GROUP", "Installed", "installed", "selected"]

ENTRY_POINT_GROUP: Final = "aiohttp_streamer.plugins"


@dataclass(frozen=True, slots=True)
class Installed:
    """One plugin: the name of its entry point, and the distribution that has it."""

    point: EntryPoint

    @property
    def name(self) -> str:
        return self.point.name

    @property
    def distribution(self) -> str:
        return self.point.dist.name if self.point.dist is not None else "an unknown distribution"

    @property
    def version(self) -> str:
        return self.point.dist.version if self.point.dist is not None else ""

    def is_in(self, names: Sequence[str]) -> bool:
        """Return whether it is among the names, of plugins or of distributions."""
        return self.name in names or self.distribution in names

    def load(self) -> object:
        """Import it. Raises `PluginError`, whatever happens."""
        try:
            return self.point.load()
        except (Exception, SystemExit) as error:
            what = f"{type(error).__name__}: {error}"
            raise PluginError(
                f"plugin {self} cannot be imported: {what}: {self._remedy}"
            ) from error

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Raise `PluginError` that names it for any error in the block."""
        try:
            yield
        except PluginError as error:
            if str(self) in str(error):
                raise
            raise PluginError(f"{error}: from {self}: {self._remedy}") from error
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise PluginError(f"plugin {self} failed: {what}: {self._remedy}") from error

    @property
    def _remedy(self) -> str:
        return f"fix or uninstall it, or list {self.name!r} in plugins.disabled"

    def __str__(self) -> str:
        return f"{self.name!r} of {' '.join(filter(None, (self.distribution, self.version)))}"


def installed() -> list[Installed]:
    """Return what is installed, by name."""
    found = entry_points(group=ENTRY_POINT_GROUP)
    return sorted(map(Installed, found), key=lambda one: (one.name, one.distribution))


def selected(disabled: Sequence[str]) -> list[Installed]:
    """Return what is to be loaded: all but `disabled`.

    Raises `ConfigError` for an unknown name in that, and `PluginError` if two have the same name.
    """
    found = installed()
    known = {name for one in found for name in (one.name, one.distribution)}
    for name in disabled:
        if name not in known:
            # If it were ignored, a misspelt name would load the plugin.
            raise ConfigError(
                f"plugins.disabled: no installed plugin or distribution is named {name!r}"
                f"{did_you_mean(name, known)}; installed: {', '.join(sorted(known)) or 'none'}"
            )
    wanted = [one for one in found if not one.is_in(disabled)]
    for one, other in pairwise(wanted):
        if one.name == other.name:
            raise PluginError(
                f"two plugins are named {one.name!r}, of {one.distribution} and of "
                f"{other.distribution}: uninstall one, or list its distribution in plugins.disabled"
            )
    return wanted
