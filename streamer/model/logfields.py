"""Say which job a line of the log is about: where lines are JSON, by fields of their own."""

from __future__ import annotations

from typing import Any

__all__ = ["about"]


def about(job_id: str, tenant: str | None = None) -> dict[str, Any]:
    """Return the argument `extra` of a call of `logging`."""
    fields = {"job_id": job_id}
    if tenant is not None:
        fields["tenant"] = tenant
    return {"fields": fields}
