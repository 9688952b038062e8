"""The tokens that are valid now: of the configuration, and of a file that may change."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from streamer.config.auth import AuthConfig
from streamer.config.tokens import TokensFile, read_tokens, stamp_of
from streamer.errors import ConfigError
from streamer.model.scopes import Scope

__all__ = ["Token", "Tokens"]

log: Final = logging.getLogger(__name__)

SAY_AGAIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Token:
    tenant: str
    scopes: frozenset[Scope]
    expires: float | None
    """In seconds since the epoch."""

    @property
    def expired(self) -> bool:
        return self.expires is not None and self.expires <= time.time()


class Tokens:
    """Finds tokens. Raises `ConfigError` if their file is broken at the start.

    If it is later, what it had before holds on, without what has expired meanwhile: nobody comes in
    whom it did not admit, and those whom it did are not shut out by a slip. The log says so. A file
    that is removed admits nobody.
    """

    def __init__(self, config: AuthConfig) -> None:
        self._key = secrets.token_bytes(32)
        self._fixed = {
            self._name(one.sha256): _token(one.tenant, one.scopes, one.expires)
            for one in config.tokens
        }
        self._path = Path(config.tokens_file) if config.tokens_file else None
        self._stored: dict[bytes, Token] = {}
        self._stamp: tuple[int, ...] | None = None
        self._trouble = ""
        self._said = 0.0
        if self._path is not None:
            self._take(read_tokens(self._path))
            if self._stamp is None:
                log.warning(
                    "auth.tokens_file: there is no %s yet, so it admits nobody: "
                    "streamer token create --tenant NAME",
                    self._path,
                )

    @property
    def tenants(self) -> frozenset[str]:
        """The tenants of the tokens that were known when the file was looked at last."""
        return frozenset(one.tenant for one in (*self._fixed.values(), *self._stored.values()))

    def find(self, token: str) -> Token | None:
        """Return what a token is good for, though it may have expired; None if it is unknown."""
        self._look()
        digest = hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()
        name = self._name(digest)
        return self._fixed.get(name) or self._stored.get(name)

    def _name(self, digest: str) -> bytes:
        # What a table compares takes a time that tells something, but nothing of a digest this way:
        # the key is of this process.
        return hmac.digest(self._key, digest.lower().encode(), "sha256")

    def _look(self) -> None:
        """Read the file again if it has changed; looking takes a few microseconds."""
        if self._path is None:
            return
        try:
            stamp = stamp_of(self._path.stat())
        except FileNotFoundError:
            stamp = None
        except OSError as error:
            self._tell(f"auth.tokens_file: {self._path}: {error.strerror}")
            return
        if stamp != self._stamp:
            self._read(stamp)
        elif self._trouble:
            self._tell(self._trouble)

    def _read(self, stamp: tuple[int, ...] | None) -> None:
        assert self._path is not None
        try:
            found = read_tokens(self._path)
        except ConfigError as error:
            # What cannot be read now, for want of a descriptor perhaps, is read again soon: it may
            # say that a token is revoked.
            if not isinstance(error.__cause__, OSError):
                self._stamp = stamp
            self._tell(error.message)
            return
        self._trouble = ""
        self._take(found)
        if found.stamp is None:
            log.error("auth.tokens_file: %s is gone, so it admits nobody", self._path)
        else:
            log.info("auth.tokens_file: read %s again: %d tokens", self._path, len(found.tokens))

    def _take(self, found: TokensFile) -> None:
        self._stamp = found.stamp
        self._stored = {
            self._name(one.sha256): _token(one.tenant, one.scopes, one.expires)
            for one in found.tokens
        }
        if found.exposed:
            log.warning(
                "auth.tokens_file: other accounts may read %s, which has digests of tokens: "
                "chmod 600",
                self._path,
            )

    def _tell(self, trouble: str) -> None:
        """Log what is wrong with the file, now and then."""
        now = time.monotonic()
        if trouble != self._trouble or now - self._said >= SAY_AGAIN_S:
            self._trouble, self._said = trouble, now
            log.error("%s; the tokens that it had before are still valid", trouble)


def _token(tenant: str, scopes: Iterable[Scope], expires: datetime | None) -> Token:
    return Token(tenant, frozenset(scopes), None if expires is None else expires.timestamp())
