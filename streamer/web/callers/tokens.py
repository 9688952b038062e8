"""The tokens that are valid now: of the configuration, and of a file that may change."""

from __future__ import annotations

import asyncio
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
        self._reading: asyncio.Task[None] | None = None
        if self._path is not None:
            self._take(*self._read(self._path))
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

    async def look(self) -> None:
        """Read the file again if it has changed. Looking takes some microseconds.

        A large one takes 50 ms and more, so it is read in a thread. Who has sent a token waits for
        that: the file may say that this one is revoked.
        """
        # The reading that goes on may have begun before the last change; the one after it has not.
        for _ in range(2):
            if self._path is None or (stamp := self._stamp_now(self._path)) == self._stamp:
                return
            if self._reading is None:
                self._reading = asyncio.create_task(self._read_again(self._path, stamp))
                self._reading.add_done_callback(self._has_read)
            # Who leaves meanwhile must not make others begin anew.
            await asyncio.shield(self._reading)

    def find(self, token: str) -> Token | None:
        """Return what a token is good for, though it may have expired; None if it is unknown.

        It knows what the file had at the last `look`.
        """
        digest = hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()
        name = self._name(digest)
        return self._fixed.get(name) or self._stored.get(name)

    def _name(self, digest: str) -> bytes:
        # What a table compares takes a time that tells something, but nothing of a digest this way:
        # the key is of this process.
        return hmac.digest(self._key, digest.lower().encode(), "sha256")

    def _stamp_now(self, path: Path) -> tuple[int, ...] | None:
        stamp = None
        try:
            stamp = stamp_of(path.stat())
        except FileNotFoundError:
            pass
        except OSError as error:
            self._tell(f"auth.tokens_file: {path}: {error.strerror}")
            return self._stamp
        if stamp == self._stamp and self._trouble:
            self._tell(self._trouble)
        return stamp

    async def _read_again(self, path: Path, stamp: tuple[int, ...] | None) -> None:
        try:
            found, stored = await asyncio.to_thread(self._read, path)
        except ConfigError as error:
            # What cannot be read now, for want of a descriptor perhaps, is read again soon: it may
            # say that a token is revoked.
            if not isinstance(error.__cause__, OSError):
                self._stamp = stamp
            self._tell(error.message)
            return
        self._trouble = ""
        self._take(found, stored)
        if found.stamp is None:
            log.error("auth.tokens_file: %s is gone, so it admits nobody", path)
        else:
            log.info("auth.tokens_file: read %s again: %d tokens", path, len(found.tokens))

    def _has_read(self, _: asyncio.Task[None]) -> None:
        self._reading = None

    def _read(self, path: Path) -> tuple[TokensFile, dict[bytes, Token]]:
        """Return what is in the file, and its tokens by their names. Raises `ConfigError`."""
        found = read_tokens(path)
        return found, {
            self._name(one.sha256): _token(one.tenant, one.scopes, one.expires)
            for one in found.tokens
        }

    def _take(self, found: TokensFile, stored: dict[bytes, Token]) -> None:
        self._stamp, self._stored = found.stamp, stored
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
