"""The sections ``[auth]`` and ``[metrics]``: tokens are checked to be digests and never printed."""

from __future__ import annotations

import re
from typing import Final

from streamer.config.section import Section, Text
from streamer.errors import ConfigError

__all__ = ["AuthConfig", "MetricsConfig", "TokenConfig"]

HEX_DIGEST: Final = re.compile("[0-9a-fA-F]{64}")
DIGEST_REMEDY: Final = '64 hexadecimal digits; take those of: printf %s "$TOKEN" | sha256sum'


class TokenConfig(Section, frozen=True):
    """``[[auth.tokens]]``: the digest of a token and its tenant.

    The digest is not printed: with it a weak token can be guessed offline.
    """

    tenant: Text
    sha256: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not HEX_DIGEST.fullmatch(self.sha256):
            raise ConfigError(f"auth.tokens: sha256 of {self.tenant!r} is not {DIGEST_REMEDY}")

    def __repr__(self) -> str:
        return f"TokenConfig(tenant={self.tenant!r}, sha256='***')"


class AuthConfig(Section, frozen=True):
    """``[auth]``: who may use the service; without tokens, callers on this machine."""

    tokens: tuple[TokenConfig, ...] = ()
    anonymous: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokens and self.anonymous:
            raise ConfigError(
                "auth.anonymous: it admits everybody, so auth.tokens has no effect; remove one"
            )
        owners: dict[str, str] = {}
        for token in self.tokens:
            other = owners.setdefault(token.sha256.lower(), token.tenant)
            if other != token.tenant:
                raise ConfigError(
                    f"auth.tokens: {other!r} and {token.tenant!r} have the same token; give each "
                    "its own"
                )


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
