"""The sections ``[auth]`` and ``[metrics]``: tokens are checked to be digests and never printed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from streamer.config.section import NotNegative, Positive, SecondsOrNone, Section, Text
from streamer.config.tree import check_keys, explain
from streamer.errors import ConfigError
from streamer.model.scopes import DEFAULT_SCOPES, Scope

if TYPE_CHECKING:
    from limits import RateLimitItem

__all__ = [
    "AuthConfig",
    "MetricsConfig",
    "TenantConfig",
    "TokenConfig",
    "check_rate",
    "parse_rate",
    "read_tenants",
]

FAILED_LOGINS: Final = "30/minute"
MOST_TAKEN: Final = 10_000
"""The most of one rate: that many times are remembered for each tenant or address."""
LONGEST_S: Final = 31 * 86_400
LEAST_SECRET_CHARS: Final = 32
HEX_DIGEST: Final = re.compile("[0-9a-fA-F]{64}")
DIGEST_REMEDY: Final = '64 hexadecimal digits; take those of: printf %s "$TOKEN" | sha256sum'


def parse_rate(key: str, text: str) -> RateLimitItem:
    """Return a rate, such as "60/minute". Raises `ConfigError`."""
    # Only here: few configurations have one, and it takes longer to import than all of this.
    from limits import parse_many  # noqa: PLC0415

    try:
        found = parse_many(text)
    except ValueError:
        found = []
    if len(found) != 1 or not (
        1 <= found[0].amount <= MOST_TAKEN and found[0].get_expiry() <= LONGEST_S
    ):
        raise ConfigError(
            f'{key}: {text!r} is not a rate; write it like "60/minute" or "10 per 30 seconds", '
            f"with at most {MOST_TAKEN} in at most 31 days"
        )
    return found[0]


def check_rate(key: str, text: str, default: str = "") -> None:
    """Check a rate that may be left out. Raises `ConfigError`."""
    if text != default:
        parse_rate(key, text)


class TokenConfig(Section, frozen=True):
    """``[[auth.tokens]]``: the digest of a token, its tenant, and what it is good for.

    The digest is not printed: with it a weak token can be guessed offline.
    """

    tenant: Text
    sha256: str
    name: str = ""
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1)] = DEFAULT_SCOPES
    expires: Annotated[datetime, Meta(tz=True)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not HEX_DIGEST.fullmatch(self.sha256):
            raise ConfigError(f"auth.tokens: sha256 of {self.tenant!r} is not {DIGEST_REMEDY}")

    def __repr__(self) -> str:
        shown = {**msgspec.structs.asdict(self), "sha256": "***"}
        return f"TokenConfig({', '.join(f'{key}={value!r}' for key, value in shown.items())})"


class TenantConfig(Section, frozen=True):
    """``[auth.tenants.NAME]``: the bounds of one tenant.

    Without one it has the share of any client (`streamer.config.shares`).
    """

    max_running: Positive | None = None
    max_waiting: Positive | None = None
    max_waiting_bytes: Positive | None = None
    max_sessions: NotNegative | None = None
    max_readers: Positive | None = None
    blob_bytes: NotNegative | None = None
    max_blobs: NotNegative | None = None
    rate: str = ""


def read_tenants(tables: object) -> dict[str, TenantConfig]:
    """Return the tables ``[auth.tenants.NAME]``. Raises `ConfigError` that names the tenant."""
    if not isinstance(tables, Mapping):
        raise ConfigError("auth.tenants: expected tables, as in [auth.tenants.NAME]")
    tenants: dict[str, TenantConfig] = {}
    for name, table in tables.items():
        place = f"auth.tenants.{name}"
        check_keys(table, TenantConfig.__struct_fields__, place)
        try:
            tenants[name] = msgspec.convert(dict(table), TenantConfig)
        except msgspec.ValidationError as error:
            key, wrong = explain(error)
            raise ConfigError(f"{place}.{key}: {wrong}") from None
        check_rate(f"{place}.rate", tenants[name].rate)
    return tenants


class AuthConfig(Section, frozen=True):
    """``[auth]``: who may use the service, and how much; without tokens, this machine's users."""

    tokens: tuple[TokenConfig, ...] = ()
    tokens_file: str = ""
    anonymous: bool = False
    grant_secret: str = ""
    grant_max_s: SecondsOrNone = 604_800.0
    rate: str = ""
    failed_logins: str = FAILED_LOGINS
    tenants: Mapping[str, TenantConfig] = {}

    @property
    def has_tokens(self) -> bool:
        """Whether callers need a token; nobody may have one yet."""
        return bool(self.tokens or self.tokens_file)

    @property
    def tells_apart(self) -> bool:
        """Whether tokens may be of several tenants. Those of a file may, whatever it has now."""
        return bool(self.tokens_file) or len({token.tenant for token in self.tokens}) > 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rate("auth.rate", self.rate)
        check_rate("auth.failed_logins", self.failed_logins, FAILED_LOGINS)
        if self.grant_secret and len(self.grant_secret) < LEAST_SECRET_CHARS:
            raise ConfigError(
                f"auth.grant_secret: write at least {LEAST_SECRET_CHARS} random characters, such "
                "as those of: openssl rand -hex 32"
            )
        if self.has_tokens and self.anonymous:
            which = "auth.tokens" if self.tokens else "auth.tokens_file"
            raise ConfigError(
                f"auth.anonymous: it admits everybody, so {which} has no effect; remove one"
            )
        owners: dict[str, str] = {}
        for token in self.tokens:
            other = owners.setdefault(token.sha256.lower(), token.tenant)
            if other != token.tenant:
                raise ConfigError(
                    f"auth.tokens: {other!r} and {token.tenant!r} have the same token; give each "
                    "its own"
                )

    def __repr__(self) -> str:
        values = msgspec.structs.asdict(self)
        values["grant_secret"] = "***" if self.grant_secret else ""
        return f"AuthConfig({', '.join(f'{key}={value!r}' for key, value in values.items())})"


class MetricsConfig(Section, frozen=True):
    """``[metrics]``: whether metrics are served, and a token that may read only them."""

    enabled: bool = True
    token_sha256: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.token_sha256 and not HEX_DIGEST.fullmatch(self.token_sha256):
            raise ConfigError(f"metrics.token_sha256: not {DIGEST_REMEDY}")

    def __repr__(self) -> str:
        hidden = "***" if self.token_sha256 else ""
        return f"MetricsConfig(enabled={self.enabled!r}, token_sha256={hidden!r})"
