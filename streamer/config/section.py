"""The base of all sections: one table of the configuration, from a file or from Python."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from streamer.config.tree import explain, with_sizes
from streamer.errors import ConfigError

__all__ = ["NotNegative", "Port", "Positive", "Seconds", "SecondsOrNone", "Section", "Text"]

Text = Annotated[str, Meta(min_length=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[int, Meta(ge=1, le=2**50)]
NotNegative = Annotated[int, Meta(ge=0, le=2**50)]
# NaN fails every comparison, so a range excludes it; 1e8 seconds are three years.
Seconds = Annotated[float, Meta(gt=0, le=1e8)]
SecondsOrNone = Annotated[float, Meta(ge=0, le=1e8)]


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """One table of the file; an unknown key is an error."""

    def __post_init__(self) -> None:
        """Check and convert values given in Python; msgspec does so for decoded ones only."""
        sizes = with_sizes(msgspec.structs.asdict(self), (type(self).__name__,))
        for field in msgspec.structs.fields(self):
            try:
                value = msgspec.convert(sizes[field.name], field.type)
            except msgspec.ValidationError as error:
                key, wrong = explain(error, f"{type(self).__name__}.{field.name}")
                raise ConfigError(f"{key}: {wrong}") from None
            msgspec.structs.force_setattr(self, field.name, value)
