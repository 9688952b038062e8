"""The section ``[webhooks]``: whether the ends of jobs are told to others, and how."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from streamer.config.section import Positive, Seconds, Section, Text
from streamer.errors import ConfigError
from streamer.model.hosts import Place
from streamer.model.job import MIB

__all__ = ["WebhooksConfig", "secret_bytes"]

PREFIX: Final = "whsec_"
REMEDY: Final = f"make one by: printf '{PREFIX}%s\\n' \"$(openssl rand -base64 32)\""
LEAST_BYTES: Final = 24
MOST_BYTES: Final = 64
HIDDEN: Final = ("secrets", "tenant_secrets")


def secret_bytes(text: str) -> bytes:
    """Return the key of a secret as Standard Webhooks writes it. Raises ValueError."""
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not text.startswith(PREFIX) or not LEAST_BYTES <= len(key) <= MOST_BYTES:
        raise ValueError(f"{PREFIX} and base64 of {LEAST_BYTES} to {MOST_BYTES} bytes")
    return key


class WebhooksConfig(Section, frozen=True):
    """``[webhooks]``: secrets are never printed."""

    enabled: bool = False
    secrets: tuple[Text, ...] = ()
    tenant_secrets: Mapping[str, tuple[Text, ...]] = {}
    allow_hosts: tuple[Text, ...] = ()
    max_pending: Positive = 10_000
    max_pending_bytes: Positive = 128 * MIB
    max_tries: Annotated[int, Meta(ge=1, le=100)] = 8
    first_pause_s: Seconds = 5.0
    max_pause_s: Seconds = 3600.0
    timeout_s: Annotated[float, Meta(gt=0, le=300)] = 10.0
    concurrency: Annotated[int, Meta(ge=1, le=1000)] = 32
    max_per_host: Annotated[int, Meta(ge=1, le=1000)] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.secrets, "webhooks.secrets")
        for tenant, own in self.tenant_secrets.items():
            _check(own, f"webhooks.tenant_secrets.{tenant}")
        if self.enabled and not self.secrets:
            raise ConfigError(f"webhooks.secrets: none sign the requests; {REMEDY}")
        for entry in self.allow_hosts:
            try:
                Place.parse(entry, 0)  # 0 is no port: it stands for all
            except ValueError as error:
                reason = "this is a URL" if "/" in entry else error
                raise ConfigError(
                    f"webhooks.allow_hosts: {entry!r}: {reason}; write a host such as "
                    "hooks.example.org, perhaps with a port, without http:// or a path"
                ) from None

    def __repr__(self) -> str:
        values = msgspec.structs.asdict(self) | dict.fromkeys(HIDDEN, "***")
        return f"WebhooksConfig({', '.join(f'{key}={value!r}' for key, value in values.items())})"


def _check(secrets: Iterable[str], key: str) -> None:
    for secret in secrets:
        try:
            secret_bytes(secret)
        except ValueError as error:
            raise ConfigError(f"{key}: a secret is {error}; {REMEDY}") from None
