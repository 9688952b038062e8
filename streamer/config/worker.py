"""The section ``[worker]``: which jobs the worker of a process takes."""

from __future__ import annotations

from collections.abc import Mapping

from streamer.config.section import Section, Text
from streamer.errors import ConfigError
from streamer.model.runtime import Runtime, by_name

__all__ = ["WorkerConfig"]


class WorkerConfig(Section, frozen=True):
    """``[worker]``: which jobs the worker of this process takes, of those that it can run."""

    languages: tuple[Text, ...] = ()
    """Names or aliases; all if there are none."""

    def taken(self, runtimes: Mapping[str, Runtime]) -> Mapping[str, Runtime]:
        """Return those of the languages whose jobs it takes, by name. Raises `ConfigError`."""
        if not self.languages:
            return runtimes
        known = by_name(runtimes)
        for name in self.languages:
            if name not in known:
                names = ", ".join(sorted(runtimes))
                raise ConfigError(f"worker.languages: unknown language {name!r}; known: {names}")
        return {known[name].name: known[name] for name in self.languages}
