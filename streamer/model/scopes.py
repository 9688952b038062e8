"""What a token may be good for."""

from __future__ import annotations

from typing import Final, Literal, get_args

__all__ = ["DEFAULT_SCOPES", "SCOPES", "Scope"]

Scope = Literal["run", "read", "upload", "metrics"]
"""``run``: submit jobs and open sessions, send them input and signals, end them; ``read``: see
them and their files; ``upload``: store and delete projects; ``metrics``: read the metrics, which
are those of all tenants."""

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

DEFAULT_SCOPES: Final[tuple[Scope, ...]] = ("run", "read", "upload")
